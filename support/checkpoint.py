"""Checkpoints: plain numbers and plain values, never code. They say what they are and how they came to be.

A checkpoint is a dictionary:
    model      state dict of a `model.GPT`
    config     the fields of its `GPTConfig`
    tokenizer  {"name", "fingerprint", "vocab_size"}
    experts    for an MoE the names of its experts in order, for a dense model []
    lineage    the ledger: one entry for each stage behind the model, oldest first (see `ledger.entry`)
    log        of the last stage, if it trained: a line for each validation

In the file it has the layout of safetensors: the length of a header, the header in JSON, and the numbers. Unlike a pickle, it can
hold nothing else.
"""
import json
import os
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import torch

from model import GPT, GPTConfig
from support import devices, ledger
from support.files import LIMIT, has, open_input, read_json, reading, write_whole
from support.settings import BadInput, Diverged

DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
TENSORS = ("model", "moments")  # the parts of a file that are {name: tensor}; the rest is plain
KEYS = {"model": dict, "config": dict, "tokenizer": dict, "experts": list, "lineage": list, "log": list}
TOKENIZER = {"name": str, "fingerprint": str, "vocab_size": int}
STATE = {"model": dict, "moments": dict, "step": int, "seconds": float, "settings": dict, "lineage": list, "log": list}
LINE = {"step": int, "tokens": ledger.NUMBER, "val_loss": dict}


# ---- what a valid file is ---------------------------------------------------------------------------------------------


def check_tensors(tensors, like):
    """Raise ValueError unless `tensors` have the names and shapes of `like`, {name: what has its shape}."""
    for name in sorted(like.keys() ^ tensors.keys()):
        raise ValueError(f"{name} is {'missing' if name in like else 'unknown'}")
    for name, tensor in tensors.items():
        if tensor.shape != like[name].shape:
            raise ValueError(f"{name} should have the shape {tuple(like[name].shape)}")


def shapes(config):
    """{name: tensor on "meta"}, the state dict of a GPTConfig's model; from that of one layer, since many take long."""
    with torch.device("meta"):
        one = GPT(replace(config, n_layer=1)).state_dict()
    return {name.replace("blocks.0.", f"blocks.{i}."): t for i in range(config.n_layer) for name, t in one.items()}


def check(checkpoint):
    """Raise ValueError unless a value is a checkpoint whose parts fit together: what load accepts, and what save writes."""
    if not has(checkpoint, KEYS) or checkpoint.keys() != KEYS.keys():
        raise ValueError("not a checkpoint of this project")
    config, tokenizer, experts = (checkpoint[key] for key in ("config", "tokenizer", "experts"))
    known = {f.name: ledger.NUMBER if f.type is float else f.type for f in fields(GPTConfig)}
    if config.keys() != known.keys() or not has(config, known):
        wrong = [name for name in config.keys() | known.keys() if name not in known or not has(config, {name: known[name]})]
        raise ValueError(f"its config has {wrong[0]} = {config.get(wrong[0])!r}, which this version does not know")
    described = has(tokenizer, TOKENIZER) and tokenizer.keys() - {"bpe"} == TOKENIZER.keys()
    if not described or tokenizer["vocab_size"] != config["vocab_size"]:
        raise ValueError("it does not say of which tokenizer it is, or has another vocabulary than that")
    if (len(experts) != config["n_expert"] or len({*map(str, experts)}) < len(experts)
            or not all(isinstance(name, str) and name.isprintable() and name for name in experts)):
        raise ValueError(f"its experts should have {config['n_expert']} different names")
    ledger.check(checkpoint["lineage"])
    check_log(checkpoint["log"])
    config = GPTConfig(**config)
    if config.n_layer > len(checkpoint["model"]):  # before so many are named
        raise ValueError(f"{len(checkpoint['model'])} tensors are too few for n_layer {config.n_layer}")
    check_tensors(checkpoint["model"], shapes(config))


def check_log(log):
    """Raise ValueError unless a value is a list of what training notes at a validation."""
    if not all(has(line, LINE) and all(isinstance(v, ledger.NUMBER) for v in line["val_loss"].values()) for line in log):
        raise ValueError("its log is no list of validations")


# ---- reading and writing ----------------------------------------------------------------------------------------------


