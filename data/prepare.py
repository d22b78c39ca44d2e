"""Write domains as tokens to OUT/DOMAIN/{train.bin,val.bin,tasks.jsonl,meta.json}. The same seed gives the same bytes.

    python -m data.prepare                                                     # all synthetic domains
    python -m data.prepare --domains math --level 2                            # one of them, harder
    python -m data.prepare --domains "" --text poems=~/poems rfc='rfc/*.txt'   # your own text
    python -m data.prepare --domains "" --own_tasks facts=capitals.jsonl       # your own tasks
"""
import json
import random
from dataclasses import asdict
from itertools import combinations, islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cli import BadInput, check_output, digest, make_parser, non_negative_int, number_from, positive_int, replacing, run
from data import text
from data.loader import id_type
from data.synthetic import make_documents, make_tasks
from data.task import DOMAINS, is_held_out
from data.tokenizer import load_tokenizer, new_bpe, train_bpe
from support.checkpoint import load_checkpoint

NAMES = (*DOMAINS, "switch")  # in `switch` the domain changes with every document
FEWEST = 20  # documents; own text with fewer is cut into pieces, which then count as its documents
PIECE = 2**16  # tokens of such a piece
AT_ONCE = 2**17  # characters that are encoded at once, because a list of Python numbers takes much memory
SAMPLE = 150_000  # characters of each own text that a new tokenizer is trained on


def parse(argv):
    """The options, the list of domains, {NAME: files} of --text, and {NAME: tasks} of --own_tasks. Raises BadInput."""
    parser = make_parser(__doc__)
    parser.add_argument("--out", default="data/bin", help="folder to write to (default: %(default)s)")
    parser.add_argument("--tasks", type=positive_int, default=400, help="tasks per domain, at most (default: 400)")

    group = parser.add_argument_group("synthetic domains")
    group.add_argument("--domains", default=",".join(NAMES), help='their names, or "" for none (default: %(default)s)')
    group.add_argument("--level", type=int, default=1, choices=(0, 1, 2),
                       help="2 is harder, for models of 25M to 100M weights; 0 has a quarter of 1's facts (default: 1)")
    group.add_argument("--train_tokens", type=positive_int, default=2_000_000, help="per domain (default: %(default)s)")
    group.add_argument("--val_tokens", type=positive_int, default=50_000, help="per domain (default: %(default)s)")
    group.add_argument("--examples", type=non_negative_int, default=0, metavar="N",
                       help="solved examples in a prompt, except in switch; code then must match exactly (default: 0)")
    group.add_argument("--seed", type=int, default=0, help="another seed gives other text (default: %(default)s)")

    group = parser.add_argument_group("your own text and tasks")
    group.add_argument("--text", nargs="+", action="extend", default=[], metavar="NAME=PATH",
                       help="a file, a folder or a pattern in quotes; UTF-8, plain or .jsonl")
    group.add_argument("--field", default="text", help="field of a .jsonl line that holds its text (default: text)")
    group.add_argument("--own_tasks", nargs="+", action="extend", default=[], metavar="NAME=FILE",
                       help='test tasks of a domain, with or without --text; a line is {"prompt": ..., "answer": ...}')
    either = group.add_mutually_exclusive_group()
    either.add_argument("--tokenizer", type=number_from(257), metavar="N",
                        help="train one of up to N tokens on the start of each --text (default: the shipped one)")
    either.add_argument("--init", metavar="CHECKPOINT", help="use the tokenizer of a checkpoint, such as an import")
    args = parser.parse_args(argv)

    domains = [name for name in args.domains.split(",") if name]
    for name in domains:
        if name not in NAMES:
            raise BadInput(f"--domains: {name!r} is not one of {', '.join(NAMES)}")
    paths = read_pairs("--text", args.text, text.find_files)
    files = {name: sorted(set(paths[name])) for name in paths}
    for first, second in combinations(files, 2):
        if set(files[first]) & set(files[second]):
            raise BadInput(f"--text: {first} and {second} share a file; one would train on the other's validation text")
    own_tasks = read_pairs("--own_tasks", args.own_tasks, text.read_tasks)
    return args, domains, files, own_tasks


def read_pairs(option, pairs, read):
    """{NAME: what `read` returns for all of its paths}, from a list of NAME=PATH. BadInput names the option."""
    found = {}
    for pair in pairs:
        name, _, path = pair.partition("=")
        if name in NAMES:
            raise BadInput(f"{option} {pair}: {name} is a synthetic domain; choose another name, such as {name}_text")
        if not name.isidentifier():
            raise BadInput(f"{option} {pair}: write NAME=PATH, with a NAME of letters and digits")
        found.setdefault(name, []).extend(read(path))
    return found


def choose_tokenizer(args, files):
    """The Tokenizer that the options ask for. files: {NAME: files} of own text. Raises BadInput."""
    spec = None
    if args.init is not None:
        spec = load_checkpoint(args.init)["spec"]
    elif args.tokenizer:
        if not files:
            raise BadInput("--tokenizer: name the texts on which it is trained, with --text")
        samples = []
        for paths in files.values():
            characters = (c for document in text.read_documents(paths, args.field) for c in document)
            samples.append("".join(islice(characters, SAMPLE)))
        ranks = train_bpe(samples, args.tokenizer - 1)
        spec = new_bpe(ranks, f"own{len(ranks) + 1}")
    return load_tokenizer(spec)


