"""Code answers are graded as Python would grade them, by an interpreter that knows only what the domain needs."""
import random
import time

import pytest

from data import code
from support.grading import is_correct

PROMPT = 'def f(xs):\n    """Return the list."""'
OTHERS = (  # some of which have no value, on some lists or on all
    "xs[0] // 2", "xs[-1] % 3", "min(xs)", "max(xs, default=-7)", "-sum(xs)", "not xs", "3 * xs + xs", "y", "xs[::0]",
    "sorted(xs, reverse=xs[0] > 2)", "[x for x in xs if x != 3 if x <= 5]", "[[y for y in xs][0] + x for x in xs]",
    "xs[len(xs) // 2:-1:2]", "[x == xs[0] for x in xs if x < 9]", "[sum(xs) for xs in xs]", "[x >= 2 for x in xs]")


def test_the_right_answers_of_the_domain_are_right():
    rng = random.Random(0)
    for i in range(1000):
        _, task = code.make(rng, level=1 + i % 2)
        assert is_correct(task.prompt + task.answer, task.cases), task


@pytest.mark.parametrize("expression", OTHERS)
def test_expressions_have_pythons_value(expression):
    """Where Python raises an error, the answer is wrong."""
    rng = random.Random(0)
    for _ in range(20):
        xs = [rng.randint(-9, 12) for _ in range(rng.randint(0, 7))]
        try:
            expected = eval(expression, {"xs": xs})
        except (LookupError, NameError, TypeError, ValueError):
            expected = None
        is_right = is_correct(f"{PROMPT}\n    return {expression}", [[[xs], expected]])
        assert is_right == (expected is not None), xs


def test_right_is_the_same_value_and_type_in_every_case():
    cases = [[[[3, 1]], [1, 3]], [[[]], []], [[[2, 2]], [2, 2]]]
    assert is_correct(f"{PROMPT}\n    return [x for x in xs[::-1]]", cases)
    for wrong in ("xs", "sorted(xs)[:1]", "sorted"):
        assert not is_correct(f"{PROMPT}\n    return {wrong}\n", cases), wrong
    for wrong in range(6):  # one case of six
        assert not is_correct(f"{PROMPT}\n    return xs", [[[[n]], [n + (n == wrong)]] for n in range(6)])
    for answer, expected in (("len(xs) > 0", 1), ("len(xs) - 1", True), ("[x > 1 for x in xs]", [1, 1])):
        assert not is_correct(f"{PROMPT}\n    return {answer}", [[[[2, 2]], expected]]), answer


@pytest.mark.parametrize("answer", [
    "", "\n    return xs\n    return 0", "\n    return (", "\n    return \0", "\n    xs = xs\n    return xs",
    "\n    return 0\ndef f(xs):\n    ''\n    return xs", " + ''\n    return xs", "\n    return print() or xs",
    "\n    return __import__('os').listdir()", "\n    return xs.copy()", "\n    return sorted(xs, key=len)",
    "\n    return xs if '\\d' is 1 else xs"])
def test_what_is_not_one_return_of_a_known_expression_is_wrong(answer, capsys):
    assert not is_correct(PROMPT + answer, [[[[1, 2]], [1, 2]]])
    assert capsys.readouterr().out == ""  # nothing was executed


@pytest.mark.parametrize("bomb", [
    "10**10**10", "xs * 200000000", "200000000 * xs", "xs" + " * 9" * 15, "9" * 5000, "-" * 5000 + "1",
    "[x * x for x in " * 30 + "xs" + "]" * 30, "(" * 90 + "xs" + " + xs)" * 90,
    "[sum([sum([z for z in xs * 300]) for y in xs * 300]) for x in xs * 300]"])
def test_an_answer_that_would_take_for_ever_ends_soon_as_wrong(bomb):
    start = time.process_time()
    assert not is_correct(f"{PROMPT}\n    return {bomb}", [[[[1, 2, 3]], [1, 2, 3]]])
    assert time.process_time() - start < 1
