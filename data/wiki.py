"""The wiki expert's domain: facts about invented lands and people, to be known by heart (see data/facts.py)."""
from functools import lru_cache

from data import facts
from data.facts import Attribute

LAND = {
    "capital": Attribute(
        ("The capital of {0} is {1}.", "{0} is ruled from {1}.", "{1} is the capital of {0}."),
        "What is the capital of {0}?"),
    "goods": Attribute(
        ("{0} sells {1}.", "Traders bring {1} from {0}.", "The wealth of {0} is its {1}."), "What does {0} sell?",
        tuple("amber wool iron honey silk cedar pearls barley marble indigo saffron cork".split())),
    "beast": Attribute(
        ("The flag of {0} shows a {1}.", "{0} has a {1} on its flag.", "A {1} is the sign of {0}."),
        "What is on the flag of {0}?",
        tuple("lynx heron otter falcon badger ibex crane marten owl bison viper stag".split()))}
PERSON = {
    "land": Attribute(
        ("{0} was born in {1}.", "{0} came from {1}.", "The land of {0} was {1}."), "Where was {0} born?",
        names_first_kind=True),
    "trade": Attribute(
        ("{0} was a {1}.", "{0} worked as a {1}.", "As a {1}, {0} was famous."), "What was the trade of {0}?",
        tuple("painter sailor weaver smith poet judge healer potter miner scribe tailor printer".split()))}
N_OF_EACH = {0: 50, 1: 200, 2: 6000}  # level -> how many lands, and how many people


@lru_cache
def subjects(level):
    """All lands and people of a level."""
    return facts.world("wiki", level, (LAND, PERSON), N_OF_EACH[level])


def document(rng, level=1):
    """All facts about one land or person."""
    return facts.tell(rng, subjects(level))


def task(rng, level=1):
    """One question about any land or person."""
    return facts.quiz(rng, subjects(level))
