"""The seed's domain: short texts about people, things and places, which are answered by looking back.

>>> import random
>>> document(random.Random(1))
'Zoe is in the cellar. Tom is in the market. Who is in the cellar? Zoe is.'
"""
from data.task import Task, draw

NAMES = "Tom Ann Ben Eva Max Lily Sam Nora Leo Ida Paul Rosa Jack Mia Otto Zoe".split()
THINGS = "lamp coin book cup key ball rope hat drum map bell fork".split()
PLACES = "kitchen garden barn shop school park cellar attic tower harbor mill market".split()
WORDS = ("river stone cloud tree fire snow wind leaf bread milk salt horse wolf bird fish road bridge door "
         "wall roof song story winter summer morning evening silver copper green yellow".split())


def repeat(rng, level):
    words = rng.sample(WORDS, rng.randint(3, 5 if level == 1 else 12))
    return f"Say again: {' '.join(words)}. I say:", f" {' '.join(words)}."


def who_is_where(rng, level):
    n = rng.randint(2, 3 if level == 1 else 8)
    names, places = rng.sample(NAMES, n), rng.sample(PLACES, n)
    i = rng.randrange(n)
    story = " ".join(f"{a} is in the {b}." for a, b in zip(names, places, strict=True))
    if rng.random() < 0.5:
        return f"{story} Where is {names[i]}?", f" In the {places[i]}."
    return f"{story} Who is in the {places[i]}?", f" {names[i]} is."


def who_has_what(rng, level):
    n = rng.randint(2, 3 if level == 1 else 8)
    names, things = rng.sample(NAMES, n), rng.sample(THINGS, n)
    i = rng.randrange(n)
    story = " ".join(f"{a} has a {b}." for a, b in zip(names, things, strict=True))
    if rng.random() < 0.5:
        return f"{story} What does {names[i]} have?", f" A {things[i]}."
    return f"{story} Who has the {things[i]}?", f" {names[i]} does."


def moved(rng, level):
    n = 2 if level == 1 else rng.randint(2, 6)
    things, places = rng.sample(THINGS, n), rng.sample(PLACES, n)
    story = [f"The {a} is in the {b}." for a, b in zip(things, places, strict=True)]
    where = dict(zip(things, places, strict=True))
    for _ in range(1 if level == 1 else rng.randint(1, 5)):
        thing, place = rng.choice(things), rng.choice(PLACES)
        story.append(f"{rng.choice(NAMES)} moved the {thing} to the {place}.")
        where[thing] = place
    thing = rng.choice(things)
    return f"{' '.join(story)} Where is the {thing}?", f" In the {where[thing]}."


def make(rng, level):
    prompt, answer = rng.choice((repeat, who_is_where, who_has_what, moved))(rng, level)
    return prompt, Task(prompt, answer)


def document(rng, level=1):
    """One text and its question, never one that `task` can return."""
    task = draw(rng, lambda r: make(r, level), test=False)
    return task.prompt + task.answer


def task(rng, level=1):
    """One question about a text, graded by exact match."""
    return draw(rng, lambda r: make(r, level), test=True)
