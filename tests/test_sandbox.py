"""The sandbox accepts right answers, refuses wrong ones and gets through every escape we could think of."""

import functools
import json
import os
import select
import shutil
import subprocess
import sys
import time

import pytest

from support import sandbox

SECRET = "only a right answer gets this string"
HONEST = ("def double(x):\n    return x + x", "double", [([2], 4), (["ab"], "abab"), ([[1]], [1, 1])])


@pytest.fixture(scope="module", autouse=True)
def no_process_is_left():
    """Give all processes started here the end of a pipe: it closes when the last of them has gone."""
    ours, theirs = os.pipe()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", functools.partial(subprocess.Popen, pass_fds=[theirs]))
        yield
    os.close(theirs)
    assert select.select([ours], [], [], 3)[0], "a process outlived the tests"
    os.close(ours)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


RIGHT = {
    "loop": ("def f(n):\n total = 0\n for i in range(n + 1):\n  total += i\n return total", [([4], 10), ([0], 0)]),
    "while": ("def f(n):\n while n % 2 == 0 and n > 0:\n  n //= 2\n return n", [([12], 3)]),
    "recursion": (
        "def f(n):\n return 1 if n < 2 else n * f(n - 1)",
        [([5], 120), ([30], 265252859812191058636308480000000)],
    ),
    "helper": ("def g(c):\n return c in 'aeiou'\ndef f(s):\n return sum(1 for c in s if g(c))", [(["queue"], 4)]),
    "counting": (
        "def f(s):\n d = {}\n for c in s:\n  d[c] = d.get(c, 0) + 1\n return max(d, key=d.get('', ord))",
        [(["abz"], "z")],
    ),
    "swap": ("def f(x):\n x[0], x[-1] = x[-1], x[0]\n return x", [([[1, 2, 3]], [3, 2, 1])]),
    "methods": (
        "def f(s):\n return ' '.join(w.capitalize() for w in s.lower().split())",
        [(["hELLO wORLD"], "Hello World")],
    ),
    "slices": ("def f(s):\n '''Is it a palindrome?'''\n return s == s[::-1]", [(["abba"], True), (["ab"], False)]),
    "sorting": ("def f(x):\n return sorted(x, key=len, reverse=True)", [([["a", "abc", "ab"]], ["abc", "ab", "a"])]),
    "unicode": ("def f(s):\n return s.upper() + 'ß'", [(["ä"], "Äß")]),
    "nothing": ("def f(x):\n pass", [([1], None)]),
    "nested": ("def f(x):\n return [[i] * i for i in x]", [([[0, 2]], [[], [2, 2]])]),
    "dict": ("def f(x):\n return {c: x.count(c) for c in x}", [(["aab"], {"b": 1, "a": 2})]),
    "no cases": ("def f(x):\n return x", []),
}

WRONG = {
    "value": ("def f(x):\n return 2", 1),
    "only sometimes right": ("def f(x):\n return x", 1),
    "True for 1": ("def f(x):\n return True", 1),
    "1 for True": ("def f(x):\n return 1", True),
    "float for int": ("def f(x):\n return 1.0", 1),
    "string for int": ("def f(x):\n return '1'", 1),
    "tuple for list": ("def f(x):\n return (1, 2)", [1, 2]),
    "range for list": ("def f(x):\n return range(2)", [0, 1]),
    "generator for list": ("def f(x):\n return (i for i in range(2))", [0, 1]),
    "True for 1 inside": ("def f(x):\n return [[True]]", [[1]]),
    "True for 1 in a dict": ("def f(x):\n return {'a': True}", {"a": 1}),
    "tuple inside": ("def f(x):\n return [(1,)]", [[1]]),
    "too long": ("def f(x):\n return [1, 2]", [1]),
    "too short": ("def f(x):\n return []", [1]),
    "none": ("def f(x):\n pass", 1),
    "zero division": ("def f(x):\n return 1 // 0", 1),
    "unknown name": ("def f(x):\n return y", 1),
    "wrong arity": ("def f():\n return 1", 1),
    "other name": ("def g(x):\n return 1", 1),
    "a builtin's name": ("def g(x):\n return f", 1),
    "no function": ("", 1),
    "syntax error": ("def f(x) return 1", 1),
    "endless endless list": ("def f(x):\n y = [1]\n y[0] = y\n return y", [[[[1]]]]),
    "not a number": ("def f(x):\n return float('nan')", 1.0),
}

# Wall 1 has to stop these. Most would be harmless behind wall 2, but not one may count on it.
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
    "lying comparison": f"def f(x):\n class A(str):\n  def __eq__(s, o): return True\n return A({SECRET!r})",
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

# These are within the syntax, and wall 2 has to hold.
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
    "lists deeper than the C stack": "def f(x):\n for i in range(10**6): x = [x]\n return str(x) + SECRET",
    "deep minus": "def f(x): return " + "-" * 1900 + "1",
    "deep not": "def f(x): return " + "not " * 480 + "1",
    "deep subscripts": "def f(x): return x" + "[0]" * 650,
    "deep sum": "def f(x): return 1" + "+1" * 980,
    "self-containing list": "def f(x):\n x.append(x)\n return x",
    "self-containing dict": "def f(x):\n d = {}\n d[0] = d\n return d",
    "sort that mutates": "def f(x):\n def g(i):\n  x.append(i)\n  return i\n x.sort(key=g)\n return x",
    "iterate while shrinking": "def f(x):\n d = {1: 1}\n for k in d: d[k + 1] = d.pop(k)\n return d",
    "redefined len": f"def len(x): return {len(SECRET)}\ndef f(x): return x",
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


