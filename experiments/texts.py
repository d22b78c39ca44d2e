"""Real text for `make rivals PRESET=text` and `PRESET=smol`: three domains, and texts that change from one to another.

    python -m experiments.texts out/texts/debian --out out/texts

Reads Python's own library, and what experiments/texts.mk unpacked of two Debian packages: the German manual pages and WordNet.
Writes python.jsonl, german.jsonl, dictionary.jsonl and changing.jsonl, a document a line. The documents that `changing` is
made of, every twentieth, are in none of the others.
"""
import gzip
import json
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from support.files import open_input, prepare_output, reading, write_text
from support.settings import BadInput, option, parse, run

EVERY, PIECE = 20, 400  # which documents are kept for `changing`; characters before it changes


@dataclass
class Settings:
    debian: list = option([], "folder with the packages' files", positional=True)
    out: str = option("out/texts", "folder to write to")


def cut(whole, n):
    """A text or a list in pieces of n.

    >>> cut("abcde", 2)
    ['ab', 'cd', 'e']
    """
    return [whole[i:i + n] for i in range(0, len(whole), n)]


def documents(debian):
    """{domain: list of texts}; of the dictionary fifty nouns each, with what they mean. Raises BadInput."""
    library = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    pages = sorted(p for p in (debian / "usr/share/man/de").rglob("*.gz") if not p.is_symlink())
    nouns = debian / "usr/share/wordnet/data.noun"
    if not pages or not nouns.exists():
        raise BadInput(f"{debian}: no German manual pages or no WordNet in it; see experiments/texts.mk")

    def read(path, unpack=lambda content: content):
        with reading(path), open_input(path) as file:
            return unpack(file.read()).decode("utf-8", "ignore")
    with reading(nouns):
        lines = [line.split(" | ") for line in read(nouns).splitlines() if " | " in line]
        entries = [f"{head.split()[4].replace('_', ' ')}: {meaning.strip()}\n" for head, meaning in lines]
    return {"python": [read(p) for p in library], "german": [read(p, gzip.decompress) for p in pages],
            "dictionary": ["".join(some) for some in cut(entries, 50)]}


def main(argv=None):
    settings = parse(Settings, argv)
    if len(settings.debian) != 1:
        raise BadInput("name the folder with the packages' files, as in: python -m experiments.texts out/texts/debian")
    found, out = documents(Path(settings.debian[0])), Path(settings.out)
    kept = {name: [piece for text in texts[::EVERY] for piece in cut(text, PIECE)]
            for name, texts in found.items()}
    changing = ["".join(pieces) for pieces in zip(*kept.values())]  # noqa: B905 (as long as the shortest)
    for name, texts in found.items():
        found[name] = [text for i, text in enumerate(texts) if i % EVERY]
    for name, texts in (found | {"changing": changing}).items():
        prepare_output(out / f"{name}.jsonl")
        write_text(out / f"{name}.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
        print(f"{out / name}.jsonl: {sum(map(len, texts)) / 1e6:.1f} million characters")


if __name__ == "__main__":
    run(main)
