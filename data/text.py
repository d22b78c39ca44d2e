"""A domain of the user's own text: files, folders and patterns of them, plain or .jsonl, .gz or not, read a piece at a time."""
import codecs
import gzip
import io
import os
import re
import sys
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from data.tokenizer import END, PATTERN, build, describe, ids, to_lines, train
from support.files import LIMIT, open_input, read_json, reading
from support.settings import BadInput, printable

PIECE = 2**17  # characters that are read at once; up to twice as many are encoded
# up to the end of a word, or of a line before a word: where tokens of every known pattern end, too
WORDS = re.compile(r"(?s).*(?:[^\W_](?=[ \n])|\S\n(?=\w))")
SAMPLE = 150_000  # characters of each domain that a new tokenizer is trained on


@contextmanager
def opened(path):
    """The bytes of a file, unpacked if its name ends in .gz, and the file itself, whose place tells how far we are."""
    with open_input(path) as file:
        yield gzip.GzipFile(fileobj=file) if kind(path)[0] else file, file


def kind(path):
    """How a file is to be read, by its name: whether it is packed, and whether each of its lines is a document."""
    endings = Path(path.name.lower()).suffixes[-2:]
    return endings[-1:] == [".gz"], ".jsonl" in endings


def place(path):
    """What is the same for all names and links of one file."""
    file = path.stat()
    return file.st_dev, file.st_ino


