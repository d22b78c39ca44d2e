"""Checkpoints are dictionaries. torch.save writes them. torch.load(weights_only=True) reads them and runs no code.

    state      the state dict of a `model.GPT`
    config     the fields of its `GPTConfig`
    spec       what data/tokenizer.py needs to build its tokenizer
    experts    the names of an MoE's experts in order; [] for a dense model
    ledger     one entry for each step that led to the model, oldest first (support/ledger.py)
    log        one line for each validation of the last training run, if there was one

`model = build_model(load_checkpoint("out/seed0/btx.pt"))` builds the model. An interrupted run leaves its progress in
NAME.progress, beside the checkpoint NAME.pt, with the optimizer's state and the settings of the run. It is deleted when
the run is done.
"""
import os
import zipfile
from pathlib import Path

import torch

from cli import BadInput, check_output, replacing
from model import GPT, ROUTERS, GPTConfig
from support.distributed import is_first_rank

KEYS = {"state", "config", "spec", "experts", "ledger", "log"}
PROGRESS_KEYS = {"state", "optimizer", "step", "seconds", "log", "settings"}


def save_checkpoint(path, checkpoint):
    """Write a dictionary of tensors and plain values. If writing fails, the old file stays. Raises BadInput."""
    with replacing(path) as part:
        torch.save(checkpoint, part)


def load_file(path, keys):
    """Read what `save_checkpoint` wrote. The tensors stay on the disk until they are used. Raises BadInput.

    A checkpoint is a zip file. Its checksums are verified first, which takes about a second per GB.
    """
    if not Path(path).is_file() and not os.path.isdir(path):
        raise BadInput(f"{path or 'an empty name'}: no such file")
    try:
        with zipfile.ZipFile(path) as file:
            is_whole = file.testzip() is None
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=True) if is_whole else None
    except OSError as error:  # such a file may be whole, so nobody should delete it
        raise BadInput(f"{path}: cannot be read ({error.strerror or error}); check its permissions and the "
                       "disk") from None
    except Exception:  # torch raises a different error for every kind of foreign file
        value = None
    if not isinstance(value, dict) or value.keys() != keys:
        advice = "delete it to start over" if keys is PROGRESS_KEYS else "name one that this version's scripts wrote"
        raise BadInput(f"{path}: damaged, or not a file of this project; {advice}")
    return value


def load_checkpoint(path):
    """Read a checkpoint. Raises BadInput, also if its weights do not fit its config or are not finite."""
    checkpoint = load_file(path, KEYS)
    wrong = f"{path}: its weights are not finite, or not those of its config; name another model"
    try:
        checkpoint["config"] = vars(GPTConfig()) | checkpoint["config"]  # the files of data/start lack rope_factor
        check_finite(assemble(checkpoint["config"], checkpoint["state"]).state_dict(), wrong)
    except Exception:  # a foreign value can raise any error
        raise BadInput(wrong) from None
    config = checkpoint["config"]
    if config["routing"] not in ROUTERS:
        raise BadInput(f"{path}: there is no router {config['routing']!r} here; model.py has {', '.join(ROUTERS)}")
    if config["n_expert"] and config["top_k"] not in range(1, config["n_expert"] + 1):
        raise BadInput(f"{path}: top_k in its config is {config['top_k']}; set it from 1 to {config['n_expert']}, the "
                       "number of experts")
    return checkpoint


def assemble(config, state):
    """Build a model out of the tensors of a state dict, without a copy. Raises RuntimeError if they do not fit."""
    with torch.device("meta"):  # takes no memory for weights that are replaced
        model = GPT(GPTConfig(**config))
    model.load_state_dict(state, assign=True)
    return model


def build_model(checkpoint, device="cpu", share=False):
    """Build the model of a checkpoint, in float32 and evaluation mode.

    With share, the model holds the checkpoint's own tensors where it can. This saves the memory of a copy, but whoever
    changes the model then changes the checkpoint, too, and every other model that shares it.
    """
    state = checkpoint["state"]
    if not share:
        state = {name: tensor.clone() for name, tensor in state.items()}
    return assemble(checkpoint["config"], state).float().to(device).eval()


