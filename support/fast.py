"""Compute model.py's ff_moe faster on a GPU: one call for each of the three matrices computes all experts.

    fast.install(model)  # what --fast does; tests compare values and gradients with those of the readable sum

The tokens are sorted by expert, so that the tokens of one expert are a slice of rows. torch's grouped product
multiplies each slice by the matrix of its expert. It needs widths that are multiples of 8 (16 bytes in bfloat16).
"""
import torch
import torch.nn.functional as F

from cli import BadInput


def install(model):
    """Let every MoE layer of a GPT use this file's ff_moe. Raises BadInput if the widths do not allow it."""
    if model.config.n_embd % 8 or model.config.d_ff % 8:
        raise BadInput(f"--fast: n_embd {model.config.n_embd} and d_ff {model.config.d_ff} must be multiples of 8")
    for block in model.blocks:
        block.ff.ff_moe = ff_moe


def ff_moe(x, routing, w_gate, w_up, w_down):
    """FF_MoE(x) = sum_i g_i(W_l x) FF_i(x) (3.2); arguments and result as in model.ff_moe."""
    device = x.device.type
    if torch.is_autocast_enabled(device):  # autocast does not know grouped products
        x, w_gate, w_up, w_down = (t.to(torch.get_autocast_dtype(device)) for t in (x, w_gate, w_up, w_down))
    M, k = routing.experts.shape
    N = w_gate.shape[0]
    # slot token * k + choice is one choice of one token; after sorting by expert, each expert's slots are contiguous
    expert, slots = routing.experts.flatten().short().sort(stable=True)  # (M*k,) each; int16 sorts faster
    all_experts = torch.arange(N, device=x.device, dtype=torch.int16)
    ends = torch.searchsorted(expert, all_experts, right=True, out_int32=True)  # (N,) where the slices end
    rows = x.index_select(0, slots // k)                       # (M*k, D) the tokens of the slots
    gate = F.grouped_mm(rows, w_gate.mT, offs=ends)            # (M*k, d_ff)
    up = F.grouped_mm(rows, w_up.mT, offs=ends)                # (M*k, d_ff)
    y = F.grouped_mm(F.silu(gate) * up, w_down.mT, offs=ends)  # (M*k, D)
    places = torch.empty_like(slots).scatter_(0, slots, torch.arange(M * k, device=x.device))  # the inverse of slots
    y = y.index_select(0, places).view(M, k, -1)               # (M, k, D) in the order of the tokens again
    return (routing.gates[:, :, None] * y).sum(1)              # (M, D)
