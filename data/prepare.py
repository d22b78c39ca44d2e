"""Write domains as tokens: OUT/DOMAIN/{train.bin,val.bin,tasks.jsonl,meta.json}. The same seed gives the same bytes.

    python -m data.prepare                                                     # all synthetic domains
    python -m data.prepare --domains math --level 2                            # one of them, harder
    python -m data.prepare --domains "" --text poems=~/poems rfc='rfc/*.gz'    # your own text
    python -m data.prepare --domains "" --own_tasks facts=capitals.jsonl       # your own tasks
"""
import json
import random
from dataclasses import asdict
from itertools import combinations, islice
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from cli import BadInput, check_output, digest, make_parser, positive_int, replacing, run
from data import text
from data.loader import id_type, load_domains, read_tokens
from data.task import DOMAINS, Task, domain_module
from data.tokenizer import END, load_tokenizer, new_bpe, train_bpe

NAMES = (*DOMAINS, "switch")  # in `switch` the domain changes with every document
FEWEST = 20  # documents; of own text that has so many, whole documents are for validation
PASSAGE = 1024  # tokens of such a document that are validated on; not more, so that there are many documents
CHUNK = 2**16  # tokens of other own text; the last tenth of each chunk is for validation
SAMPLE = 150_000  # characters of each own text that a new tokenizer is trained on


def parse(argv):
    """The options. `domains` becomes a list, `text` {NAME: files} and `own_tasks` {NAME: tasks}. Raises BadInput."""
    parser = make_parser(__doc__)
    parser.add_argument("--out", default="data/bin", help="folder to write to (default: %(default)s)")
    parser.add_argument("--val_tokens", type=positive_int, default=50_000,
                        help="of validation text, at most a tenth of own text (default: %(default)s)")
    parser.add_argument("--tasks", type=positive_int, default=400, help="most test tasks (default: %(default)s)")

    group = parser.add_argument_group("synthetic domains")
    group.add_argument("--domains", default=",".join(NAMES), help='names, or "" for none (default: %(default)s)')
    group.add_argument("--level", type=int, default=1, choices=(0, 1, 2),
                       help="2 is harder, for 25M to 100M weights; 0 has a quarter of 1's facts (default: 1)")
    group.add_argument("--train_tokens", type=positive_int, default=2_000_000, help="default: %(default)s")
    group.add_argument("--seed", type=int, default=0, help="another seed gives other text (default: %(default)s)")

    group = parser.add_argument_group("your own text and tasks")
    group.add_argument("--text", nargs="+", action="extend", default=[], metavar="NAME=PATH",
                       help="a file, a folder or a pattern in quotes; UTF-8, plain or .jsonl, .gz or not")
    group.add_argument("--field", default="text", help="where a line of .jsonl has its text (default: text)")
    group.add_argument("--own_tasks", nargs="+", action="extend", default=[], metavar="NAME=FILE",
                       help='test tasks of a NAME, with or without --text: {"prompt": ..., "answer": ...} a line')
    group.add_argument("--tokenizer", type=positive_int, metavar="N",
                       help="train one of up to N tokens on the beginning of each --text (default: the shipped one)")
    group.add_argument("--init", metavar="CHECKPOINT", help="use the tokenizer of a checkpoint, as of an imported one")
    args = parser.parse_args(argv)

    args.domains = [name for name in args.domains.split(",") if name]
    for name in args.domains:
        if name not in NAMES:
            raise BadInput(f"--domains: {name!r} is not one of {', '.join(NAMES)}")
    if args.init and args.tokenizer:
        raise BadInput("--tokenizer: with --init the tokenizer is that checkpoint's; leave one of the two out")
    files = read_pairs("--text", args.text, text.find_files)
    args.text = {name: sorted(set(paths)) for name, paths in files.items()}
    for first, second in combinations(args.text, 2):
        if set(args.text[first]) & set(args.text[second]):
            raise BadInput(f"--text: {first} and {second} share a file; one would train on the other's validation text")
    args.own_tasks = read_pairs("--own_tasks", args.own_tasks, text.read_tasks)
    return args


