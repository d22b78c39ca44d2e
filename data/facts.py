"""Facts about invented subjects, told in sentences and asked in questions: the engine of `wiki` and `trivia`.

The training text also contains questions, but only about every other subject. Test questions ask about all subjects,
so half of them can be answered only from facts that were told in sentences.
"""
import random
from typing import NamedTuple

from data.task import Task

ONSETS = "b br d dr f g gr h k kr l m n p pl r s st t tr v z".split()
VOWELS = "a e i o u ai or en".split()


class Attribute(NamedTuple):
    """A property of a kind of subject. In its sentences and question, {0} is the subject's name and {1} the value.

    The value is one of `choices`, if there are any. Otherwise it is a subject of the first kind (a person's land) if
    names_first_kind is set, and a new name if not.
    """
    sentences: tuple
    question: str
    choices: tuple = ()
    names_first_kind: bool = False


class Subject(NamedTuple):
    """A subject and what is known about it."""
    name: str
    values: dict  # attribute -> value
    kind: dict    # attribute -> Attribute


def invent(rng, taken, n_syllables):
    """A new name, which is not yet in the set `taken`. Adds it to the set."""
    while True:
        name = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(n_syllables)).capitalize()
        if name not in taken:
            taken.add(name)
            return name


def world(domain, level, kinds, n_of_each, taken=()):
    """All subjects of a domain, a list of Subject. It is the same on every machine.

    kinds: two dictionaries of Attribute. n_of_each: the number of subjects of each kind. taken: names not to be used.
    """
    rng = random.Random(f"{domain} level {level}")
    n_syllables = 3 if level == 2 else 2
    taken = set(taken)
    subjects = []
    for kind in kinds:
        first_kind = [subject.name for subject in subjects]
        for _ in range(n_of_each):
            name = invent(rng, taken, n_syllables)
            values = {}
            for key, attribute in kind.items():
                if attribute.choices:
                    values[key] = rng.choice(attribute.choices)
                elif attribute.names_first_kind:
                    values[key] = rng.choice(first_kind)
                else:
                    values[key] = invent(rng, taken, n_syllables)
            subjects.append(Subject(name, values, kind))
    return subjects


def ask(subject, key):
    """The task that asks about one attribute of a subject."""
    return Task(subject.kind[key].question.format(subject.name), f" {subject.values[key]}.")


def tell(rng, subjects):
    """A document: all facts about a random subject, in sentences or, for every other subject, perhaps in questions."""
    i = rng.randrange(len(subjects))
    name, values, kind = subjects[i]
    keys = rng.sample(list(values), len(values))
    if i % 2 == 0 and rng.random() < 0.5:
        tasks = [ask(subjects[i], key) for key in keys]
        return " ".join(task.prompt + task.answer for task in tasks)
    return " ".join(rng.choice(kind[key].sentences).format(name, values[key]) for key in keys)


def quiz(rng, subjects):
    """One question about any subject, graded by exact match."""
    subject = rng.choice(subjects)
    return ask(subject, rng.choice(list(subject.values)))
