"""Checkpoints: plain tensors and plain values, never code. They say what they are and how they came to be.

A checkpoint is a dictionary:
    model      state dict of a `model.GPT`
    config     the fields of its `GPTConfig`
    tokenizer  {"name", "fingerprint", "vocab_size"}
    experts    for an MoE the names of its experts in order, for a dense model []
    lineage    the ledger: one entry for each stage behind the model, oldest first (see `ledger_entry`)
"""
import errno
import fcntl
import hashlib
import json
import os
import warnings
import zipfile
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path

import torch

from model import GPT, GPTConfig
from support import devices
from support.settings import BadInput

KEYS = {"model": dict, "config": dict, "tokenizer": dict, "experts": list, "lineage": list}
TOKENIZER = {"name": str, "fingerprint": str, "vocab_size": int}
STATE = {"model": dict, "optimizer": dict, "step": int, "log": list, "seconds": float, "settings": dict, "lineage": list}
NUMBER = (int, float)
ENTRY = {"id": str, "stage": str, "parents": list, "tokens": NUMBER, "flops": NUMBER, "seconds": NUMBER, "ranks": int}


def has(value, types):
    """Whether a value is a dictionary with these keys, of these types."""
    return isinstance(value, dict) and all(isinstance(value.get(key), kind) for key, kind in types.items())


def check_name(out):
    """Raise BadInput unless `out` ends in .pt: a run's log and state are named after it, with other endings."""
    if Path(out).suffix != ".pt" or Path(out).name == ".pt":
        raise BadInput(f"--out {out or 'is missing'}: name the checkpoint to write, ending in .pt, as in --out out/model.pt")


def check_stems(paths, taken=()):
    """Raise BadInput if two checkpoints have one name, since names stand for them in the tables."""
    stems = [*taken, *(Path(path).stem for path in paths)]
    for path in paths:
        if stems.count(Path(path).stem) > 1:
            raise BadInput(f"{path}: there are two models called {Path(path).stem}; rename one of the files")


def prepare_output(path):
    """Create the folder that `path` lies in and make sure a file can be written there. Raises BadInput if not."""
    try:
        if Path(path).is_dir():
            raise BadInput(f"{path}: this is a folder; choose another --out")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        trial = Path(path).with_name(f".{Path(path).name}.try")
        trial.touch()  # permission bits say little, to root or about a full disk: try
        trial.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror}); choose another --out") from None


