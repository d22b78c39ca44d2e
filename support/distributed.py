"""Choose the device and the dtype of a model, and run it on several GPUs with torch's own DDP and FSDP2.

    torchrun --nproc_per_node=8 finetune_router.py ...          # each rank has the whole model and a part of each batch
    torchrun --nproc_per_node=8 finetune_router.py ... --shard  # each rank has only a part of the weights, too
"""
import os
from cli import BadInput

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel


def pick_device(name):
    """Return the torch.device for --device. Raises BadInput if this machine does not have it.

    auto chooses a GPU if there is one, but not a Mac's: torch gave wrong results there (docs/gpus-and-speed.md).
    """
    if name == "auto":
        name = "cpu"
        if torch.accelerator.is_available() and not torch.backends.mps.is_available():
            name = torch.accelerator.current_accelerator().type
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()  # the device meta fails here
    except (RuntimeError, AssertionError) as error:  # torch raises either, depending on the device
        reason = str(error).splitlines()[0][:80]
        raise BadInput(f"--device {name}: torch cannot use it here ({reason}); try auto or cpu") from None
    if device.type == "cuda":  # cuDNN plans attention again for each length of text, and that takes longest
        torch.backends.cuda.enable_cudnn_sdp(False)
    return device


def pick_dtype(name, device):
    """Name the dtype of matrix products for --dtype. auto is bfloat16 on a GPU that supports it, else float32."""
    if name != "auto":
        return name
    on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if on_gpu else "float32"


def autocast(dtype, device, keep_copies=False):
    """A context for products in --dtype; weights stay float32. keep_copies: keep converted weights for many passes."""
    return torch.autocast(device.type, torch.bfloat16, pick_dtype(dtype, device) == "bfloat16", keep_copies)


def join_ranks(name):
    """Become one of torchrun's ranks if torchrun started this process. Returns device, rank and number of ranks."""
    if "RANK" not in os.environ:
        return pick_device(name), 0, 1
    if torch.cuda.is_available() and name in ("auto", "cuda"):
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # "cuda" means this GPU from here on
    device = pick_device(name)
    dist.init_process_group(dist.get_default_backend_for_device(device))
    return device, dist.get_rank(), dist.get_world_size()


def is_first_rank():
    """Whether this process is the one that writes the files."""
    return not dist.is_initialized() or dist.get_rank() == 0


def is_sharded(model):
    """Whether each rank has only a part of the model's weights."""
    return hasattr(model, "reshard")  # FSDP2 adds this method


def wrap(model, device, shard):
    """Move `model` to the device. Returns the model to train, which averages gradients over all ranks."""
    if shard:
        from support import shards  # this import takes a second
        return shards.cut_weights(model, device)
    model.to(device)
    return DistributedDataParallel(model) if dist.is_initialized() else model
