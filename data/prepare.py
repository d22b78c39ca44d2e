"""Write the domains as tokens: data/bin/DOMAIN/{train,val}.bin (uint16), meta.json and tasks.jsonl; same seed, same bytes.

    python -m data.prepare                                    # all domains and `switch`
    python -m data.prepare --domains math --level 2           # one, harder
    python -m data.prepare --text poems=~/poems --domains ""  # a file or folder of text as one more domain
"""
import json
import random
import shutil
import sys
from array import array
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from data import tokenizer
from data.loader import FILES
from data.task import DOMAINS, Task, domain_module
from support.files import digest, open_input, output, prepare_output, reading, write_whole
from support.settings import BadInput, option, parse, run


@dataclass
class Settings:
    domains: str = option(",".join(DOMAINS) + ",switch", "domains to write, separated by commas")
    level: int = option(1, "1: for a laptop; 2: for 25M to 100M parameters on a GPU", choices=(1, 2))
    text: list = option([], "NAME=PATH: a text file, or a folder with some, as one more domain", nargs="+",
                        metavar="NAME=PATH")
    train_tokens: int = option(2_000_000, "tokens of training text for each domain", low=1, high=10**9)
    val_tokens: int = option(50_000, "tokens of validation text for each domain", low=1, high=10**9)
    tasks: int = option(400, "test tasks for each domain, all different", low=1, high=10**6)
    tokenizer: str = option("btx", "btx, or an encoding of tiktoken's such as gpt2 (ids must fit in 16 bits)")
    seed: int = option(0, "another seed, other text", low=0)
    out: str = option("data/bin", "folder to write to")


def documents(name, rng, level, unseen=False):
    """Endless text of one domain, a document at a time; `switch` goes to another domain with each document.

    unseen: code consists of functions that are never in the training text.
    """
    previous = None
    while unseen and name == "code":
        task = domain_module(name).task(rng, level)
        yield task.prompt + task.answer
    while True:
        previous = rng.choice([d for d in DOMAINS if d != previous]) if name == "switch" else name
        yield domain_module(previous).document(rng, level)


def draw_task(name, rng, level, separator):
    """One task; of `switch`: a document of one domain, the separator, and a task of another domain."""
    if name != "switch":
        return domain_module(name).task(rng, level)
    before, after = rng.sample(DOMAINS, 2)
    text, task = domain_module(before).document(rng, level), domain_module(after).task(rng, level)
    return Task(text + separator + task.prompt, task.answer, task.kind, task.cases)


def distinct_tasks(name, rng, settings, separator):
    """settings.tasks tasks, no prompt twice; fewer where the domain does not have so many."""
    tasks = {}
    for _ in range(50 * settings.tasks):
        task = draw_task(name, rng, settings.level, separator)
        tasks.setdefault(task.prompt, task)
        if len(tasks) == settings.tasks:
            break
    return list(tasks.values())


def encode(encoding, texts, n_tokens=None):
    """Tokens of the texts, each followed by the end-of-text token; exactly n_tokens of them, or all."""
    tokens = array("H")
    for text in texts:
        tokens.extend(encoding.encode_ordinary(text))
        tokens.append(encoding.eot_token)
        if n_tokens is not None and len(tokens) >= n_tokens:
            return tokens[:n_tokens]
    return tokens


def write(folder, train, val, tasks, meta):
    """Write one domain, digests included, into the folder `.new` in its folder."""
    if sys.byteorder == "big":
        train.byteswap(), val.byteswap()
    lines = "".join(json.dumps(asdict(t)) + "\n" for t in tasks)
    files = dict(zip(FILES, (train.tobytes(), val.tobytes(), lines.encode()), strict=True))
    files["meta.json"] = json.dumps(meta | {"files": {name: digest(content) for name, content in files.items()}}).encode()
    clear(folder / ".new")
    for name, content in files.items():
        prepare_output(folder / name)
        prepare_output(folder / ".new" / name)
        write_whole(folder / ".new" / name, lambda file, content=content: file.write(content))


def clear(folder):
    """Remove what a killed run left, or a link of somebody's."""
    shutil.rmtree(folder) if folder.is_dir() and not folder.is_symlink() else folder.unlink(missing_ok=True)


