"""The same as the readable functions of model.py or torch that they name, faster or in less memory. Tests hold them equal."""
from functools import cache
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

ALIGN = 32  # oneDNN prepares for every new size of a product, longer than it multiplies: round slices up to few sizes
FEW = 16    # in decoding so few tokens are worth asking every expert: reading its weights takes longer than the products

# ---- attention and loss ---------------------------------------------------------------------------------------------------


def kernel_pays(q, k):
    """Whether torch's attention kernel beats model.attention: not on a CPU while the scores are few, or in bfloat16.

    There model.attention takes up to 100 MiB a layer for its scores; --recompute keeps none of them.
    """
    scores = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]
    return q.device.type != "cpu" or scores > (2**24 if q.dtype == torch.bfloat16 else 2**19)


def attention_kernel(q, k, v):
    """The same as model.attention, never holding all scores."""
    T, S, mask = q.shape[2], k.shape[2], None
    if 1 < T < S:  # several new tokens after cached ones: is_causal would align the mask to the wrong corner
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=T == S, enable_gqa=q.shape[1] != k.shape[1])


class CrossEntropy(torch.autograd.Function):
    """F.cross_entropy(logits, targets, ignore_index=-1), with fewer passes over the logits."""

    @staticmethod
    def forward(ctx, logits, targets):
        logp = logits.log_softmax(-1)
        ctx.save_for_backward(logp, targets)
        return F.nll_loss(logp, targets, ignore_index=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        logp, targets = ctx.saved_tensors
        kept = targets != -1
        p = logp.exp().scatter_add_(1, targets.clamp_min(0)[:, None], -torch.ones_like(logp[:, :1]))
        return p.mul_((grad / kept.sum().clamp_min(1) * kept)[:, None]), None


def cross_entropy(logits, targets):
    """Mean cross-entropy in nats over the targets that are not -1. logits: (M, V); targets: (M,). Returns a scalar."""
    if logits.device.type == "cpu" and logits.requires_grad and not torch.compiler.is_compiling():
        return CrossEntropy.apply(logits, targets)
    return F.cross_entropy(logits, targets, ignore_index=-1)


def chunked_cross_entropy(x, head, targets, chunk):
    """cross_entropy(head(x), targets), with the logits of `chunk` tokens at a time, in both passes.

    x: (M, C); targets: (M,). Returns a scalar.
    """
    def total(x, targets):
        logits = head(x).to(torch.promote_types(x.dtype, torch.float32))
        return F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum")
    parts = [checkpoint(total, *part, use_reentrant=False) for part in zip(x.split(chunk), targets.split(chunk), strict=True)]
    return sum(parts) / (targets != -1).sum()


# ---- products with weights ------------------------------------------------------------------------------------------------


@cache
def mkl_is_slow():
    """Whether torch's float32 products run at half speed: Intel's library uses no AVX-512 on AMD's processors; oneDNN does."""
    cpu = Path("/proc/cpuinfo")
    return (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
            and torch.backends.cpu.get_cpu_capability() == "AVX512"
            and cpu.exists() and "AuthenticAMD" in cpu.read_text() and hasattr(torch.ops.mkldnn, "_linear_pointwise"))


def by_onednn(x, w):
    """Whether oneDNN shall multiply x, (..., a), by w, (b, a), or each slice of x by one of w, (N, b, a).

    In a small product its preparations take longer than the rest.
    """
    size = x.numel() * w.shape[-2] // (len(w) if w.ndim == 3 else 1)
    return (not torch.compiler.is_compiling() and size >= 2**23 and x.dtype == torch.float32 and x.device.type == "cpu"
            and not torch.is_autocast_enabled("cpu") and mkl_is_slow())


def onednn_linear(x, w):
    return torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")


def onednn_weight_gradient(dy, x, w):
    return torch.ops.aten.mkldnn_linear_backward(x.to_mkldnn(), dy.to_mkldnn(), w, [False, True, False])[1]


class OneDNNLinear(torch.autograd.Function):
    """F.linear in float32, by oneDNN."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return onednn_linear(x, w)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        dx = onednn_linear(dy, w.mT) if ctx.needs_input_grad[0] else None
        return dx, onednn_weight_gradient(dy.flatten(0, -2), x.flatten(0, -2), w) if ctx.needs_input_grad[1] else None


def linear(x, w):
    """F.linear(x, w)."""
    return OneDNNLinear.apply(x, w) if by_onednn(x, w) else F.linear(x, w)


class Linear(nn.Linear):
    """nn.Linear without a bias."""

    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out, bias=False)

    def forward(self, x):
        return linear(x, self.weight)


# ---- products of slices with the weights of their experts -----------------------------------------------------------------


class GroupedLinear(torch.autograd.Function):
    """F.linear of each slice of x and its w[i]. x: (S, a); w: (N, b, a); sizes: N and the rest. Returns (S, b), 0 in the rest."""

    @staticmethod
    def forward(ctx, x, w, sizes):
        ctx.save_for_backward(x, w)
        ctx.sizes = sizes
        return GroupedLinear.products(x, w, sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        (x, w), dx, dw = ctx.saved_tensors, None, None
        if ctx.needs_input_grad[0]:
            dx = GroupedLinear.products(dy, w.mT, ctx.sizes)
        if ctx.needs_input_grad[1]:
            dw, onednn = torch.empty_like(w), by_onednn(x, w)
            for dy_i, x_i, w_i, dw_i in zip(dy.split(ctx.sizes), x.split(ctx.sizes), w, dw, strict=False):
                if onednn:
                    dw_i.copy_(onednn_weight_gradient(dy_i, x_i, w_i))
                else:
                    torch.mm(dy_i.T, x_i, out=dw_i)
        return dx, dw, None

    @staticmethod
    def products(x, w, sizes):
        y, onednn = x.new_empty(len(x), w.shape[1]), by_onednn(x, w)
        *slices, rest = y.split(sizes)
        for x_i, w_i, y_i in zip(x.split(sizes), w, slices, strict=False):
            if onednn:
                y_i.copy_(onednn_linear(x_i, w_i))
            else:
                torch.mm(x_i, w_i.T, out=y_i)
        rest.zero_()
        return y


def mix_grouped(x, routing, w_gate, w_up, w_down, align=None):
    """The same as model.mix_experts, all experts in one call for each matrix. On a GPU, Python need not wait for the sizes.

    align: slices are rounded up to so many rows; None: as many as pays.
    """
    (M, k), (N, _, C), device = routing.experts.shape, w_gate.shape, x.device.type
    if torch.is_autocast_enabled(device):  # autocast does not know these products
        x, w_gate, w_up, w_down = (t.to(torch.get_autocast_dtype(device)) for t in (x, w_gate, w_up, w_down))
    if M <= FEW and M * k >= N:
        return mix_all(x, routing, w_gate, w_up, w_down)
    prepares = device == "cpu" and (x.dtype == torch.bfloat16 or by_onednn(x.expand(k, M, C), w_gate))
    align = align or (ALIGN if prepares and M * k >= 2 * ALIGN * N else 1)
    sorted_experts, order = routing.experts.reshape(-1).sort(stable=True)                    # (M*k,), slot = token * k + choice
    sizes = torch.searchsorted(sorted_experts, torch.arange(N + 1, device=x.device)).diff()  # (N,)
    room = (sizes + align - 1) // align * align                                              # (N,) with rows of zeros behind
    shift = (room - sizes).cumsum(0) - (room - sizes)                                        # (N,) how far slices move for them
    rows = torch.arange(M * k, device=x.device) + shift[sorted_experts]                      # (M*k,)
    place = torch.empty_like(order).index_copy(0, order, rows)                               # (M*k,) the row of each slot
    x = x.new_zeros(M * k + N * (align - 1), C).index_copy(0, place, x.repeat_interleave(k, dim=0))
    product = grouped_product(room, len(x))
    y = product(F.silu(product(x, w_gate)) * product(x, w_up), w_down)
    y = y.index_select(0, place).view(M, k, C)
    return (routing.gates.to(y.dtype)[:, :, None] * y).sum(1)  # (M, C)


def grouped_product(sizes, n_rows):
    """A function of x (n_rows, a) and w (N, b, a): F.linear of each slice of x and its w[i]; sizes: (N,), of the slices."""
    if sizes.device.type != "cpu" or torch.compiler.is_compiling():
        ends = sizes.cumsum(0, dtype=torch.int32)
        return lambda x, w: F.grouped_mm(x, w.mT, offs=ends)
    sizes = sizes.tolist()
    sizes.append(n_rows - sum(sizes))
    return lambda x, w: GroupedLinear.apply(x, w, sizes)


def mix_all(x, routing, w_gate, w_up, w_down):
    """The same as model.mix_experts, for a few tokens and finite weights: every expert computes all of them."""
    x = x.expand(len(w_gate), *x.shape)                                                # (N, M, C)
    y = torch.bmm(F.silu(torch.bmm(x, w_gate.mT)) * torch.bmm(x, w_up.mT), w_down.mT)  # (N, M, C)
    return (routing.dense_gates().to(y.dtype).T[:, :, None] * y).sum(0)                # (M, C)


def can_group(x, w):
    """Whether mix_grouped takes these, more than one token; F.grouped_mm, if there is one, wants bfloat16 in whole 16 bytes."""
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        return len(x) > 1
    bf16 = torch.is_autocast_enabled(x.device.type) or x.dtype == torch.bfloat16
    return len(x) > 1 and bf16 and hasattr(F, "grouped_mm") and w.shape[1] % 8 == w.shape[2] % 8 == 0
