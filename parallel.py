"""Several ranks train one model, through torch's own engines: DDP, or FSDP2 where the model does not fit one device.

    torchrun --nproc_per_node=8 train_expert.py ...            # each rank has a copy of the model and a part of each batch
    torchrun --nproc_per_node=8 finetune_router.py ... --shard # each rank has a part of the weights too, gathered block by block

torchrun starts the processes and says so in their environment. Without it everything here does nothing.
"""
import os
from contextlib import contextmanager

import torch
import torch.distributed as dist


def rank_and_size():
    """This process's number and how many there are; 0 and 1 without torchrun."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


@contextmanager
def ranks(device):
    """Be one of torchrun's ranks, if torchrun started this process. Yields the device to use, a GPU for each rank on CUDA."""
    if "RANK" not in os.environ:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
        dist.barrier()  # nobody leaves while another still sends or writes
    finally:
        dist.destroy_process_group()


def spread(model, device, shard):
    """What to call instead of `model` in training, so that gradients are averages over all ranks."""
    if not dist.is_initialized():
        return model
    if not shard:
        return torch.nn.parallel.DistributedDataParallel(model, [device] if device.type == "cuda" else None)
    from torch.distributed.fsdp import fully_shard
    mesh = dist.init_device_mesh(device.type, (dist.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def mean_over_ranks(x):
    """The mean of a tensor over all ranks, with the gradient of the own part: DDP and FSDP then average that over the ranks.

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
    total = torch.tensor([bool(flag)], dtype=torch.int32, device=device)
    dist.all_reduce(total)
    return total.item() > 0


def full_state(model, optimizer):
    """The state dicts of model and optimizer as one rank alone would have them: shards are gathered on the CPU, on every rank."""
    def whole(tensor):
        return tensor.full_tensor().cpu() if hasattr(tensor, "full_tensor") else tensor
    state = optimizer.state_dict()
    moments = {i: {key: whole(value) for key, value in moment.items()} for i, moment in state["state"].items()}
    return {name: whole(p) for name, p in model.state_dict().items()}, state | {"state": moments}


def load_full_state(model, optimizer, weights, state):
    """Give model and optimizer what full_state returned, whatever the number of ranks was and is."""
    def part(full, like):
        if not hasattr(like, "full_tensor") or full.shape != like.shape:
            return full
        from torch.distributed.tensor import distribute_tensor
        return distribute_tensor(full.to(like.device), like.device_mesh, like.placements)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {i: {key: part(value, params[i]) for key, value in moment.items()} for i, moment in state["state"].items()}
    model.load_state_dict({name: part(weights[name], p) for name, p in model.state_dict().items()})
    optimizer.load_state_dict(state | {"state": moments})
