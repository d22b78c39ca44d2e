"""Write domains as tokens: train.bin, val.bin, tasks.jsonl and meta.json in OUT/DOMAIN. Same seed, same bytes.

    python -m data.prepare                                                     # all domains and `switch`
    python -m data.prepare --domains math --level 2                            # one domain, harder
    python -m data.prepare --domains "" --text poems=~/poems rfc='rfc/*.gz'    # your own text, in files or folders
"""
import json
import random
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data import text, tokenizer
from data.common import BadInput, digest, make_parser, positive_int, replacing, run
from data.loader import id_type, load_domains, read_tokens
from data.task import DOMAINS, Task, domain_module

CHUNK = 2**16  # tokens of own text; the last tenth of each chunk is for validation, until there is enough
SAMPLE = 150_000  # characters of each own text that a new tokenizer learns from


def parse(argv):
    parser = make_parser(__doc__)
    group = parser.add_argument_group("synthetic domains")
    group.add_argument("--domains", default=",".join([*DOMAINS, "switch"]), help="(default: %(default)s)")
    group.add_argument("--level", type=int, choices=(1, 2), default=1,
                       help="1 for a laptop, 2 for models of 25M to 100M parameters (default: %(default)s)")
    group.add_argument("--train_tokens", type=positive_int, default=2_000_000, help="(default: %(default)s)")
    group.add_argument("--tasks", type=positive_int, default=400, help="test tasks, all different (default: %(default)s)")
    group.add_argument("--seed", type=int, default=0, help="another seed, other text (default: %(default)s)")
    group = parser.add_argument_group("your own text")
    group.add_argument("--text", nargs="+", action="extend", default=[], metavar="NAME=PATH",
                       help="a domain of a file, a folder or a quoted pattern of files, plain UTF-8 or .jsonl, .gz or not; "
                            "several paths with one NAME add up")
    group.add_argument("--field", default="text", help="the field of .jsonl with the text (default: %(default)s)")
    group = parser.add_argument_group("all domains")
    group.add_argument("--val_tokens", type=positive_int, default=50_000,
                       help="validation text; of own text at most a tenth (default: %(default)s)")
    group.add_argument("--tokenizer", default="btx",
                       help="btx, or N for a new one of N tokens that learns from --text (default: %(default)s)")
    group.add_argument("--init", metavar="CHECKPOINT", help="use the tokenizer of this checkpoint instead")
    group.add_argument("--out", default="data/bin", help="folder to write to (default: %(default)s)")
    return parser.parse_args(argv)


def documents(name, rng, level, unseen=False):
    """Yield (document, True) of a synthetic domain without end; `switch` goes to another domain with each.

    unseen: take functions of `code` that are never in the training text.
    """
    domain = name
    while True:
        if name == "switch":
            domain = rng.choice([other for other in DOMAINS if other != domain])
        if name == "code" and unseen:
            task = domain_module(name).task(rng, level)
            yield task.prompt + task.answer, True
        else:
            yield domain_module(domain).document(rng, level), True


def draw_task(name, rng, level):
    """One task. That of `switch` is a document, END, and a task of another domain."""
    if name != "switch":
        return domain_module(name).task(rng, level)
    before, after = rng.sample(DOMAINS, 2)
    document = domain_module(before).document(rng, level)
    task = domain_module(after).task(rng, level)
    return Task(document + tokenizer.END + task.prompt, task.answer, task.kind, task.cases)


def draw_tasks(name, rng, level, n):
    """n tasks with different prompts; fewer if the domain has fewer."""
    tasks = {}
    for _ in range(50 * n):
        task = draw_task(name, rng, level)
        tasks.setdefault(task.prompt, task)
        if len(tasks) == n:
            break
    return list(tasks.values())


def encode(pieces, encoding):
    """Yield the ids of pieces, (text, whether its document ends there); the end-of-text id follows each document."""
    for piece, ends in pieces:
        yield from encoding.encode(piece)
        if ends:
            yield encoding.eot


