"""Grade small Python functions written by a language model, as if every one of them were hostile.

Two walls stand between an answer and this machine:

1. check() reads the answer without running it and refuses whatever is not on a short list. What is left can't import,
   look up an attribute, catch an error or call a builtin that reaches outside.
2. A process of its own, killed after 1 s of CPU or 1.5 s by the clock, runs check() and then the answer. It can't open
   a file or a socket, start a process or (on Linux) use more than 256 MiB of memory.

What this does not protect from:
- macOS has no working limit on memory: an answer may fill it until its second of CPU is over.
- Wall 2 alone is no container. If code got past wall 1, through a bug there or in Python, it could still delete or
  rename files, send signals and forge its verdict, and root may start processes in spite of the limit. So don't work
  as root, and for anything bigger than a lesson put all of this into a container or a virtual machine.
- A machine too busy to run an honest answer in time counts it as wrong.
- Sets of strings have another order in each worker: an answer that depends on it passes by luck.

Needs Linux or macOS and Python 3.10 or later, and nothing to install.
"""

import ast
import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

MAX_SOURCE = 2_000  # characters
MAX_INT = 10**10  # as written in the source; a result may be larger
WALL_SECONDS = 1.5
WORKER_SECONDS = 20  # generous, because a first start from a slow disk takes seconds
LIMITS = {"CPU": 1, "AS": 256 * 2**20, "NOFILE": 0, "NPROC": 0, "FSIZE": 0, "CORE": 0}  # seconds, bytes, counts

SYNTAX = """Module FunctionDef arguments arg Return Pass Break Continue If For While Expr Assign AugAssign
    Name Load Store Constant List Tuple Set Dict Subscript Slice Starred Attribute Call keyword IfExp
    ListComp SetComp DictComp GeneratorExp comprehension BoolOp And Or UnaryOp Not USub UAdd Invert
    BinOp Add Sub Mult Div FloorDiv Mod Pow LShift RShift BitAnd BitOr BitXor
    Compare Eq NotEq Lt LtE Gt GtE Is IsNot In NotIn"""
EXTRAS = "decorator_list returns annotation posonlyargs vararg kwonlyargs kwarg defaults is_async"
# Never format or format_map: "{0.__class__}".format(x) looks up attributes.
METHODS = """append extend insert pop remove clear index count sort reverse copy add discard union update
    keys values items get setdefault join split replace find rfind strip lstrip rstrip startswith endswith
    upper lower title capitalize swapcase isupper islower isdigit isalpha isalnum isspace zfill ljust rjust"""
BUILTINS = {
    builtin.__name__: builtin
    for builtin in (abs, all, any, bool, chr, dict, divmod, enumerate, filter, float, int, isinstance, len, list, map)
    + (max, min, ord, pow, range, reversed, round, set, sorted, str, sum, tuple, zip)
}


def check(source: str) -> str | None:
    """None if `source` is plain function definitions in the syntax listed above, else in one line why it isn't.

    Runs and raises nothing. But it parses, and text that crashes Python's parser would take this process with it.
    """
    if len(source) > MAX_SOURCE:
        return f"longer than {MAX_SOURCE} characters"
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"does not parse: {type(error).__name__}"
    nodes = list(ast.walk(tree))
    functions = {*BUILTINS, *(node.name for node in nodes if isinstance(node, ast.FunctionDef))}
    methods = {node.func for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}
    if {type(statement) for statement in tree.body} != {ast.FunctionDef}:
        return "something other than functions at the top level"
    for node in nodes:
        if type(node).__name__ not in SYNTAX.split():
            return f"{type(node).__name__} is not allowed"
        for extra in EXTRAS.split():
            if getattr(node, extra, None):
                return f"{extra} is not allowed"
        # The parser has already made plain letters of their look-alikes: a fullwidth "_" arrives here as "_".
        for name in (getattr(node, field, None) or "" for field in ("id", "arg", "name", "attr")):
            if name.startswith("_") or not name.isascii():
                return f"the name {name!a} is not allowed"
        if isinstance(node, ast.Attribute) and (node not in methods or node.attr not in METHODS.split()):
            return f"the attribute {node.attr} is not allowed"
        if isinstance(node, ast.Call) and node.func not in methods and getattr(node.func, "id", "") not in functions:
            return "calls something other than the listed builtins and methods and its own functions"
        if isinstance(node, ast.Constant) and not isinstance(node.value, int | float | str | None):
            return f"{type(node.value).__name__} constants are not allowed"
        if isinstance(node, ast.Constant) and isinstance(node.value, int) and node.value > MAX_INT:
            return f"a number above {MAX_INT}"
    return None


