"""Checkpoints: tensors and JSON, never code. They say what they are and how they came to be.

A checkpoint is a dictionary:
    model      state dict of a `model.GPT`
    config     the fields of its `GPTConfig`
    tokenizer  {"name", "fingerprint", "vocab_size"}
    experts    for an MoE the names of its experts in order, for a dense model []
    lineage    the ledger: one entry for each stage behind the model, oldest first (see `ledger.entry`)
    log        of the last stage, if it trained: a line for each validation

In the file it has the layout of safetensors: the length of a header, the header in JSON, and the numbers. Unlike a pickle, it can
hold nothing else. `model = build(load("out/seed0/btx.pt"))` is a model again.
"""
import json
import os
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path

import torch

from data.tokenizer import is_description
from model import GPT, GPTConfig
from support import devices, ledger
from support.files import LIMIT, has, open_input, read_json, reading, state_of, write_whole
from support.settings import BadInput, Diverged

DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
TENSORS = ("model", "moments")  # the parts of a file that are {name: tensor}; the rest is plain
KEYS = {"model": dict, "config": dict, "tokenizer": dict, "experts": list, "lineage": list, "log": list}
STATE = {"model": dict, "moments": dict, "step": int, "seconds": float, "settings": dict, "log": list}
LINE = {"step": int, "tokens": ledger.NUMBER, "val_loss": dict}


# ---- what a valid file is ---------------------------------------------------------------------------------------------


def check_tensors(tensors, like, dtype=False):
    """Raise ValueError unless `tensors` have the names and shapes, and also dtypes if asked for, of `like`."""
    for name in sorted(like.keys() ^ tensors.keys()):
        raise ValueError(f"{name} is {'missing' if name in like else 'unknown'}")
    for name, tensor in tensors.items():
        if tensor.shape != like[name].shape or dtype and tensor.dtype != like[name].dtype:
            raise ValueError(f"{name} should have the shape {tuple(like[name].shape)}" + f" and be {like[name].dtype}" * dtype)


def shapes(config):
    """{name: tensor on "meta"}, the state dict of a GPTConfig's model."""
    with torch.device("meta"):
        return GPT(config).state_dict()


def check(checkpoint):
    """Raise ValueError unless a value is a checkpoint whose parts fit together: what load accepts, and what save writes."""
    if not has(checkpoint, KEYS) or checkpoint.keys() != KEYS.keys():
        raise ValueError("not a checkpoint of this project")
    config, tokenizer, experts = (checkpoint[key] for key in ("config", "tokenizer", "experts"))
    known = {f.name: ledger.NUMBER if f.type is float else f.type for f in fields(GPTConfig)}
    wrong = [name for name in config.keys() | known.keys() if not has(config, {name: known.get(name, ())})]
    if wrong:
        raise ValueError(f"its config has {wrong[0]} = {config.get(wrong[0])!r}, which this version does not know")
    if not is_description(tokenizer) or tokenizer["vocab_size"] != config["vocab_size"]:
        raise ValueError("it does not say of which tokenizer it is, or has another vocabulary than that")
    names = {name for name in experts if isinstance(name, str) and name.isprintable() and 0 < len(name) < 300}
    if not len(names) == len(experts) == config["n_expert"]:
        raise ValueError(f"its experts should have {config['n_expert']} different names")
    ledger.check(checkpoint["lineage"])
    check_log(checkpoint["log"])
    check_tensors(checkpoint["model"], shapes(GPTConfig(**config)))


def check_log(log):
    """Raise ValueError unless a value is a list of what training notes at a validation."""
    if not all(has(line, LINE) and all(isinstance(v, ledger.NUMBER) for v in line["val_loss"].values()) for line in log):
        raise ValueError("its log is no list of validations")


# ---- reading and writing ----------------------------------------------------------------------------------------------


