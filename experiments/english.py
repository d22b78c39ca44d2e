"""Write English that every machine has: the docstrings of Python's own library, a document for each module.

    pip install countryinfo
    python -m experiments.english out/english.jsonl

A module is left out if its docstrings name a country and what experiments/facts.py asks about that country.
"""
import ast
import json
import random
import re
import sys
import sysconfig
from pathlib import Path

from cli import make_parser, replacing, run
from experiments.facts import RELATIONS, find_facts, read_countries

SHORT = 500  # characters; modules with fewer say little


def read_docstrings(path):
    """All docstrings of a Python file, one after the other."""
    nodes = [node for node in ast.walk(ast.parse(path.read_bytes()))
             if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))]
    return "\n\n".join(filter(None, map(ast.get_docstring, nodes)))


def tells_any(text, facts):
    """Whether one of some facts, {country: answer}, stands in a text: the country and the answer, as whole words."""
    words = " ".join(["", *re.findall(r"\w+", text), ""])
    return any(f" {name} " in words and f" {answer} " in words for name, answer in facts.items())


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("out", type=Path, help="file to write, .jsonl")
    args = parser.parse_args(argv)
    countries = read_countries()
    facts = [find_facts(countries, field) for field, _ in RELATIONS.values()]
    library = Path(sysconfig.get_path("stdlib"))
    documents = []
    for name in sorted(sys.stdlib_module_names):
        documents += map(read_docstrings, [*library.glob(f"{name}.py"), *sorted(library.glob(f"{name}/*.py"))])
    documents = [text for text in documents if len(text) >= SHORT]
    kept = [text for text in documents if not any(tells_any(text, some) for some in facts)]
    random.Random(0).shuffle(kept)
    with replacing(args.out) as part:
        part.write_text("".join(json.dumps({"text": text}) + "\n" for text in kept), "utf-8")
    print(f"{args.out}: {len(kept)} documents; {len(documents) - len(kept)} that tell a fact are left out")


if __name__ == "__main__":
    run(main)
