"""Real text for `make rivals PRESET=text`: four domains, and texts that change from one domain to another.

    python -m experiments.texts out/texts/debian --out out/texts

Reads Python's own library, and what experiments/text.mk fetched: descriptions of packages, German manual pages and
WordNet. Writes packages.jsonl, python.jsonl, german.jsonl, dictionary.jsonl and changing.jsonl, one document a line.
"""
import gzip
import json
import sysconfig
from pathlib import Path

from cli import BadInput, make_parser, replacing, run

EVERY = 20  # one document in so many becomes a part of `changing`
PIECE = 400  # characters before a changing text changes
SHORT = 100  # characters; shorter paragraphs of descriptions say little, as in "This package contains the manual."


def read_paragraphs(descriptions):
    """Return each paragraph of at least SHORT characters once; packages of one source share many."""
    paragraphs = {}
    for package in descriptions.split("\n\n"):
        _, _, description = package.partition("\nDescription-en: ")
        _, _, body = description.partition("\n ")  # after the title
        for paragraph in body.replace("\n ", "\n").split("\n.\n"):
            if len(paragraph) >= SHORT:
                paragraphs[f"{paragraph}\n\n"] = True
    return list(paragraphs)


def join_fifty(entries):
    """Join entries to texts of fifty."""
    return ["".join(entries[i:i + 50]) for i in range(0, len(entries), 50)]


def read_documents(debian):
    """{domain: list of texts}. A text is a file, or fifty paragraphs of descriptions, or fifty nouns with meanings."""
    descriptions = debian / "descriptions.txt"
    library = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    pages = sorted(path for path in (debian / "usr/share/man/de").rglob("*.gz") if not path.is_symlink())
    nouns = debian / "usr/share/wordnet/data.noun"
    if not descriptions.exists() or not pages or not nouns.exists():
        raise BadInput(f"{debian}: descriptions, German manual pages or WordNet missing; see experiments/text.mk")
    entries = []
    for line in nouns.read_text("utf-8").splitlines():
        head, bar, meaning = line.partition(" | ")
        noun = head.split()[4].replace("_", " ") if bar else ""
        if noun and noun == noun.lower():  # names, as of countries, have capital letters; see experiments/facts.py
            entries.append(f"{noun}: {meaning.strip()}\n")
    return {"packages": join_fifty(read_paragraphs(descriptions.read_text("utf-8"))),
            "python": [path.read_text("utf-8", "ignore") for path in library],
            "german": [gzip.decompress(path.read_bytes()).decode("utf-8", "ignore") for path in pages],
            "dictionary": join_fifty(entries)}


def take_changing(documents):
    """Take every twentieth document out of each domain; returns texts that have one piece of each domain."""
    pieces = {domain: [] for domain in documents}
    for domain, texts in documents.items():
        for text in texts[::EVERY]:
            pieces[domain] += [text[i:i + PIECE] for i in range(0, len(text), PIECE)]
        del texts[::EVERY]
    return ["".join(one_of_each) for one_of_each in zip(*pieces.values(), strict=False)]  # as many as the shortest has


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("debian", type=Path, help="folder with the unpacked packages")
    parser.add_argument("--out", type=Path, default="out/texts", help="folder to write to (default: %(default)s)")
    args = parser.parse_args(argv)
    documents = read_documents(args.debian)
    documents["changing"] = take_changing(documents)
    for name, texts in documents.items():
        with replacing(args.out / f"{name}.jsonl") as part:
            part.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


if __name__ == "__main__":
    run(main)