def start_of(value):
    """The first bytes of a value's file, the offset of each tensor behind them, {(part, name): bytes}, and the tensors' size."""
    plain = json.dumps({key: v for key, v in value.items() if key not in TENSORS}, allow_nan=False)
    header, places, end = {"__metadata__": {"plain": plain}}, {}, 0
    for part in TENSORS:
        for name, t in value.get(part, {}).items():
            places[part, name], end = end, end + t.nbytes
            header[f"{part}/{name}"] = {"dtype": DTYPES[t.dtype], "shape": [*t.shape], "data_offsets": [end - t.nbytes, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, places, end


def value_of(path, start):
    """The inverse of start_of: the value, its tensors on "meta", the offsets, the tensors' size. Raises errors of any kind."""
    header = read_json(path, start[8:])
    value, dtypes = read_json(path, header.pop("__metadata__")["plain"]), {name: dtype for dtype, name in DTYPES.items()}
    for key, about in header.items():
        part, name = key.split("/")
        value.setdefault(part, {})[name] = torch.empty(about["shape"], dtype=dtypes[about["dtype"]], device="meta")
    again, places, end = start_of(value)
    if again != start:
        raise ValueError("this is not what would be written of it")
    return value, places, end


def finite(name, t):
    """The tensor t. Raises ValueError if it has numbers that are not finite in the dtype that everything is computed in."""
    if not torch.stack(t.aminmax()).float().isfinite().all():
        raise ValueError(f"{name} holds values that are not finite")
    return t


@contextmanager
def opened(path, check=lambda value: None, verb="read"):
    """Open a file that `write` wrote. Yields the value in it, with tensors on "meta", and a function that reads one of them.

    check: called with that value, so that nothing large is read in vain. tensor(part, name), where part is one of TENSORS, is
    in memory of its own. Both raise BadInput, also if the file does not begin, or end, as `write` would have made it.
    """
    with open_input(path) as file:
        with reading(path, verb):
            try:
                start = file.read(8)
                start += file.read(min(int.from_bytes(start, "little"), LIMIT + 1))
                value, places, end = value_of(path, start)
                if file.seek(0, 2) != len(start) + end:  # its size
                    raise ValueError("it was cut off")
            except Exception:  # whatever the bytes of another file may be taken for
                raise BadInput(f"{path}: not a checkpoint; train_expert.py, mix.py and finetune_router.py write them") from None
            check(value)

        def tensor(part, name):
            with reading(path, verb):
                t = torch.empty_like(value[part][name], device="cpu")
                file.seek(len(start) + places[part, name])
                if file.readinto(t.view(-1).view(torch.uint8).numpy()) < t.nbytes:
                    raise ValueError("it was cut off")
                return finite(name, t)
        yield value, tensor


def read(path, *check):
    """The whole value that `write` wrote; arguments as in `opened`."""
    with opened(path, *check) as (value, tensor):
        return value | {part: {name: tensor(part, name) for name in value[part]} for part in TENSORS if part in value}


def write(path, value, tensors=(), check=lambda value: None):
    """Write a dictionary whose TENSORS are {name: tensor} and whose rest is plain, if it is what `read` with `check` accepts.

    tensors: the same in order, one made after another, if the value has them on "meta". Raises Diverged if it is not accepted,
    BadInput if it cannot be written, or its plain part is too large to read.
    """
    named = [(name, t) for part in TENSORS for name, t in value.get(part, {}).items()]

    def save_to(file):
        start = start_of(value)[0]
        check(value_of(path, start)[0])
        file.write(start)
        for (name, like), t in zip(named, tensors or [t for _, t in named], strict=True):
            t = finite(name, t.detach().to("cpu", like.dtype).contiguous())
            file.write(t.view(-1).view(torch.uint8).numpy().data)
    try:
        write_whole(path, save_to)
    except ValueError as error:
        raise Diverged(f"{path} is not written: {error} (of training: try a lower --lr)") from None


def check_name(path, option=""):
    """Raise BadInput, beginning with `option`, unless a name ends in .pt and can be printed: states and experts have it, too."""
    if Path(path).suffix != ".pt" or not Path(path).name.isprintable():
        raise BadInput(f"{option}{str(path)!r}: name a checkpoint that ends in .pt and can be printed, as out/model.pt")


def open_checkpoint(path):
    """As `opened`, of a checkpoint. Raises BadInput."""
    check_name(path)
    return opened(path, check)


def load(path):
    """Read a whole checkpoint. Raises BadInput."""
    check_name(path)
    return read(path, check)


def save(path, checkpoint, tensors=()):
    """Write a checkpoint that load accepts; see `write`."""
    write(path, checkpoint, tensors, check)


def build(checkpoint, device="cpu"):
    """The model of a checkpoint, in float32, in evaluation mode."""
    with torch.device("meta"):
        model = GPT(GPTConfig(**checkpoint["config"]))
    model.load_state_dict(checkpoint["model"], assign=True)
    return model.to(device=device, dtype=torch.float32).eval()


def pack(weights, config, tokenizer, experts, lineage, log=(), dtype=None):
    """The dictionary to save: a state dict, rounded if dtype is "bfloat16", a GPTConfig, and the rest as above."""
    if dtype == "bfloat16":
        weights = {name: t.bfloat16() for name, t in weights.items()}
    return {"model": weights, "config": asdict(config), "tokenizer": tokenizer, "experts": experts, "lineage": lineage,
            "log": list(log)}


# ---- an interrupted run -----------------------------------------------------------------------------------------------


def setup(settings, config, device, header, digests):
    """All that a run's result depends on, in plain values. It is in the ledger, and the same when a run goes on.

    header: see train_expert.train; digests: of what it reads, {"math/train.bin": ...}.
    """
    options = {name: value for name, value in asdict(settings).items() if name not in ("resume", "recompute", "shard")}
    return options | {"block_size": config.block_size, "dtype": devices.pick_dtype(settings.dtype, device), "device": device.type,
                      "torch": str(torch.__version__), "config": asdict(config), "experts": header["experts"],
                      "stages of --init": [entry["id"] for entry in header["lineage"]]} | digests


def save_state(out, model, optimizer, state):
    """Write what load_state reads; `state` has the keys of STATE but for the tensors. Raises Diverged."""
    weights, moments = devices.full_state(model, optimizer)
    if devices.rank_and_size()[0] == 0:
        write(state_of(out), state | {"model": weights, "moments": moments})


def load_state(out, model, optimizer, settings, setup):
    """The state to start from, all but its tensors; those of an interrupted run are put into model and optimizer.

    Raises BadInput if the state is broken, or if its setup was another.
    """
    path = state_of(out)
    new = {"step": 0, "seconds": 0.0, "settings": setup, "log": []}
    if not settings.resume or not os.path.lexists(path):
        return new

    def fits(state):
        """Raise an error unless the state, its tensors still on "meta", is one of this run."""
        if not has(state, STATE) or state.keys() != STATE.keys():
            raise BadInput(f"{path}: not the state of an interrupted run; delete the file to start anew")
        for name in [*setup, *sorted(state["settings"].keys() - setup.keys())]:
            old, now = state["settings"].get(name), setup.get(name)
            if type(old) is not type(now) or old != now:
                raise BadInput(f"{path} was written with {'--' * hasattr(settings, name)}{name} {str(old)[:200]}, now it is "
                               f"{str(now)[:200]}; use the former again, or delete the file to start anew")
        check_tensors(state["model"], model.state_dict(), dtype=True)
        check_tensors(state["moments"], devices.moments_like(optimizer), dtype=True)
        check_log(state["log"])
        if (not 0 < state["step"] < settings.steps or not 0 <= state["seconds"] < 1e40
                or not all(0 < line["step"] <= state["step"] for line in state["log"])):
            raise ValueError("its numbers do not belong together")
    state = read(path, fits, "used; delete the file to start anew")
    devices.load_full_state(model, optimizer, state["model"], state["moments"], state["step"])
    return new | {key: state[key] for key in ("step", "seconds", "log")}
