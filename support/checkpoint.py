"""Checkpoints: dictionaries, written by torch.save and read by torch.load(weights_only=True), which executes nothing.

    state      the state dict of a `model.GPT`
    config     the fields of its `GPTConfig`
    spec       what data/tokenizer.py needs to make its tokenizer again
    experts    the names of an MoE's experts in order, [] for a dense model
    ledger     one entry for each step behind the model, oldest first (support/ledger.py)
    log        one line for each validation of the last training, if there was one

`model = build_model(load_checkpoint("out/seed0/btx.pt"))` is a model again. An interrupted run leaves its progress:
NAME.progress beside the checkpoint NAME.pt, with the optimizer's state and the settings of the run; with --shard the
tensors are in the folder NAME.shards. Both are deleted when the run is done.
"""
import os
import shutil
import zipfile
from cli import BadInput, check_output, replacing
from pathlib import Path

import torch

from model import GPT, GPTConfig
from support.distributed import is_first_rank, is_sharded

SHAPE = [name for name in vars(GPTConfig()) if name not in ("block_size", "top_k", "routing")]
KEYS = {"state", "config", "spec", "experts", "ledger", "log"}
PROGRESS_KEYS = {"state", "optimizer", "step", "seconds", "log", "settings"}


def save_checkpoint(path, checkpoint):
    """Write a dictionary of tensors and plain values; the file is whole or the old one stays. Raises BadInput."""
    with replacing(path) as part:
        torch.save(checkpoint, part)


def load_file(path, keys):
    """Read what `save_checkpoint` wrote; the tensors stay on the disk until they are used. Raises BadInput.

    A checkpoint is a zip. Its checksums are compared first, which takes about a second for each GB. torch compresses
    nothing, so a compressed file is foreign; a small one could unpack to more than the memory holds.
    """
    if not Path(path).is_file():
        raise BadInput(f"{path or 'an empty name'}: no such file")
    try:
        with zipfile.ZipFile(path) as file:
            is_stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in file.infolist())
            is_whole = is_stored and file.testzip() is None
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=True) if is_whole else None
    except Exception:  # torch has a different error for every kind of foreign file
        value = None
    if not isinstance(value, dict) or value.keys() != keys:
        raise BadInput(f"{path}: damaged, or not a file of this project; name one that a script of this version wrote")
    return value


def load_checkpoint(path):
    """Read a checkpoint. Raises BadInput, also if its weights are not those of its config, or are not finite."""
    checkpoint = load_file(path, KEYS)
    try:
        checkpoint["config"] = vars(GPTConfig()) | checkpoint["config"]  # older files lack the newest fields
        check_weights(build_model(checkpoint))
    except Exception:  # a foreign value can raise any error
        raise BadInput(f"{path}: its weights are not finite, or not those of its config; name another model") from None
    return checkpoint


def build_model(checkpoint, device="cpu"):
    """The model of a checkpoint, in float32 and evaluation mode. On the CPU it holds the checkpoint's tensors."""
    with torch.device("meta"):  # no memory for weights that are replaced
        model = GPT(GPTConfig(**checkpoint["config"]))
    model.load_state_dict(checkpoint["state"], assign=True)  # several ranks share what is mapped from a file
    return model.float().to(device).eval()


def check_branches(paths, checkpoints):
    """Raise BadInput unless the checkpoints are dense models, branches of one seed and of one shape."""
    if len(paths) < 2:
        raise BadInput(f"{paths[0]} alone cannot be mixed; name at least two models")
    first = checkpoints[0]
    shared_ids = {entry["id"] for entry in first["ledger"]}
    for path, other in zip(paths, checkpoints, strict=True):
        if other["experts"]:
            raise BadInput(f"{path} is an MoE already; mix dense models")
        for name in SHAPE:
            if other["config"][name] != first["config"][name]:
                raise BadInput(f"{path} and {paths[0]} differ in {name}; only models of one shape can be mixed")
        if other["spec"]["fingerprint"] != first["spec"]["fingerprint"]:
            raise BadInput(f"{path} and {paths[0]} have different tokenizers; their embeddings cannot be averaged")
        shared_ids &= {entry["id"] for entry in other["ledger"]}
    if not shared_ids:
        raise BadInput(f"{', '.join(paths)}: their ledgers share no seed, and the average of strangers would be noise; "
                       "for finetunes of one base see hf.py import --branch_of")