def read_pairs(option, pairs, read):
    """{NAME: what is read from all its paths} for a list of NAME=PATH. Raises BadInput about the option."""
    found = {}
    for pair in pairs:
        name, _, path = pair.partition("=")
        if not name.isidentifier() or name in NAMES:
            raise BadInput(f"{option} {pair}: should read NAME=PATH, with a new NAME of letters and digits")
        found.setdefault(name, []).extend(read(path))
    return found


def choose_tokenizer(args):
    """The Tokenizer that the options ask for."""
    spec = None
    if args.init:
        try:
            spec = torch.load(args.init, weights_only=True, mmap=True)["spec"]
        except Exception:  # torch has a different error for every kind of foreign file
            raise BadInput(f"--init {args.init}: not a checkpoint of this project") from None
    elif args.tokenizer:
        samples = [text.read_beginning(files, args.field, SAMPLE) for files in args.text.values()]
        ranks = train_bpe(samples, args.tokenizer - 1)
        spec = new_bpe(ranks, f"own{len(ranks) + 1}")
    return load_tokenizer(spec)


def make_documents(name, rng, level, unseen=False, domains=DOMAINS):
    """Yield (document, True), pairs as `encode` takes them, without end.

    unseen: take functions of `code` that are never in the training text. domains: of which `switch` is made.
    """
    domain = name
    while True:
        if name == "switch":
            domain = rng.choice([other for other in domains if other != domain])
        if name == "code" and unseen:
            task = domain_module(name).task(rng, level)
            yield task.prompt + task.answer, True
        else:
            yield domain_module(domain).document(rng, level), True


def make_task(name, rng, level, domains=DOMAINS):
    """One task. Of `switch` it is a document of one of `domains`, END, and a task of another."""
    if name != "switch":
        return domain_module(name).task(rng, level)
    before, after = rng.sample(domains, 2)
    document = domain_module(before).document(rng, level)
    task = domain_module(after).task(rng, level)
    return Task(document + END + task.prompt, task.answer, task.kind, task.cases)


def make_tasks(name, rng, level, n, domains=DOMAINS):
    """n tasks with different prompts, or as many as the domain has."""
    tasks = {}
    for _ in range(50 * n):
        task = make_task(name, rng, level, domains)
        tasks.setdefault(task.prompt, task)
        if len(tasks) == n:
            break
    return list(tasks.values())


def encode(pieces, tokenizer):
    """Yield the ids of pieces, (text, whether its document ends there), and the end-of-text id after each document."""
    for piece, ends in pieces:
        yield from tokenizer.encode(piece)
        if ends:
            yield tokenizer.eot


def hold_out(pieces, tokenizer, n_val):
    """Yield own text in pairs of arrays, (training ids, validation ids). One of the two is empty.

    Every tenth document is held out, until there are n_val validation ids: these are its first PASSAGE ids, and nothing
    of it is trained on. So each pair with validation ids is another document.
    """
    dtype = id_type(tokenizer.vocab_size)
    nothing = np.empty(0, dtype)
    n_documents, begins = 0, True
    for piece, ends in pieces:
        ids = tokenizer.encode(piece)
        if begins:
            held_out = n_documents % 10 == 9 and n_val > 0
        if not held_out:
            yield np.array([*ids, *[tokenizer.eot] * ends], dtype), nothing
        elif begins:
            passage = np.array([*ids[:PASSAGE - 1], tokenizer.eot], dtype)
            n_val -= len(passage)
            yield nothing, passage
        begins = ends
        n_documents += ends


