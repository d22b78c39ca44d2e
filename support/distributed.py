"""Choose the device and the dtype of a model, and run it on several GPUs with torch's own DDP and FSDP2.

    torchrun --nproc_per_node=8 finetune_router.py ...          # each rank has the whole model and a part of each batch
    torchrun --nproc_per_node=8 finetune_router.py ... --shard  # each rank has only a part of the weights, too
"""
import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from cli import BadInput
from model import is_feed_forward


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
    an_hour = timedelta(hours=1)  # the other ranks wait this long while the first writes a large file
    dist.init_process_group(dist.get_default_backend_for_device(device), timeout=an_hour)
    return device, dist.get_rank(), dist.get_world_size()


def is_first_rank():
    """Whether this process is the one that writes the files."""
    return not dist.is_initialized() or dist.get_rank() == 0


def wrap(model, device, shard):
    """Move `model` to the device, or with `shard` divide it among the ranks. Raises BadInput.

    Returns the model to train, which averages gradients over all ranks.
    """
    if not shard:
        model.to(device)
        return DistributedDataParallel(model) if dist.is_initialized() else model
    from torch.distributed.fsdp import fully_shard  # these imports take a second
    from torch.distributed.tensor import Shard
    if not dist.is_initialized():
        raise BadInput("--shard divides the weights among GPUs; start the script with torchrun, or leave it out")
    n_ranks, config = dist.get_world_size(), model.config
    if config.n_expert and (config.d_ff % n_ranks or config.n_embd % n_ranks):
        raise BadInput(f"--shard: d_ff {config.d_ff} and n_embd {config.n_embd} must be multiples of {n_ranks} GPUs")
    names = {p: name for name, p in model.named_parameters()}

    def choose_axis(p):
        """Shard the experts' matrices, (N, rows, columns), by rows: there may be fewer experts than GPUs."""
        return Shard(1 if config.n_expert and is_feed_forward(names[p]) else 0)

    mesh = dist.init_device_mesh(device.type, (n_ranks,))
    for block in model.blocks:  # a pass gathers the weights of one block at a time
        fully_shard(block, mesh=mesh, shard_placement_fn=choose_axis)
    return fully_shard(model, mesh=mesh, shard_placement_fn=choose_axis)