def same(got, expected) -> bool:
    """Equal in value and type, all the way down. Goes only as deep as `expected`, however deep `got` may be."""
    if type(got) is not type(expected):
        return False
    if isinstance(got, list):
        return len(got) == len(expected) and all(map(same, got, expected))
    if isinstance(got, dict):
        return got.keys() == expected.keys() and all(same(got[key], expected[key]) for key in expected)
    return got == expected


def judge(job: bytes) -> bool:
    """Whether the answer in a job (as JSON) is right. It runs here, so call this only after limit_this_process()."""
    source, name, cases = json.loads(job)
    if check(source):
        return False
    scope = {"__builtins__": BUILTINS}
    exec(compile(source, "answer", "exec"), scope)  # noqa: S102
    function = scope[name]
    return all(same(function(*args), expected) for args, expected in cases)


def limit_this_process() -> None:
    """Give up for good all that an answer doesn't need. Raises OSError or ValueError where the system refuses."""
    os.setsid()
    signal.alarm(2)  # in case the worker that keeps the time is gone by then
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)
    for name, most in LIMITS.items():
        if name != "AS" or sys.platform != "darwin":
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))


def judge_in_child(job: bytes) -> bool:
    """judge() in a process of its own; False as well if that crashes or is out of time."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(ours)
            limit_this_process()
            os.write(theirs, b"1" if judge(job) else b"0")
        finally:
            os._exit(0)
    os.close(theirs)
    ready, _, _ = select.select([ours], [], [], WALL_SECONDS)
    verdict = os.read(ours, 1) if ready else b""
    os.close(ours)
    os.kill(child, signal.SIGKILL)
    with contextlib.suppress(OSError):  # the child may have died before it had a group
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return verdict == b"1"


def ask(worker: subprocess.Popen, job: bytes) -> bytes:
    """The worker's verdict on a job, b"1" or b"0", or b"" if it died or had to be killed."""
    timer = threading.Timer(WORKER_SECONDS, worker.kill)
    timer.start()
    try:
        worker.stdin.write(job + b"\n")
        worker.stdin.flush()
        return worker.stdout.read(1)
    except OSError:
        return b""
    finally:
        timer.cancel()


def start_worker() -> subprocess.Popen:
    """A worker that has just proved itself on an honest answer. Raises RuntimeError if this machine can't run one."""
    command = [sys.executable, "-I", "-S", "-W", "ignore", __file__, "--worker"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    worker = subprocess.Popen(command, cwd="/", env={}, start_new_session=True, **pipes)
    if ask(worker, b'["def f(x): return x", "f", [[[1], 1]]]') != b"1":
        stop_worker(worker)
        raise RuntimeError(f"the sandbox does not work here; to see why, run: {' '.join(command)}")
    return worker


def stop_worker(worker: subprocess.Popen) -> None:
    worker.kill()
    worker.communicate()


def grade(jobs: list[tuple[str, str, list]], workers: int | None = None) -> list[bool]:
    """For each job (source, name, cases): does `source` pass check(), define `name` and get every case right?

    A case is (args, expected) in plain JSON values; right means equal in value and type. Nothing an answer does raises
    here. What does: TypeError for cases that are not JSON, RuntimeError or OSError if no worker can be started.
    """
    texts = [json.dumps(job).encode() for job in jobs]
    idle = []

    def verdict(text):
        worker = idle.pop()
        try:
            answer = ask(worker, text)
            if not answer:
                stop_worker(worker)
                worker = start_worker()
            return answer == b"1"
        finally:
            idle.append(worker)

    try:
        for _ in range(min(len(jobs), workers or min(4, os.cpu_count() or 1))):
            idle.append(start_worker())
        with ThreadPoolExecutor(len(idle) or 1) as pool:  # as many threads as workers, so `idle` never runs out
            return list(pool.map(verdict, texts))
    finally:
        for worker in idle:
            stop_worker(worker)


if __name__ == "__main__" and sys.argv[1:] == ["--worker"]:
    for line in sys.stdin.buffer:
        os.write(1, b"1" if judge_in_child(line) else b"0")