@contextmanager
def output(path):
    """As prepare_output, and holds a lock inside: raises BadInput if another process does.

    The lock is the operating system's, so a killed process leaves none behind, though it may leave the empty file.
    """
    prepare_output(path)
    path = Path(path)
    file = path.with_name(f".{path.name}.lock")
    with open(file, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(lock.fileno()).st_nlink:  # the other run ended just now, and took the file with it
                raise BlockingIOError
        except BlockingIOError:
            raise BadInput(f"{path}: another run is writing it; wait for its end, or choose another --out") from None
        except OSError as error:
            raise BadInput(f"{path}: its folder allows no lock ({error.strerror}); choose another --out") from None
        try:
            for name in (path, path.with_suffix(".state"), path.with_suffix(".jsonl")):  # of a run that was killed
                part_of(name).unlink(missing_ok=True)
            yield
        finally:
            file.unlink(missing_ok=True)


def part_of(path):
    """The temporary file beside `path` that becomes it when it is whole."""
    return Path(path).with_name(f".{Path(path).name}.part")


def write_whole(path, write):
    """Call write(file) on a temporary file beside `path` and rename it: under its own name a file is always whole."""
    path = Path(path)
    part = part_of(path)
    try:
        with open(part, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        part.unlink(missing_ok=True)


def save(path, checkpoint):
    """Write a dictionary of tensors and plain values; raises BadInput if the disk does not let us."""
    def write(file):
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:
            if "PytorchStreamWriter" not in str(error) and "inline_container" not in str(error):
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None  # what torch makes of a write that failed
    write_whole(path, write)


def read(path):
    """Read a file of tensors and plain values without executing anything in it. Raises BadInput if it is none."""
    if not Path(path).is_file():
        raise BadInput(f"{path}: no such file")
    try:
        with warnings.catch_warnings(), open(path, "rb") as file:  # opened once: another may take its name meanwhile
            warnings.simplefilter("ignore")
            parts = zipfile.ZipFile(file).infolist()  # torch compresses nothing: what unpacks to more than it is, is not by it
            if any(p.compress_type for p in parts) or sum(p.file_size for p in parts) > os.fstat(file.fileno()).st_size:
                raise ValueError
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # bytes that are no checkpoint can make the unpickler fail in any way
        raise BadInput(f"{path}: not a checkpoint; train_expert.py, mix.py and finetune_router.py write them") from None


def load(path):
    """Read a checkpoint and check that it is one: keys, config, and the shape of every tensor. Raises BadInput."""
    checkpoint = read(path)
    if not has(checkpoint, KEYS):
        raise BadInput(f"{path}: not a checkpoint of this project, which has the keys {', '.join(KEYS)}")
    known = {f.name: f.type for f in fields(GPTConfig)}
    for name, value in checkpoint["config"].items():
        if name not in known or not isinstance(value, (int, float) if known[name] is float else known[name]):
            raise BadInput(f"{path}: its config has {name} = {value!r}, which this version does not know")
    state, tokenizer, experts = checkpoint["model"], checkpoint["tokenizer"], checkpoint["experts"]
    ids = set()
    for entry in checkpoint["lineage"]:
        if (not has({"ranks": 1} | entry if isinstance(entry, dict) else entry, ENTRY) or entry.get("ranks", 1) < 1
                or any(not isinstance(p, str) or p not in ids for p in entry["parents"])):
            raise BadInput(f"{path}: its lineage is no list of stages, parents before children")
        ids.add(entry["id"])
    if not ids or not has(tokenizer, TOKENIZER):
        raise BadInput(f"{path}: it does not say of which tokenizer and of which stages it is")
    try:
        if known.keys() - checkpoint["config"].keys():
            raise ValueError(f"the config lacks {', '.join(sorted(known.keys() - checkpoint['config'].keys()))}")
        if len(experts) != checkpoint["config"]["n_expert"] or not all(isinstance(name, str) for name in experts):
            raise ValueError(f"{len(experts)} names of experts for n_expert {checkpoint['config']['n_expert']}")
        if max(v for v in checkpoint["config"].values() if isinstance(v, int)) >= 2**62:
            raise ValueError("a number of the config is too large")
        config = GPTConfig(**checkpoint["config"])
        layers = {str(name).split(".")[1] for name in state if str(name).startswith("blocks.")}
        if len(layers) != config.n_layer:
            raise ValueError(f"{len(layers)} layers of weights for n_layer {config.n_layer}")
        with torch.device("meta"):
            expected = GPT(config).state_dict()
        for name in sorted(expected.keys() ^ state.keys(), key=str):
            raise ValueError(f"{name} is {'missing' if name in expected else 'unknown'}")
        for name, tensor in state.items():
            if not torch.is_tensor(tensor) or tensor.shape != expected[name].shape:
                raise ValueError(f"{name} should have the shape {tuple(expected[name].shape)}")
            if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.device.type != "cpu":
                raise ValueError(f"{name} is no plain matrix of real numbers")
            if tensor.untyped_storage().nbytes() < tensor.nbytes:
                raise ValueError(f"{name} claims to be larger than it is")
            if not tensor.isfinite().all():
                raise ValueError(f"{name} holds values that are not finite")
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        raise BadInput(f"{path}: weights and config do not fit together: {str(error).splitlines()[0]}") from None
    return checkpoint


def state_of(out):
    """The file in which a run that writes the checkpoint `out` saves its state; it is there until the run is done."""
    return Path(out).with_suffix(".state")


def fixed(settings):
    """The settings that a resumed run must share with the interrupted one: all but those that say how it is computed."""
    free = ("resume", "fast", "compile", "recompute", "loss_chunk", "shard")
    return {name: value for name, value in asdict(settings).items() if name not in free}


def save_state(out, model, optimizer, state):
    """Write what load_state reads; `state` is a dictionary with the keys of STATE but for model and optimizer."""
    weights, moments = devices.full_state(model, optimizer)
    if devices.rank_and_size()[0] == 0:
        save(state_of(out), state | {"model": weights, "optimizer": moments})


def load_state(out, model, optimizer, settings, lineage):
    """The state to start from: step, seconds, log, settings and lineage. An interrupted run's is put into model and optimizer.

    lineage: the ledger of what the run starts from. Raises BadInput if the state is broken, if its settings or lineage were
    others, or if there is one and --resume does not ask for it.
    """
    path = state_of(out)
    new = {"step": 0, "seconds": 0.0, "log": [], "settings": fixed(settings), "lineage": lineage}
    if not path.exists():
        return new
    if not settings.resume:
        raise BadInput(f"{path} is what an interrupted run left: --resume goes on from it; delete it to start anew")
    state = read(path)
    if not has(state, STATE):
        raise BadInput(f"{path}: not the state of an interrupted run; delete the file to start anew")
    for name, value in state["settings"].items():
        if new["settings"].get(name, value) != value:
            raise BadInput(f"{path} was written with --{name} {value}; use that again, or delete the file to start anew")
    if state["lineage"] != lineage:
        raise BadInput(f"{path} started from another {settings.init} than there is now; delete the file to start anew")
    try:
        devices.load_full_state(model, optimizer, state["model"], state["optimizer"])
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, KeyError, IndexError, RuntimeError, TypeError, ValueError):
        raise BadInput(f"{path} does not fit the model; delete the file to start anew") from None
    return {key: state[key] for key in new}


def write_log(out, log):
    """Write the lines of a run's log beside its checkpoint `out`, from the first rank."""
    text = "".join(json.dumps(line) + "\n" for line in log)
    if devices.rank_and_size()[0] == 0:
        write_whole(Path(out).with_suffix(".jsonl"), lambda file: file.write(text.encode()))


def build(checkpoint, device="cpu"):
    """The model of a checkpoint, in float32, in evaluation mode."""
    with torch.device("meta"):
        model = GPT(GPTConfig(**checkpoint["config"]))
    model.load_state_dict(checkpoint["model"], assign=True)
    if model.config.tie_weights:  # assign=True gave the two names a tensor each
        model.head.weight = model.embed.weight
    return model.to(device=device, dtype=torch.float32).eval()


def pack(weights, config, tokenizer, experts, lineage):
    """The dictionary to save: a state dict, a GPTConfig, and the rest as above."""
    return {"model": weights, "config": asdict(config), "tokenizer": tokenizer, "experts": experts,
            "lineage": lineage}


def ledger_entry(stage, out, parents, tokens=0, flops=0, seconds=0.0, **what):
    """One stage's line in the ledger.

    tokens, flops (forward and backward) and seconds are those of this stage alone; parents are the ids of the entries
    it started from. `what` says what was done: data, steps, lr, device and so on. The id is a hash of everything but the
    time taken, so that two branches of one seed are seen to share it.
    """
    entry = {"stage": stage, "name": Path(out).stem, "parents": parents, "tokens": tokens, "flops": flops, **what}
    key = hashlib.sha256(json.dumps(entry, sort_keys=True, default=str).encode()).hexdigest()[:12]
    return {"id": key, **entry, "seconds": seconds}


def join_lineages(lineages):
    """The union of several ledgers, each stage once, parents before children."""
    return list({entry["id"]: entry for lineage in lineages for entry in lineage}.values())


def totals(lineage):
    """Tokens, FLOPs and device seconds of all stages in a ledger, as a dictionary."""
    return {key: sum(entry[key] for entry in lineage) for key in ("tokens", "flops", "seconds")}


def wall_seconds(entry):
    """Seconds from start to end of one stage."""
    return entry["seconds"] / entry.get("ranks", 1)


def elapsed(lineage):
    """Seconds from start to end if every stage starts as soon as the stages it needs are done, branches at the same time."""
    done = {}
    for entry in lineage:
        done[entry["id"]] = wall_seconds(entry) + max((done[p] for p in entry["parents"]), default=0.0)
    return max(done.values(), default=0.0)
