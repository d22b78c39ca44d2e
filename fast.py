"""The same as the readable functions of model.py or torch that they name, faster or in less memory. Tests hold them equal."""
from contextlib import contextmanager, nullcontext
from functools import cache, wraps

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from devices import cpu_info

# from so many multiplications on oneDNN is faster than MKL: for a slice, for a layer, for a gradient of weights
SLICE, LAYER, WEIGHTS = 2**22, 2**23, 2**24
MATRIX = 2**18  # and for any number of rows if the matrix has so many numbers: oneDNN reads it in half the time
ALIGN = 32  # oneDNN prepares for every new size of a product, longer than it multiplies: round slices up to few sizes
FEW = 16    # in decoding so few tokens are worth asking every expert: reading its weights takes longer than the products


def once_differentiable(backward):
    """For a backward pass without one of its own. torch's decorator of this name lets some second derivatives pass, wrong."""
    @wraps(backward)
    def once(ctx, *grads):
        if torch.is_grad_enabled():  # as it is in a backward pass with create_graph=True alone
            raise RuntimeError("fast.py has no second derivatives")
        return backward(ctx, *grads)
    return once


def eager_on_cpu(x):
    """Whether fewer calls are faster, and Python may look at numbers: on a CPU, without a compiler."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


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
    if logits.requires_grad and eager_on_cpu(logits):
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
    """Whether torch's float32 products run at half speed: Intel's library uses no AVX-512 on AMD's processors; oneDNN does.

    Family 26, Zen 5, is the first that computes 512 bits at a time; before it nothing is lost.
    """
    cpu = cpu_info()
    return (cpu.get("vendor_id") == "AuthenticAMD" and int(cpu["cpu family"]) >= 26
            and torch.backends.cpu.get_cpu_capability() == "AVX512"
            and torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
            and hasattr(torch.ops.mkldnn, "_linear_pointwise"))


def by_onednn(x, numbers, least=LAYER, rows=None):
    """Whether oneDNN shall multiply x by a matrix of so many numbers; rows: how many, if not all of x's.

    It shall from `least` multiplications or MATRIX numbers on.
    """
    rows = x.numel() // x.shape[-1] if rows is None else rows
    return (eager_on_cpu(x) and (rows * numbers >= least or numbers >= MATRIX) and x.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu") and mkl_is_slow())


def product(x, w, onednn, out=None):
    """F.linear(x, w), written to `out` if there is one; x must be a matrix if it is not for oneDNN."""
    if not onednn:
        return torch.mm(x, w.T, out=out)
    y = torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")
    return y if out is None else out.copy_(y)


def weight_gradient(dy, x, onednn, out=None):
    """The gradient of w, (b, a), where that of product(x, w) is dy. x: (M, a); dy: (M, b)."""
    if not onednn:
        return torch.mm(dy.T, x, out=out)
    w = x.new_empty(dy.shape[1], x.shape[1]) if out is None else out  # for its shape
    dw = torch.ops.aten.mkldnn_linear_backward(x.to_mkldnn(), dy.to_mkldnn(), w, [False, True, False])[1]
    return dw if out is None else out.copy_(dw)


class OneDNNLinear(torch.autograd.Function):
    """F.linear in float32, by oneDNN."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return product(x, w, onednn=True)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        dx = product(dy, w.mT, onednn=True) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return dx, None
        return dx, weight_gradient(dy.flatten(0, -2), x.flatten(0, -2), x.numel() * len(w) >= WEIGHTS)


def linear(x, w):
    """F.linear(x, w)."""
    return OneDNNLinear.apply(x, w) if by_onednn(x, w.numel()) else F.linear(x, w)


class Linear(nn.Linear):
    """nn.Linear without a bias."""

    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out, bias=False)

    def reset_parameters(self):
        """GPT.init_weights draws, from its own generator."""

    def forward(self, x):
        return linear(x, self.weight)


# ---- mixtures of experts --------------------------------------------------------------------------------------------------


def mix_experts(x, routing, w_gate, w_up, w_down):
    """The same as model.mix_experts, by whichever of the following suits the device and the number of tokens."""
    device = x.device.type
    if torch.is_autocast_enabled(device):  # autocast does not know their products
        x, w_gate, w_up, w_down = (t.to(torch.get_autocast_dtype(device)) for t in (x, w_gate, w_up, w_down))
    most_are_asked = routing.experts.numel() >= len(w_gate)  # if they are asked evenly
    if len(x) == 1:
        mix = mix_one
    elif len(x) <= FEW and most_are_asked and not by_onednn(x, w_gate[0].numel()):  # torch.bmm would ask MKL
        mix = mix_all
    else:
        mix = mix_slices if eager_on_cpu(x) else mix_grouped
    return mix(x, routing, w_gate, w_up, w_down)


