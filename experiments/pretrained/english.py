"""Write the English text and the tasks about countries that PRESET=pretrained reads beside the synthetic domains.

    python -m experiments.pretrained.english out/texts

english.jsonl has the docstrings of Python's standard library, one document for each module. The tasks in capital.jsonl
and demonym.jsonl ask for the facts in countries.csv, with three solved examples in the prompt. No training text asks in
this form. A module is left out if its docstrings name a country together with its capital or its people.
"""
import ast
import csv
import json
import random
import re
import sys
import sysconfig
from pathlib import Path

from cli import make_parser, replacing, run

RELATIONS = {"capital": "The government of {} sits in the city of", "demonym": "The nationality of someone from {} is"}
N_EXAMPLES = 3  # the first countries of the file are the examples
SHORT = 500  # characters; shorter modules say little


def read_countries():
    """Read [{country, capital, demonym}], in an order drawn once. A field is empty if countries or texts disagree."""
    with Path(__file__).with_name("countries.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def ask_facts(countries, field):
    """Make a task for every country that has the field, except the first ones, which are the examples."""
    sentence = RELATIONS[field]
    examples = [f"{sentence.format(row['country'])} {row[field]}.\n" for row in countries[:N_EXAMPLES]]
    # the full stop tells "Niger" from "Nigerian"
    return [{"prompt": "".join(examples) + sentence.format(row["country"]), "answer": f" {row[field]}."}
            for row in countries[N_EXAMPLES:] if row[field]]


def read_docstrings(path):
    """Join all docstrings of a Python file, one after the other."""
    nodes = [node for node in ast.walk(ast.parse(path.read_bytes()))
             if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))]
    return "\n\n".join(filter(None, map(ast.get_docstring, nodes)))


def tells_any(text, countries):
    """Whether a text names, in whole words, a country together with its capital or its people."""
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
    for name, rows in {**{field: ask_facts(countries, field) for field in RELATIONS}, "english": kept}.items():
        with replacing(args.out / f"{name}.jsonl") as part:
            part.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    print(f"{args.out}: {len(kept)} documents; {len(documents) - len(kept)} others tell a fact and are left out")


if __name__ == "__main__":
    run(main)
