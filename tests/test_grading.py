"""Answers are graded as Python would, nothing that a model wrote is executed, and no attack that we could think of passes."""
import ast
import random
import time

import pytest

from data import code
from support import grading
from support.grading import MAX_STEPS, right, same, value

PROMPT = 'def f(xs):\n    """Return the list."""'


def random_expression(rng, depth, names=frozenset({"xs"})):
    """An expression of the nodes that are known, right or wrong, deep or flat."""
    def part(names=names):
        return random_expression(rng, depth - 1, names)
    if depth == 0 or rng.random() < 0.15:
        return rng.choice([*sorted(names), "0", "1", "2", "-3", "True", "False", "[]", "[1, 2, 3]"])
    x, y = rng.choice(["x", "xs", "y"]), rng.choice(["y", "z", "xs"])
    return rng.choice([
        lambda: f"sorted({part()})", lambda: f"sorted({part()}, reverse={part()})", lambda: f"sum({part()})",
        lambda: f"len({part()})", lambda: f"{rng.choice(['max', 'min'])}({part()}, default={part()})",
        lambda: f"({part()}){rng.choice(['[::-1]', '[1:]', '[:-2]', '[::2]', '[0]', '[-1:]'])}",
        lambda: f"({part()})[{part()}:{part()}]", lambda: f"[{part()}, {part()}]",
        lambda: f"[{part(names | {x})} for {x} in {part()}]",
        lambda: f"[{part(names | {x})} for {x} in {part()} if {part(names | {x})}]",
        lambda: f"[{part(names | {x, y})} for {x} in {part()} for {y} in {part(names | {x, y})}]",
        lambda: f"[{part(names | {x, y})} for {x} in {part()} for {y} in [0, 1] for {x} in [{part(names | {x, y})}, 2]]",
        lambda: f"({part()} {rng.choice(['+', '-', '*', '//', '%'])} {part()})",
        lambda: f"({part()} {rng.choice(['==', '!=', '<', '<=', '>', '>=', 'in', 'not in'])} {part()})",
        lambda: f"({part()} < {part()} == {part()})", lambda: f"({rng.choice(['-', '+', 'not '])}{part()})",
        lambda: f"({part()} {rng.choice(['and', 'or'])} {part()})", lambda: f"({part()} if {part()} else {part()})"])()


@pytest.mark.parametrize("n", [4_000, pytest.param(100_000, marks=pytest.mark.long)])
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_values_are_pythons(n):
    """In value and type, for the domain's own answers of both levels and for random expressions."""
    rng, computed = random.Random(n), 0
    for i in range(n):
        own = i % 2 == 0
        text = (code.make(rng, rng.choice((1, 2)))[1].answer.removeprefix("\n    return ").strip() if own
                else random_expression(rng, rng.randint(1, 4)))
        xs = [rng.randint(-9, 12) for _ in range(rng.randint(0, 7))]
        try:
            got = value(ast.parse(text, mode="eval").body, {"xs": list(xs)}, [MAX_STEPS])
        except (grading.Wrong, ArithmeticError, LookupError, TypeError, ValueError):
            assert not own, text
            continue
        assert same(got, eval(text, {"xs": list(xs)})), (text, xs)
        computed += 1
    assert computed > 0.6 * n


def test_the_function_that_is_graded_is_the_one_that_the_prompt_opens():
    cases = [[[[3, 1, 2]], [3, 1, 2]], [[[]], []]]
    assert right(PROMPT, "\n    return xs\n", cases) and right("def f(xs):", "\n    return xs[:]", cases)
    for answer in ("\n    return xs\ndef f(xs):\n    return xs", "<|endoftext|>def f(xs):\n    return xs",
                   "\ndef g(xs):\n    return xs", "\n    xs = xs\n    return xs", '\n    "more"\n    return xs',
                   "\n    return", "\n    pass", "", "\n  return xs", " + ''\n    return xs", "\n    return xs\nf = f",
                   "\n    return lambda: xs", "\n    return xs" + " " * 1000):
        assert not right(PROMPT, answer, cases), answer
    for prompt in ("class f:", "", "f(", "if xs:", "def g(xs): return 1\ndef f(xs):", "def f(ys):", "def f(xs, y=0):",
                   "async def f(xs):", "def f(xs):\n    return 0", "def f(xs):\n    xs = []", "def f(xs):\n    yield 1",
                   "@print\ndef f(xs):", "def f(xs):\n    return xs\n\ndef f(xs):", "def f(xs, *sorted):", "def f(xs) -> 1:",
                   "def f(xs=1):", "def sorted(xs):"):
        for answer in ("return xs", "return sorted(xs)", "pass"):
            assert not right(prompt, f"\n    {answer}", [[[[1, 2]], [1, 2]]]), prompt


