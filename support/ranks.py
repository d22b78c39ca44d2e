"""Train one model on several GPUs, with torch's own DDP and FSDP2. Each process that torchrun starts is a rank.

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
from support.device import pick_device


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


def wrap(model, device, is_sharded):
    """Move a model to the device and return the one to train, which averages gradients over all ranks.

    is_sharded: see `shard`. Raises BadInput.
    """
    if is_sharded:
        return shard(model, device)
    model.to(device)
    return DistributedDataParallel(model) if dist.is_initialized() else model


def shard(model, device):
    """Divide a model among the ranks (FSDP2). A pass gathers the weights of one block at a time. Raises BadInput."""
    from torch.distributed.fsdp import fully_shard  # these imports take a second
    from torch.distributed.tensor import Shard
    if not dist.is_initialized():
        raise BadInput("--shard divides the weights among GPUs; start the script with torchrun, or leave it out")
    n_ranks, config = dist.get_world_size(), model.config
    if config.n_expert and (config.d_ff % n_ranks or config.n_embd % n_ranks):
        raise BadInput(f"--shard: d_ff {config.d_ff} and n_embd {config.n_embd} must be multiples of {n_ranks} GPUs")
    experts = {p for name, p in model.named_parameters() if config.n_expert and is_feed_forward(name)}

    def choose_axis(p):
        """Divide all by rows, also the experts' matrices, (N, rows, columns): there may be fewer experts than GPUs."""
        return Shard(1 if p in experts else 0)

    mesh = dist.init_device_mesh(device.type, (n_ranks,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh, shard_placement_fn=choose_axis)
    return fully_shard(model, mesh=mesh, shard_placement_fn=choose_axis)