def split(ids, n_val, dtype):
    """Yield own text of few documents in pairs of arrays, (training ids, validation ids).

    The last tenth of each chunk is for validation, until there are n_val ids.
    """
    while len(chunk := np.fromiter(islice(ids, CHUNK), dtype)):
        n = min(len(chunk) // 10, n_val)
        n_val -= n
        yield np.split(chunk, [len(chunk) - n])


def write_domain(folder, parts, tasks, meta):
    """Write a domain. parts: pairs of arrays, (training ids, validation ids).

    The old meta.json goes first and the new one comes last, so a half-written domain is no domain. Of own text it
    also says of how many passages the validation text consists.
    """
    vocab_size = meta["spec"]["vocab_size"]
    passages = 0
    with (replacing(folder / "train.bin") as train, replacing(folder / "val.bin") as val,
          replacing(folder / "tasks.jsonl") as lines):
        with open(train, "wb") as train_file, open(val, "wb") as val_file:
            for train_ids, val_ids in tqdm(parts, desc=folder.name, unit="chunk", leave=False, disable=None):
                train_file.write(train_ids)
                val_file.write(val_ids)
                passages += len(val_ids) > 0
        lines.write_text("".join(json.dumps(asdict(task)) + "\n" for task in tasks))
        files = {"train.bin": digest(read_tokens(train, vocab_size)), "val.bin": digest(read_tokens(val, vocab_size)),
                 "tasks.jsonl": digest(lines.read_bytes())}
        (folder / "meta.json").unlink(missing_ok=True)
    if "by_documents" in meta:  # it is own text
        meta = meta | {"passages": passages}
    with replacing(folder / "meta.json") as part:
        part.write_text(json.dumps(meta | {"files": files}))


def prepare_synthetic(name, args, tokenizer):
    """(training ids, validation ids) and tasks of a synthetic domain. Each has a random generator of its own."""
    rngs = {part: random.Random(f"{args.seed}/{name}/{part}") for part in ("train", "val", "tasks")}
    domains = [domain for domain in DOMAINS if domain in args.domains]
    if len(domains) < 2:
        domains = DOMAINS
    n_train = 0 if name == "switch" else args.train_tokens  # nobody trains on switch
    train = islice(encode(make_documents(name, rngs["train"], args.level), tokenizer), n_train)
    unseen = make_documents(name, rngs["val"], args.level, unseen=True, domains=domains)
    val = islice(encode(unseen, tokenizer), args.val_tokens)
    tasks = make_tasks(name, rngs["tasks"], args.level, args.tasks, domains)
    dtype = id_type(tokenizer.vocab_size)
    return (np.fromiter(train, dtype), np.fromiter(val, dtype)), tasks


def prepare_own(name, args, tokenizer):
    """The parts of own text, and whether documents are held out: `hold_out` or `split`. Without text there are none."""
    files = args.text.get(name, [])
    documents = (ends for _, ends in text.read_pieces(files, args.field) if ends)
    n_documents = len(list(islice(documents, FEWEST)))  # reads no more than it must
    pieces = text.read_pieces(files, args.field)
    if n_documents == FEWEST:
        return hold_out(pieces, tokenizer, args.val_tokens), True
    return split(encode(pieces, tokenizer), args.val_tokens, id_type(tokenizer.vocab_size)), False


def describe_validation(domain):
    """How much validation text a domain has, and from how many documents or places of own text."""
    tokens = f"{len(domain.val):,} to validate on"
    if not domain.is_own or not len(domain.val):
        return tokens
    if domain.meta["by_documents"]:
        return f"{tokens} from {domain.meta['passages']} documents held out"
    return f"{tokens} from {domain.meta['passages']} places of documents that are trained on"


def main(argv=None):
    args = parse(argv)
    tokenizer = choose_tokenizer(args)
    names = [*args.domains, *(args.text | args.own_tasks)]
    for name in names:
        check_output(Path(args.out, name, "meta.json"))
    meta = {"spec": tokenizer.spec, "level": args.level, "seed": args.seed}
    for name in names:
        if name in NAMES:
            ids, tasks = prepare_synthetic(name, args, tokenizer)
            write_domain(Path(args.out, name), [ids], tasks, meta)
        else:
            parts, by_documents = prepare_own(name, args, tokenizer)
            tasks = args.own_tasks.get(name, [])[:args.tasks]
            write_domain(Path(args.out, name), parts, tasks, meta | {"by_documents": by_documents})
        domain = load_domains(args.out, [name])[name]
        print(f"{args.out}/{name}: {len(domain.train):,} tokens to train on, {describe_validation(domain)}, "
              f"{len(domain.tasks)} tasks")


if __name__ == "__main__":
    run(main)
