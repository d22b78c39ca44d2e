"""Write tasks with three solved examples in the prompt: facts about countries, and those of math, code and wiki.

    pip install countryinfo
    python -m experiments.facts out/facts
    python -m data.prepare --domains "" --own_tasks capital=out/facts/capital.jsonl math3=out/facts/math3.jsonl ...

The examples show a model that was never trained on such tasks how an answer looks. An answer about a country ends with
a full stop, so that "Niger" is no answer where "Nigerian" is right. All are graded by exact match, code, too.
"""
import importlib.util
import json
import random
import re
from pathlib import Path

from cli import BadInput, make_parser, replacing, run
from data.task import domain_module

RELATIONS = {"capital": ("capital", "The capital of {} is"),  # name: (countryinfo's field, how to ask)
             "continent": ("region", "The continent of {} is"),
             "demonym": ("demonym", "A person from {} is called")}
EXAMPLES = ("France", "Kenya", "Peru")
DOMAINS, LEVEL = ("math", "code", "wiki"), 0  # as experiments/pretrained.mk prepares them
N_TASKS = 100  # of each domain


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


def ask_facts(facts, sentence):
    """[(prompt, answer)] for facts, {country: answer}, but those of EXAMPLES. sentence has {} for the country."""
    examples = "".join(f"{sentence.format(name)} {facts[name]}.\n" for name in EXAMPLES)
    return [(examples + sentence.format(name), f" {answer}.")
            for name, answer in sorted(facts.items()) if name not in EXAMPLES]


def ask_domain(name):
    """[(prompt, answer)] of a synthetic domain. Each prompt has three documents of it and a task."""
    rng, domain = random.Random(f"three/{name}"), domain_module(name)
    tasks = []
    for _ in range(N_TASKS):
        examples = "".join(f"{domain.document(rng, LEVEL).strip()}\n\n" for _ in range(3))
        task = domain.task(rng, LEVEL)
        tasks.append((examples + task.prompt, task.answer.rstrip()))
    return tasks


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("out", type=Path, help="folder to write to")
    args = parser.parse_args(argv)
    countries = read_countries()
    tasks = {name: ask_facts(find_facts(countries, field), sentence) for name, (field, sentence) in RELATIONS.items()}
    tasks |= {f"{name}3": ask_domain(name) for name in DOMAINS}
    for name, pairs in tasks.items():
        with replacing(args.out / f"{name}.jsonl") as part:
            part.write_text("".join(json.dumps({"prompt": prompt, "answer": answer}) + "\n"
                                    for prompt, answer in pairs), "utf-8")


if __name__ == "__main__":
    run(main)