def check_finite(state, message):
    """Raise BadInput with this message unless all weights of a state dict are finite."""
    if not all(tensor.isfinite().all() for tensor in state.values()):
        raise BadInput(message)


def check_branches(paths, checkpoints):
    """Raise BadInput unless the checkpoints are dense branches of one seed, which have equal shapes."""
    if len(paths) < 2:
        raise BadInput(f"{paths[0]} cannot be mixed alone; name at least two models")
    for path, checkpoint in zip(paths, checkpoints, strict=True):
        if checkpoint["experts"]:
            raise BadInput(f"{path} is an MoE; only dense models can be mixed")
    ids = [{entry["id"] for entry in checkpoint["ledger"]} for checkpoint in checkpoints]
    if not set.intersection(*ids):
        raise BadInput(f"{', '.join(paths)}: their ledgers share no seed, and averaging unrelated models gives noise; "
                       "for finetunes of one base model, see hf.py import --branch_of")


def model_names(paths):
    """Name the models after their files. Files with the same name become seed, seed_2, seed_3."""
    names = []
    for stem in [Path(path).stem for path in paths]:
        possible = [stem, *(f"{stem}_{n}" for n in range(2, len(paths) + 1))]
        names.append(next(name for name in possible if name not in names))
    return names


def check_save_path(out, inputs):
    """Raise BadInput unless a checkpoint can be written to `out`, which must end in .pt and must not be an input."""
    if Path(out).suffix != ".pt":
        raise BadInput(f"--out {out}: the name of a checkpoint must end in .pt, as in out/model.pt")
    if os.path.realpath(out) in map(os.path.realpath, inputs):
        raise BadInput(f"--out {out} is also an input and would be lost; choose another name")
    check_output(out)


# ---- for training: all ranks call these functions; with --shard each rank holds a part of the model


def check_weights(model):
    """Raise BadInput if a weight is not finite. The last good file then stays."""
    check_finite(model.state_dict(), "the weights are not finite any more, and are not saved; lower --lr, "
                 "or --alpha in finetuning")


def save_trained(out, model, fields):
    """Write the checkpoint of a finished run and delete its progress. fields: everything in it but state and config."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict  # takes a second
    check_weights(model)
    on_first_rank = StateDictOptions(full_state_dict=True, cpu_offload=True)  # gathers whole tensors in its memory
    state = get_model_state_dict(model, options=on_first_rank)
    if is_first_rank():
        save_checkpoint(out, {"state": state, "config": vars(model.config), **fields})
        progress_path(out).unlink(missing_ok=True)


def progress_path(out):
    """The file in which a run that writes the checkpoint `out` saves its progress."""
    return Path(out).with_suffix(".progress")


def save_progress(out, model, optimizer, settings, step, seconds, log):
    """Write NAME.progress after `step` steps. The same command resumes from it, on any number of ranks."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict  # this import takes a second
    check_weights(model)
    on_first_rank = StateDictOptions(full_state_dict=True, cpu_offload=True)  # gathers whole tensors in its memory
    state, optimizer_state = get_state_dict(model, optimizer, options=on_first_rank)
    if is_first_rank():
        save_checkpoint(progress_path(out), {"state": state, "optimizer": optimizer_state, "step": step,
                                             "seconds": seconds, "log": log, "settings": settings})


def load_progress(out, model, optimizer, settings):
    """Resume a run. Returns (step, seconds, log), or zeros without one. Raises BadInput if settings differ."""
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
            raise BadInput(f"{path} is of a run on other data: {', '.join(sorted(changed))}; delete it to start over")
        raise BadInput(f"{path} is of a run with {name} = {before}, now it is {value}; "
                       "use the old value again, or delete the file to start over")
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict
    set_state_dict(model, optimizer, model_state_dict=progress["state"], optim_state_dict=progress["optimizer"],
                   options=StateDictOptions(full_state_dict=True))  # each rank takes its part
    print(f"{out}: resumes from step {progress['step']}")
    return progress["step"], progress["seconds"], progress["log"]
