"""Code answers are graded as Python would grade them, by an interpreter that knows only what the domain needs."""
import ast
import random
import time

import pytest

from data import code
from support.grading import MAX_STEPS, Wrong, compute, is_correct

PROMPT = 'def f(xs):\n    """Return the list."""'


@pytest.mark.parametrize("level", [1, 2])
def test_every_expression_of_the_domain_has_pythons_value(level):
    """On lists that are not among the cases, too; and the reference solves its own cases."""
    rng = random.Random(level)
    for _ in range(600):
        _, task = code.make(rng, level)
        assert is_correct(task.prompt, task.answer, task.cases), task
        expression = task.answer.removeprefix("\n    return ").strip()
        xs = [rng.randint(-9, 12) for _ in range(rng.randint(0, 7))]
        value = compute(ast.parse(expression, mode="eval").body, {"xs": xs}, [MAX_STEPS])
        assert repr(value) == repr(eval(expression, {"xs": xs})), (expression, xs)


def random_expression(rng, depth, names):
    """Python of the kinds that are known, right or wrong."""
    if depth == 0 or rng.random() < 0.1:
        return rng.choice([*names, "0", "1", "-3", "True"])
    a, b = random_expression(rng, depth - 1, names), random_expression(rng, depth - 1, names)
    x = rng.choice("xyz")
    inner = random_expression(rng, depth - 1, [*names, x, x])
    return rng.choice([
        f"sorted({a})", f"sorted({a}, reverse={b})", f"sum({a})", f"len({a})", f"max({a}, default={b})", f"min({a})",
        f"({a})[{b}:]", f"({a})[:{b}]", f"({a})[::{b}]", f"({a})[{b}]", f"(not {a})", f"(-{a})",
        f"[{inner} for {x} in {a}]", f"[{x} for {x} in {a} if {inner}]", f"[{inner} for {x} in {a} if {x} < {b}]",
        *(f"({a} {operator} {b})" for operator in ("+", "-", "*", "//", "%", "==", "!=", "<", "<=", ">", ">="))])


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_random_expressions_have_pythons_value_or_are_wrong():
    rng = random.Random(0)
    computed = 0
    for _ in range(4000):
        text = random_expression(rng, rng.randint(1, 4), ["xs", "xs"])
        xs = [rng.randint(-5, 5) for _ in range(rng.randint(0, 4))]
        try:
            value = compute(ast.parse(text, mode="eval").body, {"xs": xs}, [MAX_STEPS])
        except (Wrong, ArithmeticError, LookupError, TypeError, ValueError):
            continue
        assert repr(value) == repr(eval(text, {"xs": xs})), (text, xs)
        computed += 1
    assert computed > 900


def test_right_is_the_same_value_and_type_in_every_case():
    cases = [[[[3, 1]], [1, 3]], [[[]], []], [[[2, 2]], [2, 2]]]
    assert is_correct(PROMPT, "\n    return sorted(xs)\n", cases)
    assert is_correct(PROMPT, "\n    return [x for x in xs[::-1]]", cases) and cases[0][0] == [[3, 1]]
    for wrong in ("xs", "sorted(xs, reverse=True)", "sorted(xs)[:1]", "xs[::-1] + [1]", "0", "sorted"):
        assert not is_correct(PROMPT, f"\n    return {wrong}\n", cases), wrong
    for answer, expected in (("len(xs) > 0", 1), ("len(xs) - 1", True), ("[x > 1 for x in xs]", [1, 1])):
        assert not is_correct(PROMPT, f"\n    return {answer}", [[[[2, 2]], expected]]), answer


@pytest.mark.parametrize("answer", [
    "", "\n    return", "\n    pass", "\n  return xs", "\n    return xs\nxs = 1", "\n    xs = xs\n    return xs",
    " + ''\n    return xs", "\n    return (", "\n    return \0", "\ndef g(xs):\n    return xs",
    "\n    return xs\ndef f(xs):\n    return xs", "\n    return print(xs) or xs", "\n    return __import__('os').listdir()",
    "\n    return (lambda: xs)()", "\n    return xs.copy()", "\n    return sorted(xs, key=len)", "\n    return max(*xs)",
    "\n    return f'{xs}'", "\n    yield xs", "\n    return 0 if '\\d' else xs", "\n    return xs if 1 is 1 else 0"])
def test_what_is_not_one_return_of_a_known_expression_is_wrong(answer, capsys):
    assert is_correct(PROMPT, "\n    return xs", [[[[1, 2]], [1, 2]]])
    assert not is_correct(PROMPT, answer, [[[[1, 2]], [1, 2]]])
    assert capsys.readouterr() == ("", "")  # nothing was executed, and Python warned of nothing


@pytest.mark.parametrize("bomb", [
    "10**10**10", "xs * 999999999999", "999999999999 * xs", "xs" + " * 9" * 15, "9" * 5000, "-" * 5000 + "1",
    "[x * x for x in " * 30 + "xs" + "]" * 30, "(" * 90 + "xs" + " + xs)" * 90,
    "[sum([sum([z for z in xs * 300]) for y in xs * 300]) for x in xs * 300]"])
def test_an_answer_that_would_take_for_ever_ends_soon_as_wrong(bomb):
    start = time.process_time()
    assert not is_correct(PROMPT, f"\n    return {bomb}", [[[[1, 2, 3]], [1, 2, 3]]])
    assert time.process_time() - start < 1