def job(source, expected=SECRET):
    return source, "f", [([[3, 1, 2]], expected)]


def one_by_one(table):
    return pytest.mark.parametrize(("name", "value"), table.items(), ids=list(table))


@one_by_one(RIGHT)
def test_right_answers_are_accepted(name, value):
    source, cases = value
    assert sandbox.check(source) is None
    assert sandbox.grade([(source, "f", cases)]) == [True]


def test_wrong_answers_are_refused():
    jobs = [(source, "f", [([1], expected), ([2], expected)]) for source, expected in WRONG.values()]
    assert dict(zip(WRONG, sandbox.grade(jobs), strict=True)) == dict.fromkeys(WRONG, False)


@one_by_one(REFUSED)
def test_check_refuses(name, value):
    reason = sandbox.check(value)
    assert reason
    assert reason.isprintable()


def test_grade_refuses_what_check_refuses():
    start = time.monotonic()
    verdicts = sandbox.grade([task for source in REFUSED.values() for task in (job(source), HONEST)], workers=1)
    assert verdicts == [False, True] * len(REFUSED)
    assert time.monotonic() - start < 2 * len(REFUSED)


@one_by_one(CONTAINED)
def test_limits_contain(name, value):
    assert sandbox.check(value) is None
    start = time.monotonic()
    assert sandbox.grade([job(value), HONEST], workers=1) == [False, True]
    assert time.monotonic() - start < 2


def test_an_answer_can_not_prepare_the_next_case():
    cheat = "def f(x, y):\n x.append(1)\n y.append(1)\n return x"
    assert sandbox.grade([(cheat, "f", [([[], []], [1]), ([[], []], [1])])]) == [True]
    same_list = [5]
    jobs = [("def f(x):\n x[0] = 6\n return x", "f", [([same_list], same_list)])]
    assert sandbox.grade(jobs) == [False]
    assert same_list == [5]


# From here on wall 1 is switched off, and this is how an answer would then get at all of os.
WALK = """def f(x):
    for c in ().__class__.__base__.__subclasses__():
        if c.__name__ == "_wrap_close":
            os = c.__init__.__globals__
    """

BEHIND_WALL_1 = {
    "open a file": "os['open']('/', 0); return 'done'",
    "list a folder": "os['listdir']('/'); return 'done'",
    "make a pipe": "os['pipe'](); return 'done'",
    "import": "os['sys'].modules.clear(); os['__builtins__']['__import__']('wave'); return 'done'",
    "read the job": "return 'done' if os['read'](0, 9) else 'nothing there'",
    "flood the output": "while True: os['write'](1, b'1' * 10**6); os['write'](2, b'1' * 10**6)",
    "stop": "os['kill'](os['getpid'](), 19 if os['sys'].platform == 'linux' else 17)",
    "ignore signals": "os['sys'].modules['signal'].signal(14, 1); os['sys'].modules['time'].sleep(60)",
    "fork and stay": "os['fork']()\n    while True: os['sys'].modules['time'].sleep(60)",
    "exit": "os['_exit'](0)",
}


@pytest.fixture
def no_wall_1(monkeypatch):
    monkeypatch.setattr(sandbox, "check", lambda source: None)
    monkeypatch.setattr(sandbox, "WALL_SECONDS", 0.5)


def judge_in_child(source):
    return sandbox.judge_in_child(json.dumps(job(source, "done")).encode())


def test_the_walk_works_without_wall_1(no_wall_1):
    assert judge_in_child(WALK + "return 'done' if os['getpid']() else ''")


@one_by_one(BEHIND_WALL_1)
def test_limits_hold_without_wall_1(name, value, no_wall_1, capfd):
    start = time.monotonic()
    assert not judge_in_child(WALK + value)
    assert time.monotonic() - start < 2
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="these limits do not bind root")
@pytest.mark.parametrize("call", ["os['fork']()", "os['sys'].modules['resource'].setrlimit(7, (9, 9))"])
def test_limits_on_users_hold_without_wall_1(call, no_wall_1):
    assert not judge_in_child(WALK + call + "; return 'done'")


def test_a_dead_worker_is_replaced(monkeypatch):
    ask = sandbox.ask

    def kill_first(worker, text):
        if b"kill" in text:
            worker.kill()
            worker.wait()
        return ask(worker, text)

    monkeypatch.setattr(sandbox, "ask", kill_first)
    jobs = [HONEST, ("def kill(x): return x", "kill", []), HONEST] * 3
    assert sandbox.grade(jobs, workers=2) == [True, False, True] * 3


def test_a_silent_worker_is_replaced(monkeypatch):
    monkeypatch.setattr(sandbox, "WORKER_SECONDS", 0.7)
    assert sandbox.grade([job("def f(x):\n while True: pass"), HONEST], workers=1) == [False, True]


def test_a_machine_without_a_sandbox_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(RuntimeError, match="does not work here"):
        sandbox.grade([HONEST])


def test_cases_must_be_json():
    with pytest.raises(TypeError):
        sandbox.grade([("def f(x): return x", "f", [([{1}], {1})])])


def test_nothing_to_grade():
    assert sandbox.grade([]) == []


def test_a_thousand_honest_answers():
    jobs = [(f"def f(x):\n    return x + {i}", "f", [([1], 1 + i), ([0], i)]) for i in range(1000)]
    start = time.monotonic()
    assert all(sandbox.grade(jobs))
    assert time.monotonic() - start < 15
