"""Trivia: facts about rivers and ships, many more than in wiki, that the seed learns and no expert is about.

They stand for the knowledge of the paper's seed. Branches see it again only in a little replay.
"""
from data import wiki
from data.wiki import FIRST, NEW, Attribute

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
KINDS = (RIVER, SHIP)
N_SUBJECTS = {0: 130, 1: 520, 2: 20_000}  # level -> how many of each kind


def document(rng, level=1):
    """All facts about one subject, as sentences or as questions with answers."""
    return wiki.document(rng, level, "trivia")


def task(rng, level=1):
    """One question about any subject, graded by exact match."""
    return wiki.task(rng, level, "trivia")
