"""The wiki expert's domain: facts about invented lands and people, to be known by heart.

Facts are told in prose; about every other subject they are also asked as questions in the training text. Test questions
ask about all subjects, so half of them can only be answered from what was told in prose. `trivia` is made the same way.
"""
import keyword
import random
from functools import lru_cache

from data.task import Task

ONSETS = "b br d dr f g gr h k kr l m n p pl r s st t tr v z".split()
VOWELS = "a e i o u ai or en".split()
NEW, FIRST = "a name of its own", "the name of a subject of the first kind"

# attribute -> (its values, sentences, question); {0} is the subject, {1} the value
LAND = {
    "capital": (NEW, ("The capital of {0} is {1}.", "{0} is ruled from {1}.", "{1} is the capital of {0}."),
                "What is the capital of {0}?"),
    "goods": ("amber wool iron honey silk cedar pearls barley marble indigo saffron cork".split(),
              ("{0} sells {1}.", "Traders bring {1} from {0}.", "The wealth of {0} is its {1}."),
              "What does {0} sell?"),
    "beast": ("lynx heron otter falcon badger ibex crane marten owl bison viper stag".split(),
              ("The flag of {0} shows a {1}.", "{0} has a {1} on its flag.", "A {1} is the sign of {0}."),
              "What is on the flag of {0}?"),
}
PERSON = {
    "land": (FIRST, ("{0} was born in {1}.", "{0} came from {1}.", "The land of {0} was {1}."), "Where was {0} born?"),
    "trade": ("painter sailor weaver smith poet judge healer potter miner scribe tailor printer".split(),
              ("{0} was a {1}.", "{0} worked as a {1}.", "As a {1}, {0} was famous."), "What was the trade of {0}?"),
}
RIVER = {
    "spring": (NEW,
               ("The river {0} rises near {1}.", "Near {1} the river {0} begins.",
                "Springs at {1} feed the river {0}."),
               "Near which place does the river {0} rise?"),
    "fish": ("trout perch salmon pike eel carp tench bream dace roach chub barbel".split(),
             ("The river {0} is full of {1}.", "Anglers on the river {0} catch {1}.",
              "Many {1} swim in the river {0}."), "Which fish swims in the river {0}?"),
    "colour": ("green brown grey red yellow black white blue golden silver purple crimson".split(),
               ("The river {0} looks {1}.", "In spring the river {0} turns {1}.", "Maps show the river {0} in {1}."),
               "Which colour has the river {0}?"),
}
SHIP = {
    "river": (FIRST,
              ("The ship {0} sails the {1}.", "On the {1} you can meet the ship {0}.", "The {1} carries the ship {0}."),
              "Which river does the ship {0} sail?"),
    "cargo": ("timber tallow hemp slate peat flax rope coal glass lime clay chalk".split(),
              ("The ship {0} is loaded with {1}.", "Aboard the ship {0} is {1}.", "Sacks of {1} fill the ship {0}."),
              "Which cargo has the ship {0}?"),
}
# domain -> two kinds of subjects, and how many there are of each at levels 1 and 2
WORLDS = {"wiki": ((LAND, PERSON), (200, 6000)), "trivia": ((RIVER, SHIP), (520, 20_000))}


def invent(rng, taken, syllables):
    """A new name, not in the set `taken`, to which it is added."""
    while True:
        name = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(syllables)).capitalize()
        if name not in taken and not keyword.iskeyword(name.lower()):  # code's functions are called so too
            taken.add(name)
            return name


@lru_cache
def world(level, domain="wiki"):
    """All that is true in a domain: a list of (subject, {attribute: value}, its kind), the same on every machine.

    As many subjects of one kind as of the other; no name stands in both domains.
    """
    rng, taken, syllables = random.Random(f"{domain} level {level}"), set(), level + 1
    if domain != "wiki":
        taken.update(word for name, values, _ in world(level) for word in (name, *values.values()))
    (kinds, n), subjects = WORLDS[domain], []
    for kind in kinds:
        first = [name for name, _, _ in subjects]
        for _ in range(n[level - 1]):
            name = invent(rng, taken, syllables)
            values = {a: invent(rng, taken, syllables) if pool is NEW else rng.choice(first if pool is FIRST else pool)
                      for a, (pool, _, _) in kind.items()}
            subjects.append((name, values, kind))
    return subjects


def question(subject, attribute):
    name, values, kind = subject
    return Task(kind[attribute][2].format(name), f" {values[attribute]}.")


def document(rng, level=1, domain="wiki"):
    """What is known of one subject, told in prose or, for every other subject, sometimes asked."""
    i = rng.randrange(len(world(level, domain)))
    name, values, kind = subject = world(level, domain)[i]
    attributes = rng.sample(list(values), len(values))
    if i % 2 == 0 and rng.random() < 0.5:
        return " ".join(t.prompt + t.answer for t in (question(subject, a) for a in attributes))
    return " ".join(rng.choice(kind[a][1]).format(name, values[a]) for a in attributes)


def task(rng, level=1, domain="wiki"):
    """One question about any subject, graded by exact match."""
    subject = rng.choice(world(level, domain))
    return question(subject, rng.choice(list(subject[1])))
