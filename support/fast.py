"""ff_moe of model.py once more, for a GPU and for torch.compile: all experts in one call for each matrix.

    fast.install(model)  # what --fast does; tests hold values and gradients equal to those of the readable one

The tokens are sorted by expert, so that an expert's are one slice of rows. The compiler sees one graph. In bfloat16, with widths
that are multiples of 8, torch's grouped product never tells Python how long the slices are, and the GPU need not be waited for.
"""
import torch
import torch.nn.functional as F

from model import MoE

ALIGN = 8  # F.grouped_mm wants the rows of bfloat16 in whole 16 bytes


def install(model):
    """Let every MoE layer of a GPT compute its sum by this file's ff_moe. Returns the model."""
    for module in model.modules():
        if isinstance(module, MoE):
            module.ff_moe = ff_moe
    return model


def ff_moe(x, routing, w_gate, w_up, w_down):
    """FF_MoE(x) = sum_i g_i(W_l x) FF_i(x) (3.2); arguments and result as in model.ff_moe."""
    device, dtype = x.device.type, x.dtype
    if torch.is_autocast_enabled(device):  # autocast does not know grouped products
        x, w_gate, w_up, w_down = (t.to(torch.get_autocast_dtype(device)) for t in (x, w_gate, w_up, w_down))
    k = routing.experts.shape[1]
    sorted_experts, order = routing.experts.flatten().sort(stable=True)                   # (M*k,), slot = token * k + choice
    rows = order.argsort().view(-1, k)                                                    # (M, k) the row of each slot
    experts = torch.arange(len(w_gate), device=x.device)                                  # (N,)
    ends = torch.searchsorted(sorted_experts, experts, right=True, out_int32=True)        # (N,) the rows where slices end
    x = Gather.apply(x, order // k, rows)                                                 # (M*k, D)
    h = F.silu(grouped_mm(x, w_gate, ends)) * grouped_mm(x, w_up, ends)                   # (M*k, d_ff)
    y = Gather.apply(grouped_mm(h, w_down, ends), rows, order)                            # (M, k, D)
    return (routing.gates[:, :, None] * y).sum(1).to(dtype)                               # (M, D)


class Gather(torch.autograd.Function):
    """x[index], whose gradient is a gather, too: `back` says where in the result each row of x is, so nothing is added up by
    atomics, whose order varies. x: (S, D); index and back: (S',) or (M, k) int64."""

    @staticmethod
    def forward(ctx, x, index, back):
        ctx.save_for_backward(back)
        return x[index]

    @staticmethod
    def backward(ctx, dy):
        back, = ctx.saved_tensors
        dx = dy.flatten(0, -2)[back]
        return dx if back.ndim == 1 else dx.sum(1), None, None


def grouped_mm(x, w, ends):
    """w_i x_i for the slices x_i of x, (S, a), that end at the rows `ends`, (N,) int32; w: (N, b, a). Returns (S, b)."""
    if hasattr(F, "grouped_mm") and x.dtype == torch.bfloat16 and w.shape[1] % ALIGN == w.shape[2] % ALIGN == 0 and native(x):
        return F.grouped_mm(x, w.mT, offs=ends)
    return grouped_product(x, w, ends)


def native(x):
    """Whether torch's grouped product is right and fast where x is: of GPUs on those of compute capability 9.0 alone.

    Elsewhere it is a loop that waits for the GPU (8.x), or has open bugs (10.0, pytorch issues 172439 and 193633).
    """
    if x.device.type != "cuda":
        return True
    gpu = torch.cuda.get_device_properties(x.device)
    return (gpu.major, gpu.minor) == (9, 0)


# The same by a loop, for other dtypes and shapes: operations of their own, since torch.compile cannot look into the loop.


@torch.library.custom_op("btx::grouped_product", mutates_args=())
def grouped_product(x: torch.Tensor, w: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """See grouped_mm."""
    slices = x.tensor_split(ends[:-1].tolist())
    return torch.cat([F.linear(x_i, w_i) for x_i, w_i in zip(slices, w, strict=True)])


@torch.library.custom_op("btx::grouped_gradient", mutates_args=())
def grouped_gradient(dy: torch.Tensor, x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """The gradient of w, (N, b, a), where that of grouped_product(x, w, ends) is dy, (S, b)."""
    ends = ends[:-1].tolist()
    return torch.stack([dy_i.T @ x_i for dy_i, x_i in zip(dy.tensor_split(ends), x.tensor_split(ends), strict=True)])


def grouped_backward(ctx, dy):
    """The gradients of grouped_product's x and w, each where it is needed."""
    (x, w, ends), need = ctx.saved_tensors, ctx.needs_input_grad
    return grouped_product(dy, w.mT, ends) if need[0] else None, grouped_gradient(dy, x, ends) if need[1] else None, None


grouped_product.register_fake(lambda x, w, ends: x.new_empty(len(x), w.shape[1]))
grouped_gradient.register_fake(lambda dy, x, ends: x.new_empty(len(ends), dy.shape[1], x.shape[1]))
grouped_product.register_autograd(grouped_backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs))