def write_domain(folder, train_ids, val_ids, tasks, meta):
    """Write a domain. The old meta.json is deleted first and the new one written last, to mark the domain as whole."""
    rows = "".join(json.dumps(asdict(task)) + "\n" for task in tasks).encode()
    (folder / "meta.json").unlink(missing_ok=True)
    files = {}
    for name, content in {"train.bin": train_ids, "val.bin": val_ids, "tasks.jsonl": rows}.items():
        with replacing(folder / name) as part:
            part.write_bytes(content)
        files[name] = digest(content)
    with replacing(folder / "meta.json") as part:
        part.write_text(json.dumps(meta | {"files": files}))


def encode(documents, tokenizer):
    """Yield the ids of documents, encoded in parts of AT_ONCE characters, and the end-of-text id after each.

    A tokenizer that marks where a text begins marks each part.
    """
    for document in documents:
        for start in range(0, len(document), AT_ONCE):
            yield from tokenizer.encode(document[start:start + AT_ONCE])
        yield tokenizer.eot


def prepare_synthetic(name, args, domains, tokenizer):
    """Training ids, validation ids and tasks of a synthetic domain. domains: all that are prepared, for `switch`."""
    rngs = {part: random.Random(f"{args.seed}/{name}/{part}") for part in ("train", "val", "tasks")}
    changing = [domain for domain in DOMAINS if domain in domains]  # what `switch` is made of
    if len(changing) < 2:
        changing = DOMAINS
    n_train = 0 if name == "switch" else args.train_tokens  # no model trains on `switch`
    train = islice(encode(make_documents(name, rngs["train"], args.level), tokenizer), n_train)
    unseen = make_documents(name, rngs["val"], args.level, unseen=True, domains=changing)
    val = islice(encode(unseen, tokenizer), args.val_tokens)
    tasks = make_tasks(name, rngs["tasks"], args.level, args.tasks, changing, args.examples)
    dtype = id_type(tokenizer.vocab_size)
    return np.fromiter(train, dtype), np.fromiter(val, dtype), tasks


def cut_into_pieces(documents):
    """Pieces of PIECE ids, or ten if the documents are short; and whether each is held out, as every tenth is."""
    ids = np.concatenate(documents)
    size = max(1, min(PIECE, len(ids) // 10))
    pieces = [ids[start:start + size] for start in range(0, len(ids), size)]
    return pieces, [i % 10 == 9 for i in range(len(pieces))]


def prepare_own(files, field, tokenizer):
    """Training ids and validation ids of own text, and a note on what is held out. The ids are empty without text.

    About a tenth of the documents is for validation, at least one. Their text decides. So it is the same tenth for each
    tokenizer, and documents that are added later move none from training to validation. Fewer than FEWEST documents are
    cut into pieces.
    """
    dtype = id_type(tokenizer.vocab_size)
    nothing = np.empty(0, dtype)
    if not files:
        return nothing, nothing, "no text"
    documents = []  # of (n,) ids
    held_out = []  # whether each of them is for validation
    for document in tqdm(text.read_documents(files, field), unit="document", leave=False, disable=None):
        documents.append(np.fromiter(encode([document], tokenizer), dtype))
        held_out.append(is_held_out(document))
    if sum(map(len, documents)) == len(documents):  # each has only its end-of-text token
        raise BadInput(f"--text: there is no text in {', '.join(map(str, files))[:200]}; name other files")
    unit = "documents"
    if len(documents) < FEWEST:
        unit = "pieces"
        documents, held_out = cut_into_pieces(documents)
    elif not any(held_out):
        held_out[-1] = True
    train = [ids for ids, is_out in zip(documents, held_out, strict=True) if not is_out]
    val = [ids for ids, is_out in zip(documents, held_out, strict=True) if is_out]
    return np.concatenate([nothing, *train]), np.concatenate([nothing, *val]), f"{len(val)} {unit} held out"


def refuse_to_lose(old, option):
    """Raise BadInput if a file of own text or tasks holds something, which this run would replace by nothing."""
    if old.exists() and old.stat().st_size:
        raise BadInput(f"{old} would be lost; give {option} of {old.parent.name}, too, or delete {old.parent} first")


def main(argv=None):
    args, domains, files, own_tasks = parse(argv)
    tokenizer = choose_tokenizer(args, files)
    names = [*domains, *(files | own_tasks)]
    if not names:
        raise BadInput("--domains: there is nothing to prepare; name domains, or give --text or --own_tasks")
    for name in names:
        check_output(Path(args.out, name, "meta.json"))
        if name not in NAMES and name not in files:
            refuse_to_lose(Path(args.out, name, "train.bin"), "--text")
        if name not in NAMES and name not in own_tasks:
            refuse_to_lose(Path(args.out, name, "tasks.jsonl"), "--own_tasks")
    meta = {"spec": tokenizer.spec, "level": args.level, "seed": args.seed}
    for name in names:
        if name in NAMES:
            train, val, tasks = prepare_synthetic(name, args, domains, tokenizer)
            origin = "new documents"
        else:
            train, val, origin = prepare_own(files.get(name, []), args.field, tokenizer)
            tasks = own_tasks.get(name, [])[:args.tasks]
        write_domain(Path(args.out, name), train, val, tasks, meta)
        n_tasks = len(tasks)
        if n_tasks < len(own_tasks.get(name, [])):
            n_tasks = f"{n_tasks} of {len(own_tasks[name]):,}"  # --tasks limits them
        print(f"{args.out}/{name}: {len(train):,} tokens to train on, {len(val):,} to validate on ({origin}), "
              f"{n_tasks} tasks")


if __name__ == "__main__":
    run(main)
