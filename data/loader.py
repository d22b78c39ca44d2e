"""Batches as a pure function of (seed, step, rank): a resumed run needs no sampler state, and all runs see the same data."""
import json
import os
import zlib
from pathlib import Path

import numpy as np
import torch

from data.tokenizer import id_size, is_description, of
from support.files import digest, has, open_input, read_json, reading
from support.settings import BadInput

META = {"tokenizer": dict, "level": int, "seed": int, "files": dict}
FILES = ("train.bin", "val.bin", "tasks.jsonl")
ALL_FILES = (*FILES, "meta.json")  # which holds the digests of the others


def prepared(folder):
    """The names of all domains in a folder, whole or not: subfolders with a domain's file or what a killed run left of it, even
    if it is a link to nowhere, and links to nowhere themselves."""
    with reading(folder):
        found = sorted(Path(folder).iterdir()) if Path(folder).is_dir() else []

    def counts(path):
        with reading(path):  # or one that may not be read would be left out in silence
            return not path.exists() or path.is_dir() and not {*ALL_FILES, ".new"}.isdisjoint(os.listdir(path))
    return [path.name for path in found if counts(path)]


def files_in(folder):
    """All files that read_domain could read in a folder, whether they are there or not."""
    return [Path(folder, domain, name) for domain in prepared(folder) for name in ALL_FILES]


def read_domain(folder, domain):
    """What `data.prepare` wrote of a domain: META, and what is in each of FILES: (n,) tokens, or bytes.

    A file is read once, so what it is checked to be is what will be used. Raises BadInput.
    """
    path = Path(folder) / domain / "meta.json"
    if not domain.isidentifier():
        raise BadInput(f"{domain!r} in {folder} is no name of a domain; use letters and digits")
    if not path.exists():
        raise BadInput(f"unknown domain {domain!r}: there is no {path} (prepared: {', '.join(prepared(folder)) or 'none'}); "
                       "see python -m data.prepare --help")
    about = read_json(path)
    if not has(about, META) or not is_description(about["tokenizer"]) or about["files"].keys() != set(FILES):
        raise BadInput(f"{path} is broken; prepare {domain} again")
    vocab_size = about["tokenizer"]["vocab_size"]
    for name, wanted in about["files"].items():
        part = path.with_name(name)
        with reading(part), open_input(part) as file:
            content = np.frombuffer(file.read(), "u1")
            if digest(content) != wanted:
                raise BadInput(f"{part} is not what data.prepare wrote; prepare {domain} again")
            about[name] = content.view(f"<u{id_size(vocab_size)}") if name.endswith(".bin") else content
        if name.endswith(".bin") and about[name].max(initial=0) >= vocab_size:
            raise BadInput(f"{part} has tokens that its vocabulary of {vocab_size} lacks; prepare {domain} again")
    return about


def read_domains(folder, names):
    """{name: what read_domain found} of several domains."""
    return {name: read_domain(folder, name) for name in names}


def text_of(domains, name, split, block_size):
    """The tokens of a split, "train" or "val", of one of `domains`, {name: see read_domain}, (n,) uint16 or uint32.

    Raises BadInput if there are fewer than block_size + 1.
    """
    text = domains[name][f"{split}.bin"]
    if len(text) <= block_size:
        raise BadInput(f"domain {name!r} has {len(text)} tokens in its {split}.bin, too few for a block size of {block_size}"
                       if len(text) else f"domain {name!r} is for testing alone: its {split}.bin is empty")
    return text


def check_tokenizer(domains, tokenizer, path):
    """Raise BadInput unless the checkpoint in `path` has a tokenizer that can be used, and all `domains`, see read_domain, were
    prepared with it. Returns that tokenizer."""
    for name, domain in domains.items():
        if any(domain["tokenizer"][key] != tokenizer[key] for key in ("fingerprint", "vocab_size")):
            raise BadInput(f"{path} was trained with another tokenizer than domain {name!r} was prepared with; "
                           "name another --data_dir, or prepare the data again")
    return of(tokenizer, path)


def get_batch(tokens, mixture, block_size, batch_size, seed, step, rank=0, world_size=1, stage=0):
    """The batch of one step: every row a window at a random place in a random domain.

    tokens: {domain: (n,) array}; mixture: {domain: probability}; stage: how many stages the model has behind it, so that a
    branch does not repeat its seed's batches. The mixture is part of the key, so that two branches read other rows of the domains
    that both have. All ranks draw the same batch_size rows from a counter-based generator (Salmon et al. 2011) and keep every
    world_size-th, so the global batch is the same for any number of ranks. Returns inputs and targets, each
    (batch_size / world_size, block_size) int64.
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


def first_windows(text, block_size, n_windows):
    """The first n_windows windows of a text (n,), one after another, (n, block_size + 1) int64; fewer if it is short."""
    n = min(n_windows, (len(text) - 1) // block_size)
    return torch.from_numpy(np.stack([text[i * block_size:(i + 1) * block_size + 1] for i in range(n)]).astype(np.int64))