def rows_of_slices(x, size, onednn=False):
    """Slices of x, of `size` rows on average, are rounded up to a multiple of this: ALIGN if oneDNN does them.

    It does those in bfloat16 on a CPU anyway. onednn: whether by_onednn has chosen it for float32.
    """
    prepares = onednn or (x.dtype == torch.bfloat16 and x.device.type == "cpu")
    return ALIGN if prepares and size >= 2 * ALIGN else 1


def mix_one(x, routing, w_gate, w_up, w_down):
    """The same as model.mix_experts for one token: nothing to sort."""
    y = torch.cat([linear(F.silu(linear(x, w_gate[i])) * linear(x, w_up[i]), w_down[i]) for i in routing.experts[0].tolist()])
    return routing.gates.to(y.dtype) @ y  # (1, k) @ (k, C)


def mix_all(x, routing, w_gate, w_up, w_down):
    """The same as model.mix_experts, for a few tokens and finite weights: every expert computes all of them."""
    x = x.expand(len(w_gate), *x.shape)                                                # (N, M, C)
    y = torch.bmm(F.silu(torch.bmm(x, w_gate.mT)) * torch.bmm(x, w_up.mT), w_down.mT)  # (N, M, C)
    return (routing.dense_gates().to(y.dtype).T[:, :, None] * y).sum(0)                # (M, C)


# grouped_product and its gradient are operations of their own, since torch.compile cannot look into a loop over slices.


