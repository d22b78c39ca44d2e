"""Models too large for one GPU: torch shards their weights over the ranks (FSDP2), and each rank saves its own part.

Such a run can be resumed on any number of ranks, even without --shard.
"""
import importlib.util
from cli import BadInput

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard

from model import is_feed_forward


def cut_weights(model, device):
    """Shard the weights over the ranks. A pass gathers the weights of one block at a time. Raises BadInput."""
    if importlib.util.find_spec("safetensors") is None:  # torch saves with it: fail now, not after hours
        raise BadInput("safetensors is not installed; run .venv/bin/pip install safetensors")
    if not dist.is_initialized():
        raise BadInput("--shard divides the weights among GPUs; start the script with torchrun, or leave it out")
    if torch.__version__ < (2, 10):  # on CPUs, torch 2.7 sums gradients over the ranks and does not average them
        raise BadInput(f"--shard needs torch 2.10, but this is {torch.__version__}; leave it out")
    n_ranks, config = dist.get_world_size(), model.config
    if config.n_expert and (config.d_ff % n_ranks or config.n_embd % n_ranks):
        raise BadInput(f"--shard: d_ff {config.d_ff} and n_embd {config.n_embd} must be multiples of {n_ranks} GPUs")
    names = {p: name for name, p in model.named_parameters()}

    def choose_axis(p):
        """Shard the experts' matrices, (N, rows, columns), by rows: there may be fewer experts than GPUs."""
        return Shard(1 if config.n_expert and is_feed_forward(names[p]) else 0)

    mesh = dist.init_device_mesh(device.type, (n_ranks,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh, shard_placement_fn=choose_axis)
    return fully_shard(model, mesh=mesh, shard_placement_fn=choose_axis)


def save_tensors(folder, model, optimizer):
    """Write the weights and AdamW's moments to a folder. Each rank writes its part as *.safetensors."""
    state, optimizer_state = state_dict.get_state_dict(model, optimizer)
    dcp.save({"state": state, "optimizer": optimizer_state["state"]},
             storage_writer=dcp.HuggingFaceStorageWriter(folder, save_distributed=True))


def load_tensors(folder, model, optimizer):
    """Read what `save_tensors` wrote. Each rank reads its part; any number of ranks will do. Raises BadInput."""
    state, optimizer_state = state_dict.get_state_dict(model, optimizer)
    try:
        dcp.load({"state": state, "optimizer": optimizer_state["state"]},  # fills these tensors
                 storage_reader=dcp.HuggingFaceStorageReader(folder))
    except Exception as error:  # a file that is missing, truncated or foreign
        raise BadInput(f"{folder}: damaged ({error}); delete it to start over") from None
    state_dict.set_state_dict(model, optimizer, model_state_dict=state, optim_state_dict=optimizer_state)
