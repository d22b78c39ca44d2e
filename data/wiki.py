"""The wiki expert's domain: facts about invented lands and people, to be known by heart.

Facts are told in prose. About every other subject they are also asked as questions in the training text. Test questions
ask about all subjects, so half of them can only be answered from what was told in prose. `trivia` is made the same way.
"""
import keyword
import random
from functools import lru_cache
from typing import NamedTuple

from data.task import Task

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
RIVER = {
    "spring": Attribute(
        NEW, ("The river {0} rises near {1}.", "Near {1} the river {0} begins.", "Springs at {1} feed the river {0}."),
        "Near which place does the river {0} rise?"),
    "fish": Attribute(
        "trout perch salmon pike eel carp tench bream dace roach chub barbel".split(),
        ("The river {0} is full of {1}.", "Anglers on the river {0} catch {1}.", "Many {1} swim in the river {0}."),
        "Which fish swims in the river {0}?"),
    "colour": Attribute(
        "green brown grey red yellow black white blue golden silver purple crimson".split(),
        ("The river {0} looks {1}.", "In spring the river {0} turns {1}.", "Maps show the river {0} in {1}."),
        "Which colour has the river {0}?")}
SHIP = {
    "river": Attribute(
        FIRST,
        ("The ship {0} sails the {1}.", "On the {1} you can meet the ship {0}.", "The {1} carries the ship {0}."),
        "Which river does the ship {0} sail?"),
    "cargo": Attribute(
        "timber tallow hemp slate peat flax rope coal glass lime clay chalk".split(),
        ("The ship {0} is loaded with {1}.", "Aboard the ship {0} is {1}.", "Sacks of {1} fill the ship {0}."),
        "Which cargo has the ship {0}?")}
# domain -> two kinds of subjects, and how many there are of each at levels 1 and 2
WORLDS = {"wiki": ((LAND, PERSON), (200, 6000)), "trivia": ((RIVER, SHIP), (520, 20_000))}


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

    It has as many subjects of one kind as of the other. No name stands in both domains.
    """
    rng = random.Random(f"{domain} level {level}")
    n_syllables = level + 1
    taken = set()
    if domain != "wiki":
        for subject in world(level):
            taken.update([subject.name, *subject.values.values()])
    kinds, n_subjects = WORLDS[domain]
    subjects = []
    for kind in kinds:
        first_kind = [subject.name for subject in subjects]
        for _ in range(n_subjects[level - 1]):
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


def tell(rng, subjects, i):
    """All facts about subject i of a world, as sentences or, for every other subject, sometimes as questions."""
    subject = subjects[i]
    name, values, kind = subject
    keys = rng.sample(list(values), len(values))
    if i % 2 == 0 and rng.random() < 0.5:
        tasks = [ask(subject, key) for key in keys]
        return " ".join(task.prompt + task.answer for task in tasks)
    return " ".join(rng.choice(kind[key].sentences).format(name, values[key]) for key in keys)


def document(rng, level=1, domain="wiki"):
    """All facts about one subject, drawn at random."""
    subjects = world(level, domain)
    return tell(rng, subjects, rng.randrange(len(subjects)))


def task(rng, level=1, domain="wiki"):
    """One question about any subject, graded by exact match."""
    subject = rng.choice(world(level, domain))
    return ask(subject, rng.choice(list(subject.values)))
