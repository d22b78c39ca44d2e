"""Write the domains as tokens: data/bin/DOMAIN/{train,val}.bin, meta.json and tasks.jsonl; same seed, same bytes.

    python -m data.prepare                                             # all domains and `switch`
    python -m data.prepare --domains math --level 2                    # one, harder
    python -m data.prepare --domains "" --text poems=~/poems rfc='rfc/*.gz'   # text of one's own, in files or folders
    python -m data.prepare --domains "" --text news=news.jsonl --init out/seed.pt  # in the tokens of an imported model
"""
import hashlib
import json
import os
import random
import shutil
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from data import text, tokenizer
from data.loader import ALL_FILES, FILES
from data.task import DOMAINS, Task, domain_module
from support import checkpoint as ckpt
from support.files import check_other, digest, output, reading, write_text
from support.settings import BadInput, option, parse, run


@dataclass
class Settings:
    domains: str = option(",".join(DOMAINS) + ",switch", "domains to write, separated by commas", empty=True)
    level: int = option(1, "1: for a laptop; 2: for 25M to 100M parameters on a GPU", choices=(1, 2))
    text: list = option([], "NAME=PATH: a file, a folder or a pattern of files as one more domain; a name given twice has both; "
                        "plain UTF-8 or .jsonl, .gz or not", nargs="+", metavar="NAME=PATH")
    field: str = option("text", "for .jsonl: what holds the text of a line")
    train_tokens: int = option(2_000_000, "tokens of training text for each domain of --domains", low=1, high=10**9)
    val_tokens: int = option(50_000, "tokens of validation text for each domain", low=1, high=10**9)
    tasks: int = option(400, "test tasks for each domain of --domains, all different", low=1, high=10**6)
    tokenizer: str = option("", "btx if not given; an encoding of tiktoken's such as gpt2; or a number N: a new one of N tokens, "
                            "trained on the beginning of each --text")
    init: str = option("", "use the tokenizer of this checkpoint instead, as of an imported model")
    seed: int = option(0, "another seed, other text", low=0)
    out: str = option("data/bin", "folder to write to")


def documents(name, rng, level, unseen=False):
    """Endless text of one domain, a document at a time; `switch` goes to another domain with each document.

    unseen: code consists of functions that are never in the training text.
    """
    previous = None
    while True:
        previous = rng.choice([d for d in DOMAINS if d != previous]) if name == "switch" else name
        if unseen and name == "code":
            task = domain_module(name).task(rng, level)
            yield task.prompt + task.answer
        else:
            yield domain_module(previous).document(rng, level)


def draw_task(name, rng, level):
    """One task; of `switch`: a document of one domain, END, and a task of another domain."""
    if name != "switch":
        return domain_module(name).task(rng, level)
    before, after = rng.sample(DOMAINS, 2)
    start, task = domain_module(before).document(rng, level), domain_module(after).task(rng, level)
    return Task(start + tokenizer.END + task.prompt, task.answer, task.kind, task.cases)


def distinct_tasks(name, rng, settings):
    """settings.tasks tasks, no prompt twice; fewer if the domain has fewer."""
    tasks = {}
    for _ in range(50 * settings.tasks):
        task = draw_task(name, rng, settings.level)
        tasks.setdefault(task.prompt, task)
        if len(tasks) == settings.tasks:
            break
    return list(tasks.values())


def encode(encoding, texts, n_tokens):
    """Tokens of the texts, each followed by the end-of-text token; exactly n_tokens of them."""
    tokens = tokenizer.ids(encoding, "")
    for document in texts:
        tokens.extend(tokenizer.ids(encoding, document))
        tokens.append(encoding.eot_token)
        if len(tokens) >= n_tokens:
            return tokens[:n_tokens]


def write(folder, parts, tasks, meta):
    """Write one domain, digests included, into the folder `.new` in its folder. Returns the number of tokens in train and val.

    parts: ("train.bin" or "val.bin", array of tokens) one after another, which are not all held in memory.
    """
    new, sizes, keys = folder / ".new", dict.fromkeys(FILES[:2], 0), {name: hashlib.sha256() for name in FILES}
    with reading(folder, "written"), ExitStack() as stack:  # closing a file writes, too
        clear(new)
        new.mkdir()
        files = {name: stack.enter_context(open(new / name, "xb")) for name in FILES}

        def add(name, content):
            with reading(folder / name, "written"):
                files[name].write(content)
            keys[name].update(content)
        for name, tokens in parts:
            sizes[name] += len(tokens)
            if sys.byteorder == "big":
                tokens.byteswap()
            add(name, tokens.tobytes())
        add("tasks.jsonl", "".join(json.dumps(asdict(t)) + "\n" for t in tasks).encode())
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    write_text(new / "meta.json", json.dumps(meta | {"files": {name: digest(key) for name, key in keys.items()}}))
    return sizes.values()


