"""What a domain hands out besides text: tasks with one right answer, and which are kept out of the training text."""
import zlib
from dataclasses import dataclass, field
from importlib import import_module
from statistics import mean

DOMAINS = ("general", "trivia", "math", "code", "wiki")


@dataclass
class Task:
    """A prompt and what must follow it.

    kind "exact": right if the model's greedy continuation is `answer`.
    kind "code": the prompt opens a Python function of a list; right if the finished function returns the value in every
    one of `cases`, pairs of (arguments, expected value). `answer` is a reference solution.
    """
    prompt: str
    answer: str
    kind: str = "exact"
    cases: list = field(default_factory=list)


def domain_module(name):
    """The module with `document` and `task` of one of DOMAINS."""
    return import_module(f"data.{name}")


def over_domains(values):
    """The mean of {domain: value}; `switch`, a made-up test of ours on the others' text, stays out if there are others.

    >>> over_domains({"math": 1.0, "code": 3.0, "switch": 100.0})
    2.0
    """
    return mean([value for domain, value in values.items() if domain != "switch"] or values.values())


def held_out(key):
    """Whether the one task in ten with this key is for testing only. A checksum, so that every machine agrees.

    >>> [held_out(a) for a in range(5, 8)]
    [False, True, False]
    """
    return zlib.crc32(repr(key).encode()) % 10 == 0


def draw(rng, make, test):
    """Call make(rng) -> (key, value) until the key is on the wanted side, and return the value.

    Training text draws with test=False and tasks with test=True, so no test task can occur in the training text.
    """
    while True:
        key, value = make(rng)
        if held_out(key) == test:
            return value