def is_text(path):
    """Whether a file is UTF-8 (and unpacks): read once, to its end, a piece at a time."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with opened(path) as (content, _):
            while piece := content.read(PIECE):
                decoder.decode(piece)
            decoder.decode(b"", final=True)
        return True
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile):
        return False


def below(top):
    """Yield all files below a folder, and the links to other folders. Raises BadInput for a folder that cannot be read."""
    def fail(error):
        with reading(error.filename):
            raise error
    for folder, folders, files in os.walk(top, onerror=fail):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        yield from (Path(folder, name) for name in files + links)


def files_of(paths):
    """All files that some paths mean, in sorted order, none twice: files, all files below folders, and patterns of names:
    texts/*.gz in a folder, texts/**/*.gz anywhere below it.

    Those that are not UTF-8, and what is no file, are reported and left out. Raises BadInput for a path without any file, if none
    is left, and for what cannot be read.
    """
    found = []
    for path in paths:
        with reading(path):
            wide = Path(path).expanduser()
            deep = wide.parent.name == "**"
            top = wide.parent.parent if deep else wide.parent
            names = [wide] if wide.exists() else sorted(
                p for p in (below(top) if deep else top.iterdir())
                if (fnmatchcase(p.name, wide.name) or deep and p.is_dir())  # such a folder is a link, which is left out
                and not any(part.startswith(".") for part in p.relative_to(top).parts))  # what is hidden is not meant
            if not names:
                raise BadInput(f"{path}: no such file or folder")
            for name in names:
                named = name == wide or not name.is_symlink()  # a link to a folder that a pattern meets is left out
                found += sorted(below(name)) if name.is_dir() and named else [name]
    good, bad, seen = [], [], {}
    for path in found:
        with reading(path):  # whatever names and links lead to it; of these, one that says how it is to be read
            if not path.is_file():  # a link that leads nowhere or to a folder, a pipe
                bad.append(path)
                continue
            file = place(path)
            seen[file] = max(seen.get(file, path), path, key=lambda name: sum(kind(name)))
    for path in seen.values():
        with reading(path):
            (good if is_text(path) else bad).append(path)
    if bad and not good:
        raise BadInput(f"{bad[0]}: not a file in UTF-8; convert it, or name other files")
    for path in bad:
        print(printable(f"{path}: not a file in UTF-8, left out"), file=sys.stderr)
    return good


def pieces(file):
    """Yield the text of an open file in pieces, (text, whether it is the last)."""
    piece = file.read(PIECE)
    while piece:
        ahead = file.read(PIECE)
        words = ahead and WORDS.match(piece)
        cut = words.end() if words else len(piece)
        yield piece[:cut], not ahead
        piece = piece[cut:] + ahead


def documents(files, field, progress=lambda done: None):
    """Yield the files' texts in pieces, (text, whether its document ends with it). Each line of a .jsonl is a document, else each
    file. progress is called with the bytes read of the files so far. Raises BadInput for a line without the field."""
    before = 0
    for path in files:
        with reading(path), opened(path) as (content, file):
            lines = io.TextIOWrapper(content, "utf-8", newline="")
            if kind(path)[1]:
                for number, line in enumerate(iter(partial(lines.readline, LIMIT + 1), ""), 1):  # read_json takes no longer one
                    value = read_json(path, line) if line.strip() else {field: ""}
                    if not isinstance(value, dict) or not isinstance(value.get(field), str):
                        raise BadInput(f"{path}: line {number} has no text under {field!r}; name another --field")
                    yield from pieces(io.StringIO(value[field], newline=""))
                    progress(before + file.tell())
            else:
                for piece in pieces(lines):
                    yield piece
                    progress(before + file.tell())
            before += file.seek(0, io.SEEK_END)


def split(texts, encode, end, share, n_val):
    """Tokens of documents, as ("train.bin" or "val.bin", tokens), a part at a time.

    texts: see `documents`; encode: text -> array of tokens; end: the token after each document. Whole documents go to
    validation, as long as it has no more than `share` of all and n_val tokens; if they are less than half of what it should
    have, so does the end of the text.
    """
    tail, held, train, val, fits = encode(""), encode(""), 0, 0, True  # held: the document so far, while it may be for validation
    for text, ends in texts:
        if ends and fits and not held and not text.strip():
            continue
        held.extend(encode(text))
        if ends:
            held.append(end)
        fits = fits and val + len(held) <= (min(n_val, share * (train + val + len(held))) if ends else n_val)
        if fits and not ends:
            continue
        if fits:
            val += len(held)
            yield "val.bin", held
        else:
            train += len(held)
            tail.extend(held)
            if len(tail) > 4 * n_val:
                yield "train.bin", tail[:-n_val]
                tail = tail[-n_val:]
        held, fits = encode(""), ends
    wanted = min(-(-(train + val) // 10), n_val)
    cut = len(tail) - (wanted - val) * (val < wanted / 2)
    yield "train.bin", tail[:cut]
    yield "val.bin", tail[cut:]


def new_tokenizer(files, field, n_tokens):
    """What data says of a new byte-level BPE of n_tokens tokens, trained on the beginning of each domain's text.

    files: {domain: see files_of}. Raises BadInput if there are none, or it should have too few tokens, or too many.
    """
    if not files or not 260 <= n_tokens <= 2**16:
        raise BadInput(f"--tokenizer {n_tokens}: a new one has 260 to {2**16} tokens, and learns from --text")
    samples = ["".join(islice((letter for text, _ in documents(some, field) for letter in text), SAMPLE))
               for some in files.values()]
    ranks = train(samples, n_tokens - 1)
    if len(ranks) < n_tokens - 1:
        raise BadInput(f"--tokenizer {n_tokens}: the text has no more than {len(ranks) + 1}; ask for fewer")
    bpe = {"pattern": PATTERN, "ranks": to_lines(ranks), "special": {END: len(ranks)}, "end": END}
    return describe(build(f"own{len(ranks) + 1}", **bpe)) | {"bpe": bpe}


def own(name, files, encoding, field, n_val, out):
    """The tokens of one domain of own text, see `split`; files: see files_of. Raises BadInput before the first if there are too
    few, or if a file lies where they are to be written."""
    for path in files:
        with reading(path):
            if Path(out).resolve() in path.resolve().parents:
                raise BadInput(f"--text: {path} lies in --out {out}; choose another --out")
    encode, n_tokens = partial(ids, encoding), 0
    for text, _ in documents(files, field):
        n_tokens += len(encode(text.strip()[:1000]))
        if n_tokens >= 20:
            break
    else:
        raise BadInput(f"--text {name}: {' '.join(map(str, files[:3]))} ... hold {n_tokens} tokens of text, too few to train on")
    size = sum(path.stat().st_size for path in files)

    def parts():
        with tqdm(total=size, desc=name, unit="B", unit_scale=True, disable=None) as bar:
            yield from split(documents(files, field, lambda done: bar.update(done - bar.n)), encode, encoding.eot_token,
                             min(0.1, 4 * n_val / max(size, 1)), n_val)  # about four bytes a token
    return parts()