def make_synthetic(name, encoding, args):
    """Training ids, validation ids and tasks of a synthetic domain, each from a random generator of its own."""
    rngs = {part: random.Random(f"{args.seed}/{name}/{part}") for part in ("train", "val", "tasks")}
    n_train = 0 if name == "switch" else args.train_tokens  # nobody trains on switch
    train = encode(documents(name, rngs["train"], args.level), encoding)
    val = encode(documents(name, rngs["val"], args.level, unseen=True), encoding)
    dtype = id_type(encoding.vocab_size)
    return (np.fromiter(islice(train, n_train), dtype), np.fromiter(islice(val, args.val_tokens), dtype),
            draw_tasks(name, rngs["tasks"], args.level, args.tasks))


def split(ids, n_val, dtype):
    """Cut the ids of own text into chunks and yield each as (training ids, validation ids); n_val: validation ids in all."""
    while len(chunk := np.fromiter(islice(ids, CHUNK), dtype)):
        n = min(len(chunk) // 10, n_val)
        n_val -= n
        yield np.split(chunk, [len(chunk) - n])


def write_domain(folder, parts, tasks, about, args):
    """Write one domain. parts: pairs of arrays, (training ids, validation ids), not all in memory at once.

    While files of two versions may lie side by side, there is no meta.json, and so no domain.
    """
    with (replacing(folder / "train.bin") as train, replacing(folder / "val.bin") as val,
          replacing(folder / "tasks.jsonl") as lines):
        with open(train, "wb") as train_file, open(val, "wb") as val_file:
            for train_ids, val_ids in parts:
                train_file.write(train_ids)
                val_file.write(val_ids)
        lines.write_text("".join(json.dumps(asdict(task)) + "\n" for task in tasks))
        files = {"train.bin": digest(read_tokens(train, about["vocab_size"])),
                 "val.bin": digest(read_tokens(val, about["vocab_size"])), "tasks.jsonl": digest(lines.read_bytes())}
        (folder / "meta.json").unlink(missing_ok=True)
    with replacing(folder / "meta.json") as meta:
        meta.write_text(json.dumps({"tokenizer": about, "level": args.level, "seed": args.seed, "files": files}))


def choose_tokenizer(args, texts):
    """The `about` of the tokenizer that the options ask for; None is the shipped one."""
    if args.init:
        try:
            return torch.load(args.init, weights_only=True, mmap=True)["tokenizer"]
        except Exception:  # torch has a different error for every kind of foreign file
            raise BadInput(f"--init {args.init}: not a checkpoint of this project") from None
    if args.tokenizer == "btx":
        return None
    if not args.tokenizer.isdecimal():
        raise BadInput(f"--tokenizer {args.tokenizer}: should be btx or a number of tokens")
    samples = [text.read_beginning(files, args.field, SAMPLE) for files in texts.values()]
    ranks = tokenizer.train(samples, int(args.tokenizer) - 1)
    if len(ranks) + 1 != int(args.tokenizer):
        raise BadInput(f"--tokenizer {args.tokenizer}: --text has enough for {len(ranks) + 1} tokens; ask for so many")
    return tokenizer.new_bpe(ranks, f"own{args.tokenizer}")


def main(argv=None):
    args = parse(argv)
    names = [name for name in args.domains.split(",") if name]
    for name in names:
        if name not in (*DOMAINS, "switch"):
            raise BadInput(f"--domains: {name!r} is not one of {', '.join(DOMAINS)}, switch")
    texts = text.find_texts(args.text)
    encoding = tokenizer.load(choose_tokenizer(args, texts))
    for name in [*names, *texts]:
        if name in texts:
            files = tqdm(sorted(texts[name]), desc=name, unit="file", disable=None)
            ids = encode(text.read_pieces(files, args.field), encoding)
            parts, tasks = split(ids, args.val_tokens, id_type(encoding.vocab_size)), []
        else:
            train, val, tasks = make_synthetic(name, encoding, args)
            parts = [(train, val)]
        write_domain(Path(args.out, name), parts, tasks, encoding.about, args)
        domain = load_domains(args.out, [name])[name]
        print(f"{args.out}/{name}: {len(domain.train):,} training and {len(domain.val):,} validation tokens, {len(tasks)} tasks")


if __name__ == "__main__":
    run(main)
