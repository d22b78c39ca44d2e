"""The same as the readable functions of model.py that they name, faster or in less memory. Tests hold them equal."""
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint


def swiglu_grouped(x, ends, w_gate, w_up, w_down):
    """The same as model.swiglu_loop, all experts in one call for each matrix. On a GPU, Python need not wait for the sizes."""
    def linear(x, w):  # autocast does not know grouped_mm
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        return F.grouped_mm(x.to(dtype), w.to(dtype).transpose(1, 2), offs=ends.int())
    return linear(F.silu(linear(x, w_gate)) * linear(x, w_up), w_down)


def can_group(x, w):
    """Whether F.grouped_mm takes these: there is one, rows are of whole 16 bytes, no float64; torch.compile wants bfloat16."""
    bf16 = torch.is_autocast_enabled(x.device.type) or x.dtype == torch.bfloat16
    fits = bf16 or x.dtype == torch.float32 and not torch.compiler.is_compiling()
    return hasattr(F, "grouped_mm") and fits and w.shape[1] % 8 == w.shape[2] % 8 == 0


def chunked_cross_entropy(x, head, targets, chunk):
    """F.cross_entropy(head(x), targets, ignore_index=-1), with the logits of `chunk` tokens at a time, in both passes.

    x: (M, C); targets: (M,). Returns a scalar.
    """
    def total(x, targets):
        return F.cross_entropy(head(x).float(), targets, ignore_index=-1, reduction="sum")
    parts = [checkpoint(total, *part, use_reentrant=False) for part in zip(x.split(chunk), targets.split(chunk), strict=True)]
    return sum(parts) / (targets != -1).sum()
