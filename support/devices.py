"""Where a model runs: which device and dtype; and several ranks that train one model, through torch's own DDP and FSDP2.

    torchrun --nproc_per_node=8 train_expert.py ...            # each rank has a copy of the model and a part of each batch
    torchrun --nproc_per_node=8 finetune_router.py ... --shard # each rank has a part of the weights too, gathered block by block

torchrun starts the processes and says so in their environment; without it there is one rank.
"""
import os
import shutil
import sys
import threading
import time
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from support.files import reading
from support.settings import BadInput


def pick_device(name):
    """The torch.device for --device. Raises BadInput if this machine does not have it."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        if name == "cpu" and shutil.which("nvidia-smi"):
            print(f"--device auto: this machine has an NVIDIA GPU that torch {torch.__version__} cannot use; taking the CPU",
                  file=sys.stderr)
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        if name.partition(":")[0] not in ("cpu", "cuda", "mps", "xpu"):
            raise ValueError
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except Exception:  # each kind of device that torch lacks fails in its own way
        raise BadInput(f"--device: this machine has no {name!r}; try auto or cpu") from None
    return device


def send(batch, device):
    """A batch on the device; to a GPU it goes from pinned memory, without waiting."""
    return batch.contiguous().pin_memory().to(device, non_blocking=True) if device.type == "cuda" else batch.to(device)


def check_compiler(device):
    """Raise BadInput if --compile lacks its compiler: a C++ compiler, and Triton for a GPU."""
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if not shutil.which(compiler):
        raise BadInput(f"--compile needs the C++ compiler {compiler}, or the one named in CXX; install it, or leave it out")
    if device.type == "cuda" and not find_spec("triton"):
        raise BadInput("--compile needs Triton for a GPU; pip install triton, or leave the option out")


def pick_dtype(name, device):
    """"float32" or "bfloat16" for --dtype. auto: bfloat16 on a GPU that multiplies in it, else float32.

    On a CPU float32, so that results do not depend on the processor.
    """
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return name if name != "auto" else "bfloat16" if native else "float32"


def autocast(name, device):
    """The context in which products are computed in the dtype of --dtype; weights stay in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=pick_dtype(name, device) == "bfloat16")


def peak_flops(device):
    """Dense bfloat16 FLOP/s of a known GPU by its data sheet, else 0."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    words = name.replace("-", " ").split()
    return next((flops for key, flops in PEAK_FLOPS.items() if all(word in words for word in key.split())), 0)


PEAK_FLOPS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12, "L4": 121e12}


def rank_and_size():
    """This process's number and how many there are; 0 and 1 without torchrun."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def n_ranks():
    """How many ranks torchrun started; 1 without it. Raises BadInput if the environment says only half of that."""
    if "RANK" not in os.environ:
        return 1
    try:
        rank, local, size, port = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT"))
        if not 0 <= local <= rank < size or not 0 < port < 2**16 or not os.environ["MASTER_ADDR"]:
            raise ValueError
    except (KeyError, ValueError):
        raise BadInput("the environment has RANK, which torchrun sets, but not all that belongs to it; start with torchrun, or "
                       "unset RANK") from None
    return size


def on_first_rank(context):
    """On torchrun's first rank the context, on the others one that does nothing; known before they join in `ranks`."""
    return context if os.environ.get("RANK", "0") == "0" else nullcontext()


@contextmanager
def ranks(device):
    """Inside, this process is one of torchrun's ranks, if torchrun started it."""
    if "RANK" not in os.environ:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    parent = os.getppid()

    def follow():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)
    threading.Thread(target=follow, daemon=True).start()  # torchrun was killed: nobody waits for us
    with reading("torchrun's MASTER_ADDR and MASTER_PORT", "used"):
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    except RuntimeError as error:
        if "peer" not in str(error):
            raise
        raise BadInput("another rank has ended; its line says why") from None
    finally:
        dist.destroy_process_group()


def spread(model, device, shard):
    """Move `model` to the device; returns what to call instead of it in training, so that gradients are averages over all ranks.

    Sharded, a rank never holds more than its part and one block. Experts are cut along their width, since there may be fewer
    experts than ranks. Raises BadInput if they cannot be.
    """
    size = rank_and_size()[1]
    if size == 1 or not shard:
        model.to(device)
        return model if size == 1 else DistributedDataParallel(model, [device] if device.type == "cuda" else None)
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard
    c = model.config
    if c.n_expert and (c.d_ff % size or c.n_embd % size):
        raise BadInput(f"--shard: d_ff {c.d_ff} and n_embd {c.n_embd} must be multiples of the {size} ranks")
    how = dict(mesh=dist.init_device_mesh(device.type, (size,)), shard_placement_fn=lambda p: Shard(1 if p.ndim == 3 else 0))
    for block in model.blocks:
        fully_shard(block, **how)
    return fully_shard(model, **how)


def syncing(forward, last):
    """The context of a micro-batch's forward pass: DDP averages gradients over the ranks after the last one alone."""
    return nullcontext() if last or not hasattr(forward, "no_sync") else forward.no_sync()


def mean_over_ranks(x):
    """The mean of a tensor over all ranks, with the gradient of this rank's part alone: DDP and FSDP then average gradients.

    For m = (x_1 + ... + x_R) / R and any L(m), each rank's dL/dx_r is taken as dL/dm, and the average over R ranks
    is what the chain rule asks for: sum_r dL/dm / R * dx_r/dw.
    """
    if not dist.is_initialized():
        return x
    total = x.detach().clone()
    dist.all_reduce(total)
    return x + (total / dist.get_world_size() - x).detach()


def any_rank(flag, device):
    """Whether flag is true on any rank: all must stop after the same step."""
    if not dist.is_initialized():
        return bool(flag)
    return mean_over_ranks(torch.tensor(float(bool(flag)), device=device)).item() > 0


def whole(tensors):
    """A dictionary of tensors, shards gathered on the first rank's CPU as if it were alone; the others get None for them."""
    def gather(tensor):
        if not hasattr(tensor, "full_tensor"):
            return tensor
        full = tensor.full_tensor()  # all ranks must ask
        return full.cpu() if dist.get_rank() == 0 else None
    return {name: gather(tensor) for name, tensor in tensors.items()}


MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's, the same shape as their parameter


def params_of(optimizer):
    """The parameters that an optimizer trains, in its order."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def moments_like(optimizer):
    """AdamW's moments as full_state names them, {"0.exp_avg": ...}: what has their shapes."""
    return {f"{i}.{key}": p for i, p in enumerate(params_of(optimizer)) for key in MOMENTS}


def full_state(model, optimizer):
    """The weights, and AdamW's moments by the number of their parameter, {"0.exp_avg": ...}, whole."""
    state = optimizer.state_dict()["state"]
    return whole(model.state_dict()), whole({f"{i}.{key}": entry[key] for i, entry in state.items() for key in MOMENTS})


def load_full_state(model, optimizer, weights, moments, step):
    """Give model and optimizer what full_state returned after `step` steps, whatever the number of ranks was and is."""
    def part(full, like):
        if not hasattr(like, "full_tensor"):
            return full
        from torch.distributed.tensor import distribute_tensor
        return distribute_tensor(full.to(like.device), like.device_mesh, like.placements)
    state = {i: {"step": torch.tensor(float(step))} | {key: part(moments[f"{i}.{key}"], p) for key in MOMENTS}
             for i, p in enumerate(params_of(optimizer))}
    model.load_state_dict({name: part(weights[name], p) for name, p in model.state_dict().items()})
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
