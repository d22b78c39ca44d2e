"""Tasks with one right answer, and the rule that keeps them out of the training text."""
import zlib
from dataclasses import dataclass, field
from importlib import import_module

DOMAINS = ("general", "trivia", "math", "code", "wiki")


@dataclass
class Task:
    """A prompt and what must follow it.

    kind "exact": the model's greedy continuation must be `answer`.
    kind "code": the prompt opens a Python function of a list. The finished function must return the value in each of
    `cases`, pairs of (arguments, value). `answer` is one solution.
    """
    prompt: str
    answer: str
    kind: str = "exact"
    cases: list = field(default_factory=list)


def domain_module(name):
    """The module with `document` and `task` of one of DOMAINS."""
    return import_module(f"data.{name}")


def is_held_out(text):
    """Whether a text is among the one in ten that no model trains on. By a checksum, so that all machines agree."""
    return zlib.crc32(text.encode("utf-8", "replace")) % 10 == 0


def draw(rng, make, test):
    """Call make(rng) -> (key, value) until the key is for testing, or for training, as asked. Returns the value.

    This keeps every test task of general, math and code out of the training text. wiki and trivia do not use it, since
    a model should know their facts by heart.
    """
    while True:
        key, value = make(rng)
        if is_held_out(repr(key)) == test:
            return value
