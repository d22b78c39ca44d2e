"""Load prepared domains, and draw batches that depend on the step alone, so that a resumed run reads the same data."""
import json
import math
import zlib
from argparse import ArgumentTypeError
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from cli import BadInput, digest
from data.task import DOMAINS, Task


class Domain(NamedTuple):
    """A domain that data.prepare wrote."""
    name: str
    train: np.ndarray  # (n,) ids of tokens, read from the disk when they are used
    val: np.ndarray
    tasks: list  # of Task
    meta: dict  # spec of the tokenizer, level, seed, and files: {name: digest}

    def windows(self, text, block_size, n):
        """n windows of `text`, which is train or val, (n, T + 1): the first ones, or, of own text, from all of it."""
        is_own = self.name not in (*DOMAINS, "switch")  # its documents differ; those of a synthetic domain are alike
        return first_windows(text, block_size, n, spread=is_own)


def load_domains(folder, names=None):
    """{name: Domain} for the named domains of a folder, or for all. Raises BadInput if one is missing, or all are."""
    prepared = sorted(path.parent.name for path in Path(folder).glob("*/meta.json"))  # the file that is written last
    if not prepared:
        raise BadInput(f"{folder}: no prepared domains here, or none that can be read; run make data, or name "
                       "another folder")
    domains = {}
    for name in names or prepared:
        if name not in prepared:
            raise BadInput(f"{folder}: no domain {name!r} here, only {', '.join(prepared)}; prepare it, too")
        path = Path(folder, name)
        try:
            domains[name] = load_domain(path)
        except OSError as error:  # it may be whole
            raise BadInput(f"{error.filename or path}: cannot be read ({error.strerror or error}); check its "
                           "permissions and the disk; if it is gone, run data.prepare again") from None
        except Exception as error:  # a file that is cut, foreign, or changed
            raise BadInput(f"{path}: damaged, or from an older version ({error}); run data.prepare again") from None
    return domains


def load_domain(path):
    """The Domain in a folder. Any error means that a file is damaged, as when its digest differs from meta.json's."""
    meta = json.loads((path / "meta.json").read_text())
    vocab_size = meta["spec"]["vocab_size"]
    train, val = (read_tokens(path / f"{part}.bin", vocab_size) for part in ("train", "val"))
    lines = (path / "tasks.jsonl").read_bytes()
    for file, content in (("train.bin", train), ("val.bin", val), ("tasks.jsonl", lines)):
        if digest(content) != meta["files"][file]:  # takes a second or two for each GB
            raise ValueError(f"{file} has changed")
    tasks = [Task(**json.loads(line)) for line in lines.splitlines()]
    return Domain(path.name, train, val, tasks, meta)


def id_type(vocab_size):
    """The NumPy type of the ids in train.bin and val.bin."""
    return "<u2" if vocab_size <= 2**16 else "<u4"


def read_tokens(path, vocab_size):
    """The ids in a .bin file, (n,). They stay on the disk until they are used."""
    if path.stat().st_size == 0:  # that of `switch` is; an empty file cannot be mapped
        return np.empty(0, id_type(vocab_size))
    return np.memmap(path, id_type(vocab_size), "r")


def check_tokenizer(domains, spec, path):
    """Raise BadInput unless all domains were prepared with `spec`, the tokenizer of the checkpoint at `path`."""
    for name, domain in domains.items():
        if domain.meta["spec"]["fingerprint"] != spec["fingerprint"]:
            raise BadInput(f"{path} and the data of {name!r} have different tokenizers; name another --data_dir, "
                           "or prepare the data with --init")


def read_mixture(text):
    """A type for argparse: the shares of domains, which sum to 1. Without numbers all domains have the same share.

    >>> read_mixture("math=3,code=1")
    {'math': 0.75, 'code': 0.25}
    """
    parts = [part.strip().partition("=") for part in text.split(",")]
    try:
        weights = {name: float(weight) if "=" in text else 1.0 for name, _, weight in parts}
    except ValueError:  # a weight is not a number, or a domain has no weight
        weights = {}
    total = sum(weights.values())
    if len(weights) < len(parts) or min(weights.values()) <= 0 or not total < math.inf:
        raise ArgumentTypeError(f"{text!r} should name each domain once, all with weights above zero or all without, "
                                "as in math=95,general=5")
    return {name: weight / total for name, weight in weights.items()}


def val_windows(domains, block_size, n):
    """{domain: n windows for validation, (n, T + 1)}. Domains with too short a text are left out and named."""
    windows = {}
    for name, domain in domains.items():
        if len(domain.val) > block_size:
            windows[name] = domain.windows(domain.val, block_size, n)
        elif len(domain.val):
            print(f"{name}: no validation loss; its {len(domain.val)} tokens are fewer than a block of {block_size}")
    return windows


def read_texts(domains, mixture, block_size, n_windows):
    """Return a mixture's training texts, {domain: (n,) tokens}, and validation windows, {domain: (n_windows, T + 1)}.

    A domain with too little validation text has no windows. Raises BadInput if a domain of the mixture is missing or
    has too little text to train on.
    """
    for name in mixture:
        if name not in domains:
            raise BadInput(f"--data: there is no domain {name!r}; the prepared ones are {', '.join(domains)}")
        if len(domains[name].train) <= block_size:
            raise BadInput(f"--data: the training text of {name!r} is shorter than --block_size {block_size}")
    texts = {name: domains[name].train for name in mixture}
    return texts, val_windows(domains, block_size, n_windows)


def get_batch(texts, mixture, shape, key, rank=0, n_ranks=1):
    """The batch of one step: each row is a window at a random place in a random domain.

    Models with the same seed and the same mixture read the same rows. Branches read different rows of a domain that
    they share, and a second run on a mixture reads new rows. The batch does not depend on the number of ranks: each
    rank draws all rows and keeps every n_ranks-th. A counter-based generator makes this possible (Salmon et al. 2011).
    texts: {domain: (n,) ids}; mixture: {domain: share}; shape: (batch_size, block_size); key: (seed, n_earlier_runs,
    step), where n_earlier_runs counts the runs in which the model has read this mixture before.
    Returns inputs and targets, (batch_size / n_ranks, block_size) each.
    """
    batch_size, block_size = shape
    seed, n_earlier_runs, step = key
    mixture_id = zlib.crc32(json.dumps(sorted(mixture.items())).encode())
    rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, mixture_id, n_earlier_runs, step]))
    names = sorted(mixture)
    chosen = rng.choice(len(names), size=batch_size, p=[mixture[name] for name in names])
    fractions = rng.random(batch_size)  # the place in its text where each row starts
    rows = []
    for i in range(rank, batch_size, n_ranks):
        text = texts[names[chosen[i]]]
        start = int(fractions[i] * (len(text) - block_size))
        rows.append(text[start:start + block_size + 1].astype(np.int64))
    rows = torch.from_numpy(np.stack(rows))  # (B / n_ranks, T + 1)
    return rows[:, :-1], rows[:, 1:]


def first_windows(text, block_size, n, spread=False):
    """The first n windows of a text (n_tokens,), side by side, (n, T + 1), or all, if it has fewer.

    spread: take n windows at equal distances instead, so that they come from many documents.
    """
    n_all = max(0, len(text) - 1) // block_size
    n = min(n, n_all)
    numbers = np.arange(n) * n_all // n if spread else np.arange(n)
    places = block_size * numbers[:, None] + np.arange(block_size + 1)  # (n, T + 1)
    return torch.from_numpy(text[places].astype(np.int64))
