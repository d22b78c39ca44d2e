"""Write what PRESET=pretrained reads beside the synthetic domains: English, and tasks about countries.

    python -m experiments.english out/texts

english.jsonl has the docstrings of Python's own library, a document for each module. capital.jsonl and demonym.jsonl
ask what countries.csv knows, with three solved examples in the prompt. No text that anybody trains on asks so. A module
whose docstrings name a country and what is asked about it is left out.
"""
import ast
import csv
import json
import random
import re
import sys
import sysconfig
from cli import make_parser, replacing, run
from pathlib import Path

RELATIONS = {"capital": "The government of {} sits in the city of", "demonym": "The nationality of someone from {} is"}
N_EXAMPLES = 3  # the first countries of the file
SHORT = 500  # characters; modules with fewer say little


def read_countries():
    """[{country, capital, demonym}], in an order drawn once. A field is empty where countries or texts disagree."""
    with Path(__file__).with_name("countries.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def ask_facts(countries, field):
    """Tasks about all countries that have the field but the first ones, which are the examples.

    An answer ends with a full stop, so that "Niger" is no answer where "Nigerian" is right.
    """
    sentence = RELATIONS[field]
    examples = [f"{sentence.format(row['country'])} {row[field]}.\n" for row in countries[:N_EXAMPLES]]
    return [{"prompt": "".join(examples) + sentence.format(row["country"]), "answer": f" {row[field]}."}
            for row in countries[N_EXAMPLES:] if row[field]]


def read_docstrings(path):
    """All docstrings of a Python file, one after the other."""
    nodes = [node for node in ast.walk(ast.parse(path.read_bytes()))
             if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))]
    return "\n\n".join(filter(None, map(ast.get_docstring, nodes)))


def tells_any(text, countries):
    """Whether a text names a country and its capital or its people, as whole words."""
    words = " ".join(["", *re.findall(r"\w+", text), ""])
    for row in countries:
        if f" {row['country']} " in words and any(row[field] and f" {row[field]} " in words for field in RELATIONS):
            return True
    return False


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("out", type=Path, help="folder to write to")
    args = parser.parse_args(argv)
    countries = read_countries()
    library = Path(sysconfig.get_path("stdlib"))
    documents = []
    for name in sorted(sys.stdlib_module_names):
        documents += map(read_docstrings, [*library.glob(f"{name}.py"), *sorted(library.glob(f"{name}/*.py"))])
    documents = [text for text in documents if len(text) >= SHORT]
    kept = [{"text": text} for text in documents if not tells_any(text, countries)]
    random.Random(0).shuffle(kept)
    for name, rows in {"english": kept, **{field: ask_facts(countries, field) for field in RELATIONS}}.items():
        with replacing(args.out / f"{name}.jsonl") as part:
            part.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    print(f"{args.out}: {len(kept)} documents; {len(documents) - len(kept)} that tell a fact are left out")


if __name__ == "__main__":
    run(main)
