"""Trivia: facts about rivers and ships, many more than in wiki, which the seed learns and no expert specialises in.

They stand for the knowledge of the paper's seed. Branches read only a little of them again. See data/facts.py.
"""
from functools import lru_cache

from data import facts, wiki
from data.facts import Attribute

RIVER = {
    "spring": Attribute(
        ("The river {0} rises near {1}.", "Near {1} the river {0} begins.", "Springs at {1} feed the river {0}."),
        "Near which place does the river {0} rise?"),
    "fish": Attribute(
        ("The river {0} is full of {1}.", "Anglers on the river {0} catch {1}.", "Many {1} swim in the river {0}."),
        "Which fish swims in the river {0}?",
        tuple("trout perch salmon pike eel carp tench bream dace roach chub barbel".split())),
    "colour": Attribute(
        ("The river {0} looks {1}.", "In spring the river {0} turns {1}.", "Maps show the river {0} in {1}."),
        "Which colour has the river {0}?",
        tuple("green brown grey red yellow black white blue golden silver purple crimson".split()))}
SHIP = {
    "river": Attribute(
        ("The ship {0} sails the {1}.", "On the {1} you can meet the ship {0}.", "The {1} carries the ship {0}."),
        "Which river does the ship {0} sail?", names_first_kind=True),
    "cargo": Attribute(
        ("The ship {0} is loaded with {1}.", "Aboard the ship {0} is {1}.", "Sacks of {1} fill the ship {0}."),
        "Which cargo has the ship {0}?",
        tuple("timber tallow hemp slate peat flax rope coal glass lime clay chalk".split()))}
N_OF_EACH = {0: 130, 1: 520, 2: 20_000}  # level -> how many rivers, and how many ships


@lru_cache
def subjects(level):
    """All rivers and ships of a level. None of their names occurs in wiki."""
    taken = [name for subject in wiki.subjects(level) for name in (subject.name, *subject.values.values())]
    return facts.world("trivia", level, (RIVER, SHIP), N_OF_EACH[level], taken)


def document(rng, level=1):
    """All facts about one river or ship."""
    return facts.tell(rng, subjects(level))


def task(rng, level=1):
    """One question about any river or ship."""
    return facts.quiz(rng, subjects(level))