def model_names(paths):
    """The models' names: as their files are called; copies of one file are seed, seed_2, seed_3."""
    stems = [Path(path).stem for path in paths]
    names = []
    for i, stem in enumerate(stems):
        n = 1 + stems[:i].count(stem)
        names.append(stem if n == 1 else f"{stem}_{n}")
    return names


def check_save_path(out, inputs):
    """Raise BadInput unless a checkpoint can be written to `out`: a name that ends in .pt, and not that of an input."""
    if Path(out).suffix != ".pt":
        raise BadInput(f"--out {out}: name a checkpoint that ends in .pt, as in out/model.pt")
    if os.path.realpath(out) in map(os.path.realpath, inputs):
        raise BadInput(f"--out {out} is an input, too, and would be lost; choose another name")
    check_output(out)


# ---- for training: all ranks call these functions; with --shard each has a part of the model


def check_weights(model):
    """Raise BadInput if a weight is not finite, so that the last good file stays."""
    if not all(tensor.isfinite().all() for tensor in model.state_dict().values()):
        raise BadInput("--lr: the weights are not finite any more, and are not saved; try a lower rate")


def save_trained(out, model, fields):
    """Write the checkpoint of a finished run and delete its progress. fields: all but state and config."""
    check_weights(model)
    state = {}
    for name, tensor in model.state_dict().items():
        whole = tensor.full_tensor() if is_sharded(model) else tensor  # all ranks give their parts
        if is_first_rank():
            state[name] = whole.cpu()
    if is_first_rank():
        save_checkpoint(out, {"state": state, "config": vars(model.config), **fields})
        progress_path(out).unlink(missing_ok=True)
        shutil.rmtree(shards_path(out), ignore_errors=True)


def progress_path(out):
    """Where a run that writes the checkpoint `out` saves its progress."""
    return Path(out).with_suffix(".progress")


def shards_path(out):
    """Where it saves its tensors with --shard: a folder, in which each saved step has a folder."""
    return Path(out).with_suffix(".shards")


def save_progress(out, model, optimizer, settings, step, seconds, log):
    """Write NAME.progress, from which the same command goes on after `step` steps."""
    check_weights(model)
    progress = {"state": {}, "optimizer": {}, "step": step, "seconds": seconds, "log": log, "settings": settings}
    folder = shards_path(out) / str(step)
    if is_sharded(model):
        from support import shards  # takes a second
        if is_first_rank():
            shutil.rmtree(folder, ignore_errors=True)  # a run that was killed may have left a part of it
        shards.save_tensors(folder, model, optimizer)  # each rank writes its part
    else:
        progress["state"], progress["optimizer"] = model.state_dict(), optimizer.state_dict()
    if is_first_rank():
        save_checkpoint(progress_path(out), progress)
        for older in {*shards_path(out).glob("*")} - {folder}:
            shutil.rmtree(older)


def load_progress(out, model, optimizer, settings):
    """Put the progress of an interrupted run into model and optimizer. Returns (step, seconds, log); zeros without it.

    Raises BadInput if that run had other settings or other data.
    """
    path = progress_path(out)
    if not path.exists():
        return 0, 0.0, []
    progress = load_file(path, PROGRESS_KEYS)
    for name, value in settings.items():
        before = progress["settings"].get(name)
        if before == value:
            continue
        if name == "digests":
            changed = [file for file in before.keys() | value.keys() if before.get(file) != value.get(file)]
            raise BadInput(f"{path} is of a run on other data: {', '.join(sorted(changed))}; delete it to start anew")
        raise BadInput(f"{path} is of a run with {name} = {before}, now it is {value}; "
                       "use the former again, or delete the file to start anew")
    if not progress["state"]:
        from support import shards
        shards.load_tensors(shards_path(out) / str(progress["step"]), model, optimizer)
    elif is_sharded(model):
        raise BadInput(f"{path} is of a run without --shard; leave it out again, or delete the file to start anew")
    else:
        model.load_state_dict(progress["state"])
        optimizer.load_state_dict(progress["optimizer"])
    print(f"{out}: goes on from step {progress['step']}")
    return progress["step"], progress["seconds"], progress["log"]