def test_right_is_equal_in_value_and_type():
    for answer, expected in (("True", 1), ("1", True), ("[True]", [1]), ("[1]", [True]), ("[1, 2]", [1]), ("[]", [1]),
                             ("0", False), ("(1, 2)", [1, 2]), ("1.0", 1), ("'1'", 1), ("None", None), ("xs", [2, 1])):
        assert not right(PROMPT, f"\n    return {answer}\n", [[[[1, 2]], expected]]), answer


def test_a_task_without_cases_is_not_passed():
    assert not right(PROMPT, "\n    return xs", [])
    for forged in ("ab", {"a": 1, "b": 2}, 3):  # no list
        assert not right(PROMPT, "\n    return xs[:]", [[[forged], ["a", "b"]]])


@pytest.mark.parametrize("step", code.LIST_STEPS)
def test_a_reference_is_right_however_large_its_numbers(step):
    for last in code.LAST_STEPS:
        expression = "xs"
        for part in [code.LIST_STEPS[step]] * 5 + [code.LAST_STEPS[last]]:  # the most steps of level 2
            expression = part.format(expression, k=5)
        cases = [[[xs], eval(expression, {"xs": list(xs)})] for xs in code.INPUTS]
        assert right("def f(xs):", f"\n    return {expression}\n", cases)


def test_inputs_are_not_changed():
    cases = [[[[3, 1, 2]], [1, 2, 3]]]
    assert right(PROMPT, "\n    return sorted(xs)", cases) and cases == [[[[3, 1, 2]], [1, 2, 3]]]


