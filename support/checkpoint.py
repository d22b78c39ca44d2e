"""Checkpoints: dictionaries, written by torch.save and read by torch.load(weights_only=True), which executes nothing.

    model      state dict of a `model.GPT`
    config     the fields of its `GPTConfig`
    tokenizer  what data/tokenizer.py needs to make its tokenizer again
    experts    the names of an MoE's experts in order, [] for a dense model
    lineage    the ledger: one entry for each stage behind the model, oldest first (support/ledger.py)
    log        one line for each validation of the last stage, if that stage trained

`model = build(load("out/seed0/btx.pt"))` is a model again. The state of an interrupted run is such a dictionary, too:
NAME.state beside the checkpoint NAME.pt, with the optimizer's state and the settings of the run. It is deleted when
the run is done.
"""
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from data.common import BadInput, check_output, replacing
from model import GPT, GPTConfig

KEYS = {"model", "config", "tokenizer", "experts", "lineage", "log"}
STATE_KEYS = {"model", "optimizer", "step", "seconds", "log", "settings"}


def save(path, value):
    """Write a dictionary of tensors and plain values; the file is whole or the old one stays. Raises BadInput."""
    with replacing(path) as part:
        try:
            torch.save(value, part)
        except RuntimeError as error:  # what torch raises on a full disk
            raise BadInput(f"{path}: cannot be written ({error}); is the disk full?") from None


def read(path, keys):
    """Read a dictionary that `save` wrote; its tensors stay on the disk until they are used. Raises BadInput."""
    if not Path(path).is_file():
        raise BadInput(f"{path}: no such file")
    try:
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # torch has a different error for every kind of foreign file
        value = None
    if not isinstance(value, dict) or value.keys() != keys:
        raise BadInput(f"{path}: not a file of this project; name one that a script of this version wrote")
    return value


def load(path):
    """Read a checkpoint. Raises BadInput."""
    return read(path, KEYS)


def build(checkpoint, device="cpu"):
    """The model of a checkpoint, in float32 and evaluation mode."""
    model = GPT(GPTConfig(**checkpoint["config"]))
    model.load_state_dict(checkpoint["model"])
    return model.to(device).eval()


def check_branches(paths, checkpoints):
    """Raise BadInput unless the checkpoints are branches of one seed, of one shape. Only the first may be an MoE."""
    if len(paths) < 2:
        raise BadInput(f"{paths[0]} alone cannot be mixed; name at least two models")
    first = checkpoints[0]
    ids = {entry["id"] for entry in first["lineage"]}
    for path, other in zip(paths[1:], checkpoints[1:], strict=True):
        if other["experts"]:
            raise BadInput(f"{path} is a mixture of experts already; only the first model may be one")
        for name in ("vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd", "d_ff", "tie_weights"):
            if other["config"][name] != first["config"][name]:
                raise BadInput(f"{path} and {paths[0]} differ in {name}; only models of one shape can be mixed")
        if other["tokenizer"]["fingerprint"] != first["tokenizer"]["fingerprint"]:
            raise BadInput(f"{path} and {paths[0]} have different tokenizers; their embeddings cannot be averaged")
        ids &= {entry["id"] for entry in other["lineage"]}
    if not ids:
        raise BadInput(f"{', '.join(paths)} are no branches of one seed; their average would be noise")


# All ranks call the following functions. The first rank gets whole tensors, also of a sharded model, and writes.


def full_state(model, optimizer):
    """The state dicts of model and optimizer on the CPU, by parameter names; empty on all ranks but the first.

    Raises BadInput if a weight is not finite, so that the last good file stays.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights, moments = get_state_dict(model, optimizer, options=options)
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise BadInput("--lr: the weights are not finite any more, and are not saved; try a lower rate")
    return weights, moments


def is_first_rank():
    """Whether this process is the one that writes."""
    return not dist.is_initialized() or dist.get_rank() == 0


def save_trained(out, model, optimizer, fields):
    """Write the checkpoint of a finished run and delete its state. fields: all but model and config."""
    weights, _ = full_state(model, optimizer)
    if is_first_rank():
        save(out, {"model": weights, "config": vars(model.config), **fields})
        state_path(out).unlink(missing_ok=True)


def save_state(out, model, optimizer, settings, step, seconds, log):
    """Write NAME.state, from which the same command goes on after `step` steps."""
    weights, moments = full_state(model, optimizer)
    if is_first_rank():
        save(state_path(out), {"model": weights, "optimizer": moments, "settings": settings, "step": step,
                               "seconds": seconds, "log": log})


def check_out(out, inputs=()):
    """Raise BadInput unless a checkpoint can be written to `out`: a name that ends in .pt, and not that of an input."""
    if Path(out).suffix != ".pt":
        raise BadInput(f"--out {out}: name a checkpoint that ends in .pt, as in out/model.pt")
    if Path(out).resolve() in [Path(path).resolve() for path in inputs]:
        raise BadInput(f"--out {out} is an input, too, and would be lost; choose another name")
    check_output(out)


def state_path(out):
    """Where a run that writes the checkpoint `out` saves its state."""
    return Path(out).with_suffix(".state")


def load_state(out, model, optimizer, settings):
    """Put the state of an interrupted run into model and optimizer. Returns (step, seconds, log); zeros without one.

    Raises BadInput if that run had other settings or other data.
    """
    path = state_path(out)
    if not path.exists():
        return 0, 0.0, []
    state = read(path, STATE_KEYS)
    for name, value in settings.items():
        before = state["settings"].get(name)
        if name == "digests" and before != value:
            changed = [file for file in before.keys() | value.keys() if before.get(file) != value.get(file)]
            raise BadInput(f"{path} is of a run on other data: {', '.join(sorted(changed))}; delete it to start anew")
        if before != value:
            raise BadInput(f"{path} is of a run with {name} = {before}, now it is {value}; "
                           "use the former again, or delete the file to start anew")
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"],
                   options=StateDictOptions(full_state_dict=True))
    if is_first_rank():
        print(f"{out}: goes on from step {state['step']}")
    return state["step"], state["seconds"], state["log"]
