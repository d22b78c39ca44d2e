"""Write facts about countries as tasks: capital, continent, demonym. Leave out the facts that training texts tell.

    pip install countryinfo
    python -m experiments.facts out/facts --texts out/texts/*.jsonl
    python -m data.prepare --init out/seed.pt --domains "" --own_tasks capital=out/facts/capital.jsonl ...

Each prompt begins with three examples, of countries that are not asked about. An answer ends with a full stop, so that
"Niger" is no answer where "Nigerian" is right.
"""
import importlib.util
import json
import re
from pathlib import Path

from cli import BadInput, make_parser, replacing, run

RELATIONS = {"capital": ("capital", "The capital of {} is"),  # name: (countryinfo's field, how to ask)
             "continent": ("region", "The continent of {} is"),
             "demonym": ("demonym", "A person from {} is called")}
EXAMPLES = ("France", "Kenya", "Peru")


def read_countries():
    """{country: its fields}. The package countryinfo has a JSON file for each. Raises BadInput."""
    package = importlib.util.find_spec("countryinfo")
    if package is None:
        raise BadInput("countryinfo is not installed; run .venv/bin/pip install countryinfo")
    files = sorted(Path(package.origin).parent.glob("data/*.json"))
    countries = [json.loads(file.read_text("utf-8")) for file in files]
    return {country["name"]: country for country in countries}


def find_facts(countries, field):
    """{country: answer}, without answers that are no plain words or that the country's name tells, as Luxembourg."""
    facts = {}
    for name, country in countries.items():
        answer = str(country.get(field) or "")
        if re.fullmatch(r"[^\W\d]+([ -][^\W\d]+)*", answer) and answer.lower() not in name.lower():
            facts[name] = answer
    return facts


def has_word(line, word):
    """Whether a line of text has a word, or several that follow one another."""
    return word in line and re.search(rf"\b{re.escape(word)}\b", line)  # `in` alone is faster, and seldom true


def find_told(asked, paths):
    """The facts of asked, {country: answer}, whose country and answer stand in one line of the texts, as a set."""
    told = set()
    for path in paths:
        for document in path.read_text("utf-8").splitlines():
            for line in json.loads(document)["text"].splitlines():
                told |= {name for name in asked if has_word(line, name) and has_word(line, asked[name])}
    return told


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--texts", type=Path, nargs="+", default=[], help="training texts to search, .jsonl")
    args = parser.parse_args(argv)
    for path in args.texts:
        if not path.is_file():
            raise BadInput(f"--texts: there is no file {path}; experiments/text.mk makes it")
    countries = read_countries()
    for relation, (field, sentence) in RELATIONS.items():
        facts = find_facts(countries, field)
        examples = "".join(f"{sentence.format(name)} {facts[name]}.\n" for name in EXAMPLES)
        asked = {name: answer for name, answer in facts.items() if name not in EXAMPLES}
        told = find_told(asked, args.texts)
        lines = [json.dumps({"prompt": examples + sentence.format(name), "answer": f" {answer}."}) + "\n"
                 for name, answer in sorted(asked.items()) if name not in told]
        with replacing(args.out / f"{relation}.jsonl") as part:
            part.write_text("".join(lines))
        print(f"{relation}: {len(lines)} tasks; {len(told)} of {len(asked)} facts stand in one line of the texts and "
              "are left out")


if __name__ == "__main__":
    run(main)
