"""The wiki expert's domain: facts about invented lands and people, to be known by heart.

Facts are told in prose. About every other subject they are also asked as questions in the training text. Test questions
ask about all subjects, so half of them can only be answered from what was told in prose. `trivia` is made the same way.
"""
import keyword
import random
from functools import lru_cache
from typing import NamedTuple

from data.task import Task, domain_module

ONSETS = "b br d dr f g gr h k kr l m n p pl r s st t tr v z".split()
VOWELS = "a e i o u ai or en".split()
NEW, FIRST = "a name of its own", "the name of a subject of the first kind"


class Attribute(NamedTuple):
    """A property of a kind of subject. In sentences and question {0} is the subject's name, {1} the value."""
    values: object  # a list to choose from, or NEW or FIRST
    sentences: tuple
    question: str


class Subject(NamedTuple):
    """A subject and what is known of it."""
    name: str
    values: dict  # attribute -> value
    kind: dict    # attribute -> Attribute


LAND = {
    "capital": Attribute(
        NEW, ("The capital of {0} is {1}.", "{0} is ruled from {1}.", "{1} is the capital of {0}."),
        "What is the capital of {0}?"),
    "goods": Attribute(
        "amber wool iron honey silk cedar pearls barley marble indigo saffron cork".split(),
        ("{0} sells {1}.", "Traders bring {1} from {0}.", "The wealth of {0} is its {1}."), "What does {0} sell?"),
    "beast": Attribute(
        "lynx heron otter falcon badger ibex crane marten owl bison viper stag".split(),
        ("The flag of {0} shows a {1}.", "{0} has a {1} on its flag.", "A {1} is the sign of {0}."),
        "What is on the flag of {0}?")}
PERSON = {
    "land": Attribute(
        FIRST, ("{0} was born in {1}.", "{0} came from {1}.", "The land of {0} was {1}."), "Where was {0} born?"),
    "trade": Attribute(
        "painter sailor weaver smith poet judge healer potter miner scribe tailor printer".split(),
        ("{0} was a {1}.", "{0} worked as a {1}.", "As a {1}, {0} was famous."), "What was the trade of {0}?")}
KINDS = (LAND, PERSON)
N_SUBJECTS = {0: 50, 1: 200, 2: 6000}  # level -> how many of each kind


def invent(rng, taken, n_syllables):
    """A new name. It is not in the set `taken`, and is added to it."""
    while True:
        name = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(n_syllables)).capitalize()
        if name not in taken and not keyword.iskeyword(name.lower()):
            taken.add(name)
            return name


@lru_cache
def world(level, domain="wiki"):
    """All that is true in a domain, a list of Subject, the same on every machine.

    Its module has the two kinds of its subjects, KINDS, and how many there are of each, N_SUBJECTS. No name stands in
    both domains.
    """
    rng = random.Random(f"{domain} level {level}")
    n_syllables = 3 if level == 2 else 2
    taken = set()
    if domain != "wiki":
        for subject in world(level):
            taken.update([subject.name, *subject.values.values()])
    module = domain_module(domain)
    subjects = []
    for kind in module.KINDS:
        first_kind = [subject.name for subject in subjects]
        for _ in range(module.N_SUBJECTS[level]):
            name = invent(rng, taken, n_syllables)
            values = {}
            for key, attribute in kind.items():
                if attribute.values == NEW:
                    values[key] = invent(rng, taken, n_syllables)
                elif attribute.values == FIRST:
                    values[key] = rng.choice(first_kind)
                else:
                    values[key] = rng.choice(attribute.values)
            subjects.append(Subject(name, values, kind))
    return subjects


def ask(subject, key):
    """The task that asks for one attribute of a subject."""
    return Task(subject.kind[key].question.format(subject.name), f" {subject.values[key]}.")


def document(rng, level=1, domain="wiki"):
    """All facts about a subject drawn at random, as sentences or, for every other subject, sometimes as questions."""
    subjects = world(level, domain)
    i = rng.randrange(len(subjects))
    subject = subjects[i]
    name, values, kind = subject
    keys = rng.sample(list(values), len(values))
    if i % 2 == 0 and rng.random() < 0.5:
        tasks = [ask(subject, key) for key in keys]
        return " ".join(task.prompt + task.answer for task in tasks)
    return " ".join(rng.choice(kind[key].sentences).format(name, values[key]) for key in keys)


def task(rng, level=1, domain="wiki"):
    """One question about any subject, graded by exact match."""
    subject = rng.choice(world(level, domain))
    return ask(subject, rng.choice(list(subject.values)))