# Attacks on graders that run what a model wrote. x is the argument.
REFUSED = {
    "dunder walk": "def f(x): return ().__class__.__base__.__subclasses__()",
    "dunder name": "def f(x): return __builtins__",
    "dunder import": "def f(x): return __import__('os').system('id')",
    "dunder method": "def f(x): return x.__reduce__()",
    "dunder function": "def __getattr__(x): return x\ndef f(x): return x",
    "dunder argument": "def f(__class__): return __class__",
    "dunder keyword": "def f(x): return dict(__class__=1)",
    "own globals": "def f(x): return f.__globals__",
    "own code": "def f(x): f.__code__ = x",
    "fullwidth underscores": "def f(x): return ().\uff3f\uff3fclass\uff3f\uff3f",
    "fullwidth name": "def f(x): return \uff3f\uff3fimport\uff3f\uff3f('os')",
    "wavy underscore": "def f(x): return x.\ufe4f\ufe4fclass__",
    "mathematical letters": "def f(x): return \U0001d41e\U0001d42f\U0001d41a\U0001d425('1')",
    "cyrillic look-alike": "def f(x): return l\u0435n(x)",
    "cyrillic variable": "def f(x):\n \u0435 = 1\n return \u0435",
    "format": "def f(x): return '{0.__class__}'.format(x)",
    "format_map": "def f(x): return '{x.__class__}'.format_map({'x': x})",
    "unbound format": "def f(x): return str.format('{0.__class__}', x)",
    "format as a value": "def f(x): return list(map('{0.__class__}'.format, x))",
    "f-string": "def f(x): return f'{x.__class__}'",
    "format builtin": "def f(x): return format(x, '')",
    "generator frame": "def f(x):\n g = (i for i in x)\n return g.gi_frame.f_back.f_globals",
    "generator code": "def f(x): return (i for i in x).gi_code",
    "yield": "def f(x):\n yield x",
    "yield from": "def f(x):\n yield from x",
    "await": "async def g(x): await x\ndef f(x): return g",
    "async comprehension": "def f(x): return (i async for i in x)",
    "traceback frame": "def f(x):\n try:\n  1 / 0\n except Exception as e:\n  return e.__traceback__.tb_frame",
    "catch everything": "def f(x):\n while True:\n  try:\n   return x\n  finally:\n   continue",
    "import": "import os\ndef f(x): return os.getpid()",
    "import inside": "def f(x):\n import os\n return os.getpid()",
    "import from": "def f(x):\n from os import fork\n return fork()",
    "open": "def f(x): return open('/etc/passwd')",
    "eval": "def f(x): return eval('1')",
    "exec": "def f(x): return exec('1')",
    "compile": "def f(x): return compile('1', '', 'eval')",
    "getattr": "def f(x): return getattr(x, '__cl' + 'ass__')",
    "setattr": "def f(x): return setattr(f, 'a', 1)",
    "type": "def f(x): return type('T', (), {})",
    "vars": "def f(x): return vars()",
    "globals": "def f(x): return globals()",
    "input": "def f(x): return input()",
    "exit": "def f(x): return exit()",
    "breakpoint": "def f(x): return breakpoint()",
    "print": "def f(x): print('1')",
    "fork": "def f(x): return fork()",
    "walrus": "def f(x): return (y := x)",
    "lambda": "def f(x): return (lambda: 1)()",
    "call of a call": "def f(x): return f(x)(x)",
    "call of an item": "def f(x): return [len][0](x)",
    "call of an argument": "def f(x, call): return call(x)",
    "decorator": "def g(x): return x\n@g\ndef f(x): return x",
    "default": "def f(x, y=[]): return y",
    "default that runs": "def f(x, y=sum(range(10**9))): return y",
    "keyword default": "def f(x, *, y=1): return y",
    "annotation": "def f(x: sum(range(10**9))): return x",
    "return annotation": "def f(x) -> sum(range(10**9)): return x",
    "variable annotation": "def f(x):\n y: int = 1\n return y",
    "star arguments": "def f(*x): return x",
    "class": "class A:\n def f(x): return x",
    "lying comparison": "def f(x):\n class A(str):\n  def __eq__(s, o): return True\n return A('a')",
    "global": "def f(x):\n global f\n f = x",
    "nonlocal": "def f(x):\n def g():\n  nonlocal x\n  x = 1\n return g()",
    "with": "def f(x):\n with x: pass",
    "del": "def f(x):\n del x[0]\n return x",
    "raise": "def f(x): raise SystemExit",
    "assert": "def f(x): assert x",
    "match": "def f(x):\n match x:\n  case str(a): return a",
    "attribute assignment": "def f(x): f.cache = x",
    "attribute loop variable": "def f(x):\n for f.y in x: pass",
    "bound method as a value": "def f(x): return x.append",
    "statement at the top": "def f(x): return x\nf(1)",
    "assignment at the top": "len = 1\ndef f(x): return x",
    "bytes": "def f(x): return b''",
    "complex number": "def f(x): return 1j",
    "huge number": "def f(x): return " + "9" * 100,
    "number too long to parse": "def f(x): return " + "9" * 1900,
    "null byte": "def f(x): return '\0'",
    "lone surrogate": "def f(x): return '\ud800'",
    "coding cookie": "# coding: utf-7\ndef f(x): return +AF8AXw-class+AF8AXw-",
    "long source": "def f(x):\n return 1" + " " * 2000,
    "deep brackets": "def f(x): return " + "(" * 980 + ")" * 980,
    "open brackets": "def f(x): return " + "[" * 1900,
    "deep attributes": "def f(x): return x" + ".a" * 950,
    "deep indentation": "".join(" " * i + "if 1:\n" for i in range(55)),
}