def start_of(value):
    """The first bytes of a value's file, where behind them each tensor lies, {(part, name): byte}, and how many bytes follow."""
    plain = json.dumps({key: v for key, v in value.items() if key not in TENSORS}, allow_nan=False)
    header, places, end = {"__metadata__": {"plain": plain}}, {}, 0
    for part in TENSORS:
        for name, t in value.get(part, {}).items():
            places[part, name], end = end, end + t.nbytes
            header[f"{part}/{name}"] = {"dtype": DTYPES[t.dtype], "shape": [*t.shape], "data_offsets": [end - t.nbytes, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, places, end


@contextmanager
def opened(path, check=None):
    """Open a file that `write` wrote. Yields the value in it, with tensors on "meta", and a function that reads one of them.

    check: called with that value, so that nothing large is read in vain. tensor(part, name), where part is one of TENSORS, is in
    memory of its own; raises ValueError if it is not finite. Raises BadInput if the file does not begin, or end, as `write` would
    have made it of that value.
    """
    none = BadInput(f"{path}: not a checkpoint; train_expert.py, mix.py and finetune_router.py write them")
    with open_input(path) as file:
        try:
            header = read_json(path, file.read(min(int.from_bytes(file.read(8), "little"), LIMIT + 1)))
            value, dtypes = read_json(path, header.pop("__metadata__")["plain"]), {name: dtype for dtype, name in DTYPES.items()}
            for name, about in header.items():
                part, name = name.split("/")
                meta = torch.empty(about["shape"], dtype=dtypes[about["dtype"]], device="meta")
                value.setdefault(part, {})[name] = meta
                if not meta.numel():
                    raise ValueError
            start, places, end = start_of(value)
            file.seek(0)
            if file.read(len(start)) != start or os.fstat(file.fileno()).st_size != len(start) + end:
                raise ValueError
        except Exception:  # whatever the bytes of another file may be taken for
            raise none from None

        def tensor(part, name):
            like = value[part][name]
            numbers = np.empty(like.nbytes, np.uint8)
            file.seek(len(start) + places[part, name])
            if file.readinto(numbers) < like.nbytes:
                raise none
            t = torch.from_numpy(numbers).view(like.dtype).view(like.shape)
            if not torch.stack(t.aminmax()).float().isfinite().all():  # in the dtype that everything is computed in
                raise ValueError(f"{name} holds values that are not finite")
            return t
        if check:
            check(value)
        yield value, tensor


def read(path, check=None, keep=True):
    """The whole value that `opened` finds; tensors stay on "meta" if it is read only to see whether it can be."""
    with opened(path, check) as (value, tensor):
        for part in (part for part in TENSORS if part in value):
            for name in value[part]:
                t = tensor(part, name)
                if keep:
                    value[part][name] = t
    return value


def write(path, value, check=None, tensors=()):
    """Write a dictionary whose TENSORS are {name: tensor} and whose rest is plain. check: see write_whole. Raises BadInput.

    tensors: the same in order, one made after another, if the value has them on "meta".
    """
    likes = [t for part in TENSORS for t in value.get(part, {}).values()]
    start, _, _ = start_of(value)

    def save_to(file):
        file.write(start)
        for like, t in zip(likes, tensors or likes, strict=True):
            file.write(t.detach().to("cpu", like.dtype).contiguous().view(-1).view(torch.uint8).numpy().data)
    write_whole(path, save_to, check)


@contextmanager
def open_checkpoint(path):
    """As `opened`, of a checkpoint, checked. Its name ends in .pt, so that it is no other file of ours. Raises BadInput."""
    if Path(path).suffix != ".pt" or not Path(path).stem.isprintable():
        raise BadInput(f"{path}: not a checkpoint by its name: rename it, so that it ends in .pt and can be printed")
    with ExitStack() as stack:
        with reading(path):
            value, tensor = stack.enter_context(opened(path, check))

        def weight(name):
            with reading(path):
                return tensor("model", name)
        yield value, weight


def load(path):
    """Read a whole checkpoint and check it. Raises BadInput."""
    with open_checkpoint(path) as (checkpoint, weight):
        return checkpoint | {"model": {name: weight(name) for name in checkpoint["model"]}}


def save(path, value, tensors=(), check=check):
    """Write a checkpoint that load accepts, or, with check=None, a state; tensors: see `write`. Raises Diverged if it cannot."""
    try:
        write(path, value, lambda part: read(part, check, keep=False), tensors)
    except ValueError as error:
        raise Diverged(f"{path} is not written: {error} (of training: try a lower --lr)") from None


def check_name(out):
    """Raise BadInput unless `out` ends in .pt and can be printed: a state is named after it, and experts are."""
    if Path(out).suffix != ".pt" or not Path(out).name.isprintable():
        raise BadInput(f"--out {out or 'is missing'}: name the checkpoint to write, ending in .pt, as in --out out/model.pt")


# ---- an interrupted run -----------------------------------------------------------------------------------------------


def state_of(out):
    """The file in which a run that writes the checkpoint `out` saves its state; it is there until the run is done."""
    return Path(out).with_suffix(".state")


def check_no_state(out):
    """Raise BadInput if an interrupted run that writes `out` left its state."""
    if state_of(out).exists():
        raise BadInput(f"{state_of(out)} is what an interrupted run left; delete it, or choose another --out")


def setup(settings, config, device, digests):
    """All that a run's result depends on, in plain values: its options but those with which it may go on otherwise, and the rest.

    digests: of what it reads, {"math/train.bin": ...}. All is in the ledger, and a run that goes on must have the same.
    """
    free = ("resume", "recompute", "shard")
    options = {name: value for name, value in asdict(settings).items() if name not in free}
    return options | {"block_size": config.block_size, "dtype": devices.pick_dtype(settings.dtype, device), "device": device.type,
                      "torch": str(torch.__version__)} | digests


def save_state(out, model, optimizer, state):
    """Write what load_state reads; `state` has the keys of STATE but for the tensors. Raises Diverged."""
    weights, moments = devices.full_state(model, optimizer)
    if devices.rank_and_size()[0] == 0:
        plain = {key: state[key] for key in STATE if key in state}
        save(state_of(out), plain | {"model": weights, "moments": moments}, check=None)


def load_state(out, model, optimizer, settings, setup, lineage):
    """The state to start from, all but its tensors; those of an interrupted run are put into model and optimizer.

    lineage: the ledger of what the run starts from. Raises BadInput if the state is broken, if its settings or lineage were
    others, or if there is one and --resume does not ask for it.
    """
    path = state_of(out)
    new = {"step": 0, "seconds": 0.0, "settings": setup, "lineage": lineage, "log": []}
    if not path.exists():
        return new
    if not settings.resume:
        raise BadInput(f"{path} is what an interrupted run left: --resume goes on from it; delete it to start anew")

    def fits(state):
        """Raise an error unless the state, its tensors still on "meta", is one of this run."""
        if not has(state, STATE) or state.keys() != STATE.keys():
            raise BadInput(f"{path}: not the state of an interrupted run; delete the file to start anew")
        for name in sorted(setup.keys() | state["settings"].keys(), key=str):
            old, now = state["settings"].get(name), setup.get(name)
            if type(old) is not type(now) or old != now:
                raise BadInput(f"{path} was written with {'--' * hasattr(settings, str(name))}{name} {str(old)[:200]}, now it is "
                               f"{str(now)[:200]}; use the former again, or delete the file to start anew")
        if json.dumps(state["lineage"]) != json.dumps(lineage):
            raise BadInput(f"{path} started from another {settings.init} than there is now; delete the file to start anew")
        check_tensors(state["model"], model.state_dict())
        check_tensors(state["moments"], devices.moments_like(optimizer))
        check_log(state["log"])
        known = {p.dtype for p in model.parameters()} | {torch.float32}
        if (not 0 < state["step"] < settings.steps or not 0 <= state["seconds"] < 1e40
                or not all(0 < line["step"] <= state["step"] for line in state["log"])
                or any(t.dtype not in known for part in TENSORS for t in state[part].values())):
            raise ValueError("its numbers do not belong together")
    with reading(path, "used; delete the file to start anew"):
        state = read(path, fits)
        for name, t in state["moments"].items():
            if name.endswith(".step") and t != state["step"] or name.endswith("exp_avg_sq") and (t < 0).any():
                raise ValueError(f"{name} is none of AdamW's")
    devices.load_full_state(model, optimizer, state["model"], state["moments"])
    return new | {key: state[key] for key in ("step", "seconds", "log")}


# ---- models ------------------------------------------------------------------------------------------------------------


def build(checkpoint, device="cpu"):
    """The model of a checkpoint, in float32, in evaluation mode."""
    with torch.device("meta"):
        model = GPT(GPTConfig(**checkpoint["config"]))
    model.load_state_dict(checkpoint["model"], assign=True)
    return model.to(device=device, dtype=torch.float32).eval()


def pack(weights, config, tokenizer, experts, lineage, log=(), dtype=None):
    """The dictionary to save: a state dict, rounded if dtype is "bfloat16", a GPTConfig, and the rest as above."""
    if dtype == "bfloat16":
        weights = {name: t if t is None else t.bfloat16() for name, t in weights.items()}  # None: see devices.whole
    return {"model": weights, "config": asdict(config), "tokenizer": tokenizer, "experts": experts, "lineage": lineage,
            "log": list(log)}
