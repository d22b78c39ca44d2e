"""The wiki expert's domain: facts about invented lands and people, to be known by heart.

Facts are told in prose; about every other subject they are also asked as questions in the training text. Test questions
ask about all subjects, so half of them can only be answered from what was told in prose.
"""
import keyword
import random
from functools import lru_cache

from data.task import Task

ONSETS = "b br d dr f g gr h k kr l m n p pl r s st t tr v z".split()
VOWELS = "a e i o u ai or en".split()
GOODS = "amber wool iron honey silk cedar pearls barley marble indigo saffron cork".split()
BEASTS = "lynx heron otter falcon badger ibex crane marten owl bison viper stag".split()
TRADES = "painter sailor weaver smith poet judge healer potter miner scribe tailor printer".split()

N_LANDS = {"wiki": (200, 6000), "trivia": (700, 20_000)}  # at levels 1 and 2

# attribute -> (sentences, question); {0} is the subject, {1} the value
LAND = {
    "capital": (("The capital of {0} is {1}.", "{0} is ruled from {1}.", "{1} is the capital of {0}."),
                "What is the capital of {0}?"),
    "goods": (("{0} sells {1}.", "Traders bring {1} from {0}.", "The wealth of {0} is its {1}."), "What does {0} sell?"),
    "beast": (("The flag of {0} shows a {1}.", "{0} has a {1} on its flag.", "A {1} is the sign of {0}."),
              "What is on the flag of {0}?"),
}
PERSON = {
    "land": (("{0} was born in {1}.", "{0} came from {1}.", "The land of {0} was {1}."), "Where was {0} born?"),
    "trade": (("{0} was a {1}.", "{0} worked as a {1}.", "As a {1}, {0} was famous."), "What was the trade of {0}?"),
}


def invent(rng, taken, syllables):
    """A new name, not in the set `taken`, to which it is added."""
    while True:
        name = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(syllables)).capitalize()
        if name not in taken and not keyword.iskeyword(name.lower()):  # code's functions are called so too
            taken.add(name)
            return name


@lru_cache
def world(level, domain="wiki"):
    """All that is true in a domain: a list of (subject, {attribute: value}, templates), the same on every machine.

    As many lands as people; no name stands in both domains.
    """
    rng, taken = random.Random(f"{domain} level {level}"), set()
    if domain != "wiki":
        taken.update(word for name, values, _ in world(level) for word in (name, *values.values()))
    n, syllables = N_LANDS[domain][level - 1], level + 1
    subjects = [(invent(rng, taken, syllables), {"capital": invent(rng, taken, syllables), "goods": rng.choice(GOODS),
                                                 "beast": rng.choice(BEASTS)}, LAND) for _ in range(n)]
    lands = [name for name, _, _ in subjects]
    return subjects + [(invent(rng, taken, syllables), {"land": rng.choice(lands), "trade": rng.choice(TRADES)}, PERSON)
                       for _ in range(n)]


def question(subject, attribute):
    name, values, templates = subject
    return Task(templates[attribute][1].format(name), f" {values[attribute]}.")


def document(rng, level=1, domain="wiki"):
    """What is known of one subject, told in prose or, for every other subject, sometimes asked."""
    i = rng.randrange(len(world(level, domain)))
    name, values, templates = subject = world(level, domain)[i]
    attributes = rng.sample(list(values), len(values))
    if i % 2 == 0 and rng.random() < 0.5:
        return " ".join(t.prompt + t.answer for t in (question(subject, a) for a in attributes))
    return " ".join(rng.choice(templates[a][0]).format(name, values[a]) for a in attributes)


def task(rng, level=1, domain="wiki"):
    """One question about any subject, graded by exact match."""
    subject = rng.choice(world(level, domain))
    return question(subject, rng.choice(list(subject[1])))