CONTAINED = {
    "endless loop": "def f(x):\n while True: pass",
    "endless list iteration": "def f(x):\n for i in x: x.append(i)",
    "endless recursion": "def f(x): return f(x)",
    "mutual recursion": "def g(x): return [f(x)]\ndef f(x): return [g(x)]",
    "exponential recursion": "def g(n): return 1 if n < 2 else g(n - 1) + g(n - 2)\ndef f(x): return g(90)",
    "huge power": "def f(x): return 9 ** 9 ** 9",
    "huge power by steps": "def f(x):\n y = 3\n while True: y = y * y",
    "pow builtin": "def f(x): return pow(7, 10**10)",
    "huge shift": "def f(x): return 1 << 10**10",
    "huge text": "def f(x): return 'a' * 10**10",
    "huge list": "def f(x): return [0] * 10**10",
    "text bomb": "def f(x):\n s = 'a'\n while True: s += s",
    "list bomb": "def f(x):\n while True: x = [x, x] + x",
    "set bomb": "def f(x): return {i for i in range(10**10)}",
    "dict bomb": "def f(x): return {i: str(i) * 1000 for i in range(10**10)}",
    "padding bomb": "def f(x): return '1'.zfill(10**10)",
    "percent bomb": "def f(x): return '%10000000000d' % 1",
    "replace bomb": "def f(x):\n s = 'a' * 10**4\n return s.replace('a', s).replace('a', s)",
    "join bomb": "def f(x): return ('a' * 10**5).join(['b'] * 10**6)",
    "int to text bomb": "def f(x): return str(10 ** 10**6)",
    "text to int bomb": "def f(x): return int('9' * 10**7)",
    "slow builtin": "def f(x): return sum(range(10**10))",
    "slow comprehension": "def f(x): return any(i + j < 0 for i in range(10**5) for j in range(10**5))",
    "slow search": "def f(x): return ('a' * 10**6 + 'b') * 9 in ['a' * 10**6 + 'b'] * 10**6 or list(range(10**9))",
    "same hash": "def f(x): return len({i * (2**61 - 1) for i in range(10**6)})",
    "iterators deeper than the C stack": "def f(x):\n for i in range(5 * 10**5): x = map(str, x)\n return list(x)",
    "lists deeper than the C stack": "def f(x):\n for i in range(10**6): x = [x]\n return str(x) + ''",
    "deep minus": "def f(x): return " + "-" * 1900 + "1",
    "deep not": "def f(x): return " + "not " * 480 + "1",
    "deep subscripts": "def f(x): return x" + "[0]" * 650,
    "deep sum": "def f(x): return 1" + "+1" * 980,
    "self-containing list": "def f(x):\n x.append(x)\n return x",
    "self-containing dict": "def f(x):\n d = {}\n d[0] = d\n return d",
    "sort that mutates": "def f(x):\n def g(i):\n  x.append(i)\n  return i\n x.sort(key=g)\n return x",
    "iterate while shrinking": "def f(x):\n d = {1: 1}\n for k in d: d[k + 1] = d.pop(k)\n return d",
    "redefined len": "def len(x): return 3\ndef f(x): return x",
    "redefined map and all": "def map(a, b, c): return [1]\ndef all(x): return True\ndef f(x): return x",
    "redefined type": "def type(x): return 1\ndef str(x): return 1\ndef f(x): return str",
    "redefined helper of the grader": "def same(a, b): return True\ndef judge(x): return True\ndef f(x): return 1",
    "a function as the answer": "def f(x): return f",
    "a type as the answer": "def f(x): return str",
    "an iterator as the answer": "def f(x): return map(f, range(10**9))",
    "percent with a mapping": "def f(x): return '%(__class__)s' % {'a': 1}",
    "format text without format": "def f(x): return '{0.__class__}' + str('{0.__globals__}')",
    "generic alias": "def f(x): return list[x[0]]",
    "grader's names": "def f(x): return expected",
}