def move(folders):
    """Put the domains that `write` wrote in the place of older ones: all old meta.json go first, the new ones come last."""
    for folder in folders:
        (folder / "meta.json").unlink(missing_ok=True)
    for name in (*FILES, "meta.json"):
        for folder in folders:
            (folder / ".new" / name).replace(folder / name)
    for folder in folders:
        clear(folder / ".new")


def read_texts(path):
    """The texts of a file, or of all files below a folder in sorted order; undecodable bytes become U+FFFD."""
    with reading(path):
        path = Path(path).expanduser()
        if not path.exists():
            raise BadInput(f"{path}: no such file or folder")
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        texts = []
        for name in files:
            with open_input(name) as file:
                texts.append(file.read().decode("utf-8", "replace"))
        return texts


def prepare_text(name, path, encoding, settings):
    """A domain of the user's own: the last tenth of its tokens is for validation; it has no tasks."""
    if not path:
        raise BadInput(f"--text: {name!r} should read NAME=PATH")
    with reading(path):
        out, source = Path(settings.out).resolve(), Path(path).expanduser().resolve()
    if out == source or out in source.parents or source in out.parents and source.is_dir():
        raise BadInput(f"--text: {path} and {out} lie in each other, where text is read and written; choose another --out")
    if not name.isidentifier() or name in DOMAINS or name == "switch":
        raise BadInput(f"--text: {name!r} is no good name for a new domain; use letters and digits")
    texts = [t for t in read_texts(path) if t.strip()]
    tokens = encode(encoding, texts)
    if len(tokens) < 20:
        raise BadInput(f"--text: {path} holds {len(tokens)} tokens of text, too few to train on")
    cut = max(len(tokens) * 9 // 10, len(tokens) - settings.val_tokens)
    return tokens[:cut], tokens[cut:], []


def prepare_domain(name, encoding, settings):
    """A synthetic domain; training text, validation text and tasks come from generators of their own."""
    rngs = {part: random.Random(f"{settings.seed}/{name}/{part}") for part in ("train", "val", "tasks")}
    texts = {part: documents(name, rngs[part], settings.level, part == "val") for part in ("train", "val")}
    n_train = 0 if name == "switch" else settings.train_tokens  # nobody trains on switch
    separator = encoding.decode([encoding.eot_token])
    return (encode(encoding, texts["train"], n_train), encode(encoding, texts["val"], settings.val_tokens),
            distinct_tasks(name, rngs["tasks"], settings, separator))


def main(argv=None):
    settings = parse(Settings, argv)
    names = [name for name in settings.domains.split(",") if name]
    for name in names:
        if name not in (*DOMAINS, "switch"):
            raise BadInput(f"--domains: {name!r} is not one of {', '.join(DOMAINS)}, switch")
    encoding = tokenizer.load(settings.tokenizer)
    if encoding.n_vocab > 2**16:
        raise BadInput(f"--tokenizer: {settings.tokenizer} has {encoding.n_vocab} tokens; ids must fit in 16 bits")
    meta = {"tokenizer": settings.tokenizer, "fingerprint": tokenizer.fingerprint(encoding),
            "vocab_size": encoding.n_vocab, "level": settings.level, "seed": settings.seed}
    texts = [(name, path) for name, _, path in (pair.partition("=") for pair in settings.text)]
    names += [name for name, _ in texts]
    if not names or len(set(names)) < len(names):
        raise BadInput(f"--domains and --text: {', '.join(names) or 'none'}; name at least one domain, and none twice")
    made = {name: prepare_text(name, path, encoding, settings) for name, path in texts}  # what can be wrong comes first
    folders = [Path(settings.out) / name for name in names]
    with ExitStack() as locks:
        for folder in folders:
            locks.enter_context(output(folder / "meta.json"))
        for name, folder in zip(names, folders, strict=True):
            train, val, tasks = made.get(name) or prepare_domain(name, encoding, settings)
            write(folder, train, val, tasks, meta)
            print(f"{folder}: {len(train):,} training and {len(val):,} validation tokens, {len(tasks)} tasks")
        move(folders)


if __name__ == "__main__":
    run(main)
