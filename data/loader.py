"""Batches as a pure function of (seed, step, rank): a resumed run needs no sampler state, and all runs see the same data."""
import json
import os
import zlib
from pathlib import Path

import numpy as np
import torch

from support.files import digest, has, open_input, read_json
from support.settings import BadInput

META = {"tokenizer": str, "fingerprint": str, "vocab_size": int, "level": int, "facts": int, "seed": int, "files": dict}


def open_split(folder, domain, split, block_size=1):
    """The tokens of one domain, memory-mapped, (n,) uint16.

    Raises BadInput if the domain is unknown or holds no window of block_size tokens and the one after them.
    """
    path = Path(folder) / domain / f"{split}.bin"
    if not path.exists():
        raise BadInput(f"unknown domain {domain!r}: there is no {path} (prepared: {', '.join(prepared(folder)) or 'none'}); "
                       "see python -m data.prepare --help")
    with open_input(path) as file:
        n, rest = divmod(os.fstat(file.fileno()).st_size, 2)
        if rest:
            raise BadInput(f"{path} ends in the middle of a token; prepare it again")
        if n <= block_size:
            raise BadInput(f"{path} holds {n} tokens, too few for a block size of {block_size}" if n else
                           f"domain {domain!r} is for testing alone: {path} is empty")
        return np.memmap(file, dtype="<u2", mode="r")


def prepared(folder):
    """The names of all domains prepared in a folder."""
    return sorted(p.parent.name for p in Path(folder).glob("*/meta.json"))


def read_meta(folder, domain):
    """What `data.prepare` noted about a domain, META; its files are checked to be those that were written then."""
    open_split(folder, domain, "val")
    path = Path(folder) / domain / "meta.json"
    meta = read_json(path)
    if not has(meta, META) or meta["files"].keys() != {"train.bin", "val.bin", "tasks.jsonl"}:
        raise BadInput(f"{path} is broken; prepare {domain} again")
    for name, wanted in meta["files"].items():
        if digest(path.with_name(name)) != wanted:
            raise BadInput(f"{path.with_name(name)} is not what data.prepare wrote; prepare {domain} again")
        if name.endswith(".bin") and np.fromfile(path.with_name(name), "<u2").max(initial=0) >= meta["vocab_size"]:
            raise BadInput(f"{path.with_name(name)} has tokens that its vocabulary of {meta['vocab_size']} lacks; "
                           f"prepare {domain} again")
    return meta


def check_tokenizer(folder, domains, tokenizer, path):
    """Raise BadInput unless all domains were prepared with the tokenizer of the checkpoint in `path`."""
    for domain in domains:
        if read_meta(folder, domain)["fingerprint"] != tokenizer["fingerprint"]:
            raise BadInput(f"{path} was trained with another tokenizer than {folder}/{domain} was prepared with; "
                           "name another --data_dir, or prepare the data again")


def get_batch(tokens, mixture, block_size, batch_size, seed, step, rank=0, world_size=1, stage=0):
    """The batch of one step: every row a window at a random place in a random domain.

    tokens: {domain: (n,) array}; mixture: {domain: probability}. stage: how many stages the model has behind it, so that a
    branch does not read again what its seed has read. The mixture is part of the key, so that two branches read other rows of
    the domains that both have. All ranks draw the same batch_size rows from a
    counter-based generator (Salmon et al. 2011) and keep every world_size-th, so the global batch is the same for any
    number of ranks. Returns inputs and targets, each (batch_size / world_size, block_size) int64.
    """
    branch = zlib.crc32(json.dumps(sorted(mixture.items())).encode())
    rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, branch, stage, step]))
    names = sorted(mixture)
    chosen = rng.choice(len(names), size=batch_size, p=[mixture[n] for n in names])
    places = rng.random(batch_size)
    rows = []
    for domain, place in list(zip(chosen, places, strict=True))[rank::world_size]:
        text = tokens[names[domain]]
        start = int(place * (len(text) - block_size))
        rows.append(text[start:start + block_size + 1].astype(np.int64))
    rows = torch.from_numpy(np.stack(rows))
    return rows[:, :-1], rows[:, 1:]


def first_windows(folder, domain, block_size, n_windows, split="val"):
    """The first n_windows windows of a text, one after another, (n, block_size + 1) int64; fewer if it is short."""
    text = open_split(folder, domain, split, block_size)
    n = min(n_windows, (len(text) - 1) // block_size)
    return torch.from_numpy(np.stack([text[i * block_size:(i + 1) * block_size + 1] for i in range(n)]).astype(np.int64))


def open_data(folder, mixture, block_size, n_windows):
    """The training text of each domain in the mixture, see open_split, and validation windows, see first_windows: of these
    domains and of all others that are prepared and long enough."""
    tokens = {domain: open_split(folder, domain, "train", block_size) for domain in mixture}
    windows = {domain: first_windows(folder, domain, block_size, n_windows) for domain in prepared(folder)
               if domain in mixture or len(open_split(folder, domain, "val")) > block_size}
    return tokens, windows