MORE = {  # against a grader that interprets
    "a list that shrinks while it is written (gh-120384)":
        "def f(x):\n x[0:9:2] = (x.clear() or i for i in range(9))\n return x",
    "nested lists": "def f(x): return [[x, x] for x in [[x, x] for x in [[x, x]]]]",
    "a list of lists": "def f(x): return [x, x]",
    "doubling": "def f(x): return " + "(" * 60 + "x" + " * 2)" * 60,
    "doubling by adding": "def f(x): return [z for a in x * 99 for b in x * 99 for c in x * 99 for z in x * 99]",
    "squaring": "def f(x): return " + "[x * x for x in " * 30 + "x" + "]" * 30,
    "a long range by products": "def f(x): return [0] * (10 ** 9)",
    "a huge repeat": "def f(x): return [0] * 999999999999999",
    "a negative repeat": "def f(x): return [0] * -999999999999999",
    "a shadowed function": "def f(x): return [sum(x) for sum in x]",
    "a function as a value": "def f(x): return sorted",
    "a key": "def f(x): return sorted(x, key=len)",
    "starred": "def f(x): return sum(*x)",
    "starred twice": "def f(x): return max(x, **x)",
    "a start": "def f(x): return sum(x, x)",
    "unpacking": "def f(x): return [a for a, b in x]",
    "an attribute as a target": "def f(x): return [1 for x.y in x]",
    "an item as a target": "def f(x): return [1 for x[0] in x]",
    "matrix product": "def f(x): return x @ x",
    "identity": "def f(x): return x is x",
    "many comparisons": "def f(x): return " + " < ".join("x" * 300),
    "an endless default": "def f(x): return max([], default=max([], default=x))[9:9:0]",
    "step of zero": "def f(x): return x[::0]",
    "a keyword twice": "def f(x): return max([31, 41, 59], default=x, default=x) and [31, 41, 59]",
    "a name that Python keeps": "def f(x): return [31 + 10 * __debug__ for __debug__ in x]",
}


def answers_of(source):
    """Two answers that carry the attack: as the body of the function that is opened, and as more text behind a right one."""
    before, _, body = source.partition("def f(x):")
    yield before + body.replace("x", "xs")
    yield f"\n    {body.strip()}".replace("x", "xs")
    yield f"\n    return xs\n{source}"


@pytest.mark.parametrize("name,source", (REFUSED | CONTAINED | MORE).items(), ids=list(REFUSED | CONTAINED | MORE))
def test_no_attack_passes_or_takes_long(name, source):
    """The expected value is one that only an attack on the grader itself could return."""
    begin = time.process_time()
    for answer in answers_of(source):
        assert not right(PROMPT, answer, [[[[3, 1, 2]], [31, 41, 59]]])
    assert time.process_time() - begin < 2


def test_deep_lists_are_no_answer():
    deep = []
    for _ in range(3000):
        deep = [deep]
    assert not right(PROMPT, "\n    return xs", [[[deep], deep]])


DEAD = ("(yield)", "(await xs)", "[x for x in (yield)]", "[1 async for x in xs]", "(sorted := 1)", "(lambda: 1)", "(1, 2)",
        "max(xs, default=1, default=2)", "max(xs, __debug__=1)", "[__debug__ for __debug__ in xs]", "f''")


@pytest.mark.parametrize("dead", DEAD)
@pytest.mark.parametrize("shape", ["{good} if True else {dead}", "{good} or {dead}"])
def test_what_is_not_evaluated_counts_too(dead, shape):
    """Python would not have returned the right value, or not have taken the function at all."""
    prompt, cases = 'def f(xs):\n    """Sort."""\n', [[[[3, 1]], [1, 3]], [[[2]], [2]]]
    assert right(prompt, "    return " + shape.format(good="sorted(xs)", dead="0"), cases)
    assert not right(prompt, "    return " + shape.format(good="sorted(xs)", dead=dead), cases)


def test_nothing_is_compiled_but_a_small_expression():
    """Nested comprehensions crash the compiler of some Pythons, nested `finally` takes it minutes and gigabytes."""
    cases = [[[[3, 1]], [1, 3]]]
    nested = "[" * 11 + "1" + " for x in xs]" * 11
    tower = "\n" + "".join(" " * i + "try:0\n" + " " * i + "finally:\n" for i in range(20)) + " " * 20 + "0"
    start = time.perf_counter()
    assert not right(PROMPT, f"\n    return sorted(xs) or {nested}\n", cases) and not right(PROMPT, tower, cases)
    assert right(PROMPT, f"\n    return sorted(xs) or {nested[1:-12]}\n", cases)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("place", ["def f(xs, y={}):", "def f(xs):\n    y = {}", "def f(xs):\n    y = lambda: {}"])
def test_what_the_prompt_holds_is_not_compiled_either(place):
    """Twenty comprehensions in each other crash some Pythons, wherever they stand."""
    nested = "1"
    for i in range(25):
        nested = f"[{nested} for x{i} in xs]"
    assert not right(place.format(nested), "\n    return 0", [[[[1]], 0]])
