"""The seed's domain: short texts about people, things and places, with questions that the text itself answers.

>>> import random
>>> print(document(random.Random(0)))  # doctest: +NORMALIZE_WHITESPACE
The rope is in the kitchen. Ida moved the rope to the cellar. Paul moved the rope to the park.
Where was the rope at first? In the kitchen. Who moved the rope last? Paul did. Where is the rope? In the park.
"""
from data.task import Task, draw

NAMES = "Tom Ann Ben Eva Max Lily Sam Nora Leo Ida Paul Rosa Jack Mia Otto Zoe".split()
KINDS = {
    "thing": "lamp coin book cup key ball rope hat drum map bell fork".split(),
    "place": "kitchen garden barn shop school park cellar attic tower harbor mill market".split(),
    "beast": "horse wolf bird fish cow dog cat hen goat mouse bear fox".split(),
    "plant": "tree rose grass oak fern moss tulip pine ivy reed clover thistle".split(),
    "food": "bread milk salt cheese soup rice cake jam butter stew pie porridge".split(),
    "colour": "red green blue yellow white black brown grey pink purple golden silver".split(),
}
THINGS, PLACES = KINDS["thing"], KINDS["place"]
WORDS = [word for words in KINDS.values() for word in words]


def repeat(rng, level):
    words = rng.sample(WORDS, rng.randint(3, 5 if level < 2 else 12))
    return f"Say again: {' '.join(words)}.", [("I say:", f"{' '.join(words)}.")]


def order(rng, level):
    words = rng.sample(WORDS, rng.randint(3, 4 if level < 2 else 8))
    return (f"In a row: {', '.join(words)}.",
            [(f"Which is the {which}?", f"The {words[i]}.")
             for which, i in (("first", 0), ("second", 1), ("last", -1))])


def which_is(rng, level):
    kinds = rng.sample(list(KINDS), 3 if level < 2 else 5)
    words = [rng.choice(KINDS[kind]) for kind in kinds]
    return (f"Think of {', '.join(rng.sample(words, len(words)))}.",
            [(f"Which is a {kind}?", f"The {word}.") for kind, word in zip(kinds, words, strict=True)])


def moved(rng, level):
    n = 1 if level < 2 else rng.randint(2, 6)
    where = dict(zip(rng.sample(THINGS, n), rng.sample(PLACES, n), strict=True))
    story = [f"The {thing} is in the {place}." for thing, place in where.items()]
    questions = [(f"Where was the {thing} at first?", f"In the {place}.") for thing, place in where.items()]
    who = None
    for _ in range(rng.randint(1, 2 if level < 2 else 6)):
        thing, place = rng.choice(list(where)), rng.choice(PLACES)
        who = rng.choice([name for name in NAMES if name != who])
        story.append(f"{who} moved the {thing} to the {place}.")
        where[thing] = place
    questions += [(f"Where is the {thing}?", f"In the {place}.") for thing, place in where.items()]
    return " ".join(story), questions + [(f"Who moved the {thing} last?", f"{who} did.")]


def who_is_where(rng, level):
    n = 2 if level < 2 else rng.randint(2, 8)
    pairs = list(zip(rng.sample(NAMES, n), rng.sample(PLACES, n), strict=True))
    return (" ".join(f"{who} is in the {place}." for who, place in pairs),
            [(f"Where is {who}?", f"In the {place}.") for who, place in pairs]
            + [(f"Who is in the {place}?", f"{who} is.") for who, place in pairs])


def make(rng, level):
    """A story and all questions about it, each with its answer. The end of the story is the key, so that no test story
    is told in training, not even as the end of a longer one."""
    story, questions = rng.choice((repeat, order, which_is, moved, who_is_where))(rng, level)
    return story.split(". ")[-2:], (story, rng.sample(questions, len(questions)))


def document(rng, level=1):
    """One story, and up to four questions about it with their answers."""
    story, questions = draw(rng, lambda r: make(r, level), test=False)
    return " ".join([story, *(f"{question} {answer}" for question, answer in questions[:4])])


def task(rng, level=1):
    """One question about a story, graded by exact match."""
    story, questions = draw(rng, lambda r: make(r, level), test=True)
    question, answer = questions[0]
    return Task(f"{story} {question}", f" {answer}")