@torch.library.custom_op("btx::grouped_product", mutates_args=())
def grouped_product(x: torch.Tensor, w: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """w_i x_i for the slices x_i of x, (S, a), that end at the rows `ends`, (N,). w: (N, b, a). Returns (S, b), 0 behind them."""
    y, ends = x.new_zeros(len(x), w.shape[1]), ends.tolist()
    for x_i, y_i, w_i in zip(x.tensor_split(ends), y.tensor_split(ends), w, strict=False):
        product(x_i, w_i, by_onednn(x_i, w_i.numel(), SLICE), out=y_i)
    return y


@torch.library.custom_op("btx::grouped_gradient", mutates_args=())
def grouped_gradient(dy: torch.Tensor, x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """The gradient of w where that of grouped_product(x, w, ends) is dy, (S, b). Returns (N, b, a)."""
    dw, ends = x.new_empty(len(ends), dy.shape[1], x.shape[1]), ends.tolist()
    for dy_i, x_i, dw_i in zip(dy.tensor_split(ends), x.tensor_split(ends), dw, strict=False):
        weight_gradient(dy_i, x_i, by_onednn(x_i, dw_i.numel(), WEIGHTS), out=dw_i)
    return dw


def grouped_backward(ctx, dy):
    (x, w, ends), need = ctx.saved_tensors, ctx.needs_input_grad
    return grouped_product(dy, w.mT, ends) if need[0] else None, grouped_gradient(dy, x, ends) if need[1] else None, None


grouped_product.register_fake(lambda x, w, ends: x.new_empty(len(x), w.shape[1]))
grouped_gradient.register_fake(lambda dy, x, ends: x.new_empty(len(ends), dy.shape[1], x.shape[1]))
grouped_product.register_autograd(grouped_backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs))


def grouped_mm(x, w, ends):
    """grouped_product(x, w, ends), by torch's own for bfloat16 in whole 16 bytes; its rows behind the slices are anything."""
    if hasattr(F, "grouped_mm") and x.dtype == torch.bfloat16 and w.shape[1] % 8 == w.shape[2] % 8 == 0:
        return F.grouped_mm(x, w.mT, offs=ends)
    return grouped_product(x, w, ends)


def mix_grouped(x, routing, w_gate, w_up, w_down):
    """The same as model.mix_experts, all experts in one call for each matrix: Python need not wait for the sizes."""
    (M, k), (N, _, C) = routing.experts.shape, w_gate.shape
    align = rows_of_slices(x, M * k // N, onednn=x.device.type == "cpu")  # perhaps: grouped_product decides
    sorted_experts, order = routing.experts.reshape(-1).sort(stable=True)                    # (M*k,), slot = token * k + choice
    sizes = torch.searchsorted(sorted_experts, torch.arange(N + 1, device=x.device)).diff()  # (N,)
    room = (sizes + align - 1) // align * align                                              # (N,) with rows to spare behind
    shift = (room - sizes).cumsum(0) - (room - sizes)                                        # (N,) how far slices move for them
    rows = torch.arange(M * k, device=x.device) + shift[sorted_experts]                      # (M*k,)
    place = torch.empty_like(order).index_copy(0, order, rows)                               # (M*k,) the row of each slot
    x = x.new_zeros(M * k + N * (align - 1), C).index_copy(0, place, x.repeat_interleave(k, dim=0))
    ends = room.cumsum(0, dtype=torch.int32)
    h = F.silu(grouped_mm(x, w_gate, ends)) * grouped_mm(x, w_up, ends)
    y = grouped_mm(h, w_down, ends).index_select(0, place).view(M, k, C)
    return (routing.gates.to(y.dtype)[:, :, None] * y).sum(1)  # (M, C)


def mix_slices(x, routing, w_gate, w_up, w_down, align=None):
    """The same as model.mix_experts for finite numbers, with fewer passes over memory and fewer calls.

    align: slices are rounded up to so many rows; None: as many as pays.
    """
    (M, k), (N, d_ff, C) = routing.experts.shape, w_gate.shape
    size = M * k // N  # of a slice, on average
    onednn = by_onednn(x, d_ff * C, SLICE, size)
    weights_onednn = onednn and size * d_ff * C >= WEIGHTS
    align = align or rows_of_slices(x, size, onednn)
    experts = routing.experts.flatten().numpy()                       # (M*k,), slot = token * k + choice
    order = experts.astype(np.uint16).argsort(kind="stable")          # numpy sorts 16 bits in linear time
    sizes = np.bincount(experts, minlength=N)
    room = -(-sizes // align) * align                                 # (N,) with rows to spare behind; S is their sum
    shift = np.cumsum(room - sizes) - (room - sizes)                  # (N,) how far slices move for them
    rows = np.arange(M * k) + np.repeat(shift, sizes)                 # (M*k,) of the slots in order
    place = np.empty_like(order)                                      # (M*k,) the row of each slot
    place[order] = rows
    token = np.zeros(room.sum(), np.int64)                            # (S,) the token in each row, any one in spare rows
    token[rows] = order // k
    token, place = torch.from_numpy(token), torch.from_numpy(place).view(M, k)
    return MixSlices.apply(x, routing.gates.to(x.dtype), w_gate, w_up, w_down, token, place, room.tolist(), onednn,
                           weights_onednn, torch.is_grad_enabled())


class MixSlices(torch.autograd.Function):
    """y = sum_i g_i FF_i(x) (3.2), one expert after another. x: (M, C); gates, place: (M, k); token: (S,); see mix_slices.

    sizes: the lengths S_i of the slices, rounded up. F.embedding_bag sums rows, y'[m] = sum_j gates[m, j] y[place[m, j]].
    keep: whether a backward pass may follow; in here torch.is_grad_enabled() says no.
    """

    @staticmethod
    def forward(ctx, x, gates, w_gate, w_up, w_down, token, place, sizes, onednn, weights_onednn, keep):
        x = x.index_select(0, token)  # (S, C)
        y, inner = torch.empty_like(x), []
        for x_i, y_i, gate_i, up_i, down_i in zip(x.split(sizes), y.split(sizes), w_gate, w_up, w_down, strict=True):
            a, b = product(x_i, gate_i, onednn), product(x_i, up_i, onednn)  # (S_i, d_ff)
            s = F.silu(a)
            h = s * b
            product(h, down_i, onednn, out=y_i)
            if keep:
                inner += [a, b, s, h if ctx.needs_input_grad[4] else None]
        x = x if any(ctx.needs_input_grad[2:4]) else None
        ctx.save_for_backward(x, y, gates, w_gate, w_up, w_down, token, place, *inner)
        ctx.sizes, ctx.onednn, ctx.weights_onednn = sizes, onednn, weights_onednn
        return F.embedding_bag(place, y, mode="sum", per_sample_weights=gates)  # (M, C)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, y, gates, w_gate, w_up, w_down, token, place, *inner = ctx.saved_tensors
        dy = dy.index_select(0, token)                                                           # (S, C)
        dgates = (dy * y).sum(-1)[place]                                                         # (M, k)
        dy *= gates.new_zeros(len(y)).index_copy_(0, place.flatten(), gates.flatten())[:, None]  # 0 in spare rows
        dx, weights = torch.empty_like(y), (w_gate, w_up, w_down)
        dw = [torch.empty_like(w) if need else None for w, need in zip(weights, ctx.needs_input_grad[2:5], strict=True)]
        x = dx if x is None else x  # with w_gate and w_up frozen, anything of S rows: nobody reads it
        for i, (x_i, dy_i, dx_i) in enumerate(zip(*(t.split(ctx.sizes) for t in (x, dy, dx)), strict=True)):
            a, b, s, h = inner[4 * i:4 * i + 4]  # y = w_down h, h = s * b, s = silu(a), a = w_gate x, b = w_up x
            dh = product(dy_i, w_down[i].T, ctx.onednn)
            db = dh * s
            da = torch.ops.aten.silu_backward(dh.mul_(b), a)
            product(da, w_gate[i].T, ctx.onednn, out=dx_i)
            dx_i += product(db, w_up[i].T, ctx.onednn)
            for dw_all, d, to in zip(dw, (da, db, dy_i), (x_i, x_i, h), strict=True):
                if dw_all is not None:  # not frozen
                    weight_gradient(d, to, ctx.weights_onednn, out=dw_all[i])
        return F.embedding_bag(place, dx, mode="sum"), dgates, *dw, *[None] * 6


# ---- generation -----------------------------------------------------------------------------------------------------------


@contextmanager
def one_thread():
    """One thread in this process: for little work, waking the others takes longer than what they could spare."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)


def decoder(model):
    """What `model`, a GPT or what acts like one, does with (idx, cache=cache), as a function with fewer calls.

    They are fewer for a small model on a CPU where each text has one new token; the rest, and autocast, is left to the model.
    Not all hooks are called there. Only for inference, while the weights do not change.
    """
    from model import GPT, rope_angles  # not above: model.py imports this file
    weight, c = next(model.parameters()), model.config
    if (type(model) is not GPT or model.training or max(c.d_ff, c.n_embd) * c.n_embd >= MATRIX
            or weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.float64)):
        return model
    d = c.n_embd // c.n_head
    cos, sin = (t.to(weight.dtype) for t in rope_angles(c, 0, c.block_size, weight.device))
    cos, sin = torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)  # (block_size, d)

    def transposed(w):
        return w.T if w.ndim == 2 else [matrix.T for matrix in w]
    layers = [(torch.cat([b.attn.wq.weight * d ** -0.5, b.attn.wk.weight, b.attn.wv.weight]).T,  # scales the scores
               *(transposed(w) for w in (b.attn.wo.weight, b.ff.w_gate, b.ff.w_up, b.ff.w_down)), b) for b in model.blocks]

    def attend(x, wqkv, at, past):
        qk, v = torch.mm(x, wqkv).view(len(x), -1, d).split([c.n_head + c.n_kv_head, c.n_kv_head], dim=1)  # (B, heads, d)
        qk = torch.addcmul(qk * cos[at], qk.roll(d // 2, -1), sin[at])  # model.rope: roll swaps the halves
        k, v = past.append(qk[:, c.n_head:, None], v[:, :, None])       # (B, n_kv_head, S, d)
        q = qk[:, :c.n_head].reshape(len(x) * c.n_kv_head, -1, d)       # the heads that read a key
        scores = torch.bmm(q, k.flatten(0, 1).mT).softmax(-1)
        return torch.bmm(scores, v.flatten(0, 1)).view(len(x), -1)      # (B, n_head * d)

    def hidden(idx, cache):
        at = cache[0].length
        x, routing = model.embed(idx[:, 0]), []  # (B, C)
        for (wqkv, wo, w_gate, w_up, w_down, block), past in zip(layers, cache, strict=True):
            x = torch.addmm(x, attend(block.attn_norm(x), wqkv, at, past), wo)
            z, ff = block.ff_norm(x), block.ff
            if not c.n_expert:
                x = torch.addmm(x, F.silu(torch.mm(z, w_gate)).mul_(torch.mm(z, w_up)), w_down)
                continue
            routing.append(ff.route(torch.mm(z, ff.router.T), ff.top_k))
            if len(x) > 1:
                x = x + mix_experts(z, routing[-1], ff.w_gate, ff.w_up, ff.w_down)
                continue
            for gate, i in zip(routing[-1].gates[0].tolist(), routing[-1].experts[0].tolist(), strict=True):
                x = torch.addmm(x, F.silu(torch.mm(z, w_gate[i])).mul_(torch.mm(z, w_up[i])), w_down[i], alpha=gate)
        return model.norm(x), routing

    def forward(idx, cache):
        if not cache or cache[0].length >= c.block_size or idx.shape[1] > 1 or torch.is_autocast_enabled("cpu"):
            return model(idx, cache=cache)
        with one_thread() if len(idx) == 1 else nullcontext():
            x, routing = hidden(idx, cache)  # (B, C)
        return model.head(x)[:, None], None, routing
    return forward
