"""What only the seed is to know: facts about rivers and ships, many more than of wiki, and in no expert's domain.

They stand for the knowledge of the paper's seed, which no branch sees again but in a little replay.
"""
from data import wiki


def document(rng, level=1):
    """What is known of one subject, told in prose or asked."""
    return wiki.document(rng, level, "trivia")


def task(rng, level=1):
    """One question about any subject, graded by exact match."""
    return wiki.task(rng, level, "trivia")
