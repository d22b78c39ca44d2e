"""Checkpoints are dictionaries. torch.save writes them. torch.load(weights_only=True) reads them and runs no code.

    state      the state dict of a `model.GPT`
    config     the fields of its `GPTConfig`
    spec       what data/tokenizer.py needs to build its tokenizer
    experts    the names of an MoE's experts in order; [] for a dense model
    ledger     one entry for each step that led to the model, oldest first (support/ledger.py)
    log        one line for each validation of the last training run, if there was one

`model = build_model(load_checkpoint("out/seed0/btx.pt"))` builds the model.
"""
import os
import zipfile
from pathlib import Path

import torch

from cli import BadInput, check_output, replacing
from model import GPT, ROUTERS, GPTConfig

KEYS = {"state", "config", "spec", "experts", "ledger", "log"}


def save_checkpoint(path, checkpoint):
    """Write a dictionary of tensors and plain values. If writing fails, the old file stays. Raises BadInput."""
    with replacing(path) as part:
        torch.save(checkpoint, part)


def load_file(path, keys, advice="name one that this version's scripts wrote"):
    """Read what `save_checkpoint` wrote. The tensors stay on the disk until they are used.

    A checkpoint is a zip file. Its checksums are verified first, which takes about a second per GB. Raises BadInput,
    with the advice if the file is damaged or has other keys.
    """
    if not os.path.exists(path):
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
