"""Trivia: facts about rivers and ships, many more than in wiki, that the seed learns and no expert is about.

They stand for the knowledge of the paper's seed. Branches see it again only in a little replay.
"""
from data import wiki


def document(rng, level=1):
    """All facts about one subject, as sentences or as questions with answers."""
    return wiki.document(rng, level, "trivia")


def task(rng, level=1):
    """One question about any subject, graded by exact match."""
    return wiki.task(rng, level, "trivia")
