"""Real text for `make rivals PRESET=text`: three domains, and texts that change from one domain to another.

    python -m experiments.texts out/texts/debian --out out/texts

Reads Python's own library, and what experiments/text.mk unpacked of two Debian packages: German manual pages and WordNet.
Writes python.jsonl, german.jsonl, dictionary.jsonl and changing.jsonl, one document a line. Every twentieth document goes into
`changing` and into no other file.
"""
import gzip
import json
import sysconfig
from pathlib import Path

from data.common import BadInput, make_parser, replacing, run

EVERY = 20  # one document in so many goes into `changing`
PIECE = 400  # characters before a changing text changes


def cut(whole, n):
    """Cut a text or a list into pieces of n.

    >>> cut("abcde", 2)
    ['ab', 'cd', 'e']
    """
    return [whole[i:i + n] for i in range(0, len(whole), n)]


def read_documents(debian):
    """Return {domain: list of texts}. A text of the dictionary is fifty nouns with their meanings."""
    library = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    pages = sorted(path for path in (debian / "usr/share/man/de").rglob("*.gz") if not path.is_symlink())
    nouns = debian / "usr/share/wordnet/data.noun"
    if not pages or not nouns.exists():
        raise BadInput(f"{debian}: no German manual pages or no WordNet in it; see experiments/text.mk")
    entries = []
    for line in nouns.read_text("utf-8", "ignore").splitlines():
        head, bar, meaning = line.partition(" | ")
        if bar:
            word = head.split()[4].replace("_", " ")
            entries.append(f"{word}: {meaning.strip()}\n")
    return {"python": [path.read_text("utf-8", "ignore") for path in library],
            "german": [gzip.decompress(path.read_bytes()).decode("utf-8", "ignore") for path in pages],
            "dictionary": ["".join(fifty) for fifty in cut(entries, 50)]}


def change_domains(documents):
    """Return texts that have one piece of each domain, from every twentieth document of {domain: list of texts}."""
    pieces = {domain: [] for domain in documents}
    for domain, texts in documents.items():
        for text in texts[::EVERY]:
            pieces[domain].extend(cut(text, PIECE))
    return ["".join(one_of_each) for one_of_each in zip(*pieces.values(), strict=False)]  # as many as the shortest has


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("debian", type=Path, help="folder with the unpacked packages")
    parser.add_argument("--out", type=Path, default="out/texts", help="folder to write to (default: %(default)s)")
    args = parser.parse_args(argv)
    documents = read_documents(args.debian)
    files = {domain: [text for i, text in enumerate(texts) if i % EVERY] for domain, texts in documents.items()}
    files["changing"] = change_domains(documents)
    for name, texts in files.items():
        with replacing(args.out / f"{name}.jsonl") as part:
            part.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        print(f"{args.out / name}.jsonl: {sum(map(len, texts)) / 1e6:.1f} million characters")


if __name__ == "__main__":
    run(main)