def clear(folder):
    """Remove what a killed run left, or a link of somebody's."""
    shutil.rmtree(folder) if folder.is_dir() and not folder.is_symlink() else folder.unlink(missing_ok=True)


def move(folders):
    """Put the domains that `write` wrote in the place of older ones: all old meta.json go first, the new ones come last.

    If a file cannot go, as one that is mounted, all come back; they do on Ctrl-C, too.
    """
    with ExitStack() as back:
        for name in ("meta.json", *FILES):
            for folder in folders:
                now, old = folder / name, folder / ".new" / f"old.{name}"
                if now.exists():
                    back.callback(lambda old, now: old.exists() and old.replace(now), old, now)
                    now.replace(old)
        for name in ALL_FILES:
            for folder in folders:
                (folder / ".new" / name).replace(folder / name)
        back.pop_all()


def check_text(name, path, out):
    """Raise BadInput unless a domain may have this name, and its text this path."""
    if not path:
        raise BadInput(f"--text: {name!r} should read NAME=PATH")
    with reading(path):
        if Path(path).expanduser().resolve() in Path(out).resolve().parents:  # or what is written is read the next time
            raise BadInput(f"--text: {path} holds --out {out}; choose another --out")
    if not name.isidentifier() or name in DOMAINS or name == "switch":
        raise BadInput(f"--text: {name!r} is no good name for a new domain; use letters and digits")


def prepare_domain(name, encoding, settings):
    """A synthetic domain; training text, validation text and tasks come from generators of their own."""
    rngs = {part: random.Random(f"{settings.seed}/{name}/{part}") for part in ("train", "val", "tasks")}
    sizes = {"train": 0 if name == "switch" else settings.train_tokens, "val": settings.val_tokens}  # nobody trains on switch
    parts = [(f"{part}.bin", encode(encoding, documents(name, rngs[part], settings.level, part == "val"), n))
             for part, n in sizes.items()]
    return parts, distinct_tasks(name, rngs["tasks"], settings)


def main(argv=None):
    settings = parse(Settings, argv)
    names = [name for name in settings.domains.split(",") if name]
    for name in names:
        if name not in (*DOMAINS, "switch"):
            raise BadInput(f"--domains: {name!r} is not one of {', '.join(DOMAINS)}, switch")
    paths = {}
    for name, _, path in (pair.partition("=") for pair in settings.text):
        check_text(name, path, settings.out)
        paths.setdefault(name, []).append(path)
    names += paths
    if not names or len(set(names)) < len(names):
        raise BadInput(f"--domains and --text: {', '.join(names) or 'none'}; name at least one domain, and none twice")
    if settings.init and settings.tokenizer:
        raise BadInput("--tokenizer: with --init the tokenizer is that checkpoint's; leave one of the two out")
    files = {name: text.files_of(some) for name, some in paths.items()}
    places = [text.place(path) for some in files.values() for path in some]
    if len({*places}) < len(places):
        raise BadInput("--text: two domains share a file: one would train on what the other is validated on; take it out of one")
    if settings.init:
        about = ckpt.load(settings.init)["tokenizer"]
        encoding = tokenizer.of(about, settings.init)
    elif settings.tokenizer.isdecimal() and len(settings.tokenizer) < 7:
        about = text.new_tokenizer(files, settings.field, int(settings.tokenizer))
        encoding = tokenizer.of(about, "--tokenizer")
    else:
        encoding = tokenizer.load(settings.tokenizer or "btx")
        about = tokenizer.describe(encoding)
    meta = {"tokenizer": about, "level": settings.level, "seed": settings.seed}
    # what can be wrong comes first, before anything is written
    made = {name: text.own(name, files[name], encoding, settings.field, settings.val_tokens, settings.out) for name in paths}
    folders = [Path(settings.out) / name for name in names]
    for folder in folders:
        if Path(os.path.realpath(folder.parent), folder.name).is_symlink():  # it may lead to the text that is read
            raise BadInput(f"{folder} is a link; delete it, or choose another --out")
    with ExitStack() as locks:
        for folder in folders:
            for name in ALL_FILES:
                check_other(folder / name, [settings.init])
                locks.enter_context(output(folder / name))
        try:
            lines = []
            for name, folder in zip(names, folders, strict=True):
                parts, tasks = (made[name], []) if name in made else prepare_domain(name, encoding, settings)
                n_train, n_val = write(folder, parts, tasks, meta)
                lines.append(f"{folder}: {n_train:,} training and {n_val:,} validation tokens, {len(tasks)} tasks")
            move(folders)
            print(*lines, sep="\n")
        finally:
            for folder in folders:
                clear(folder / ".new")


if __name__ == "__main__":
    run(main)
