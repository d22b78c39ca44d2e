"""Stage 6: run the checks that a student writes on right and on wrong versions of model.py and mix.py.

A check is a function check_NAME of checks.py. It is given the modules that its parameters name, `model`, `mix` or both,
and fails by raising an error. Each version has a process of its own, which does not know whether the version is right.
"""
import ast
import gc
import importlib
import json
import os
import random
import re
import resource
import select
import signal
import sys
import traceback

import torch

from course import handout
from course.handout import ASSIGNMENT
from course.sandbox import close_to_others, derive_seed, run_code

NAME = "stage6_checks"
SECONDS = 4        # of processor time, for one check of one version
ALL_SECONDS = 120  # of processor time, for all checks of all versions
WAIT = 30          # seconds by the clock, for one check of one version
SIZE = 500         # bytes of a message
ALARM = 2          # points that a check costs if it fails for right code; with 1, checks that fail by chance would gain
FULL = ASSIGNMENT["full share"]  # of the wrong versions, for all points
MODULES = {"model", "mix", "torch", "math", "random", "itertools", "functools", "collections", "copy"}


# ---- inside the sandbox
def judge():
    """Run all checks on all versions, in an order that nobody knows. Write JSON to file descriptor 3: the errors of
    each check, {name: {number of the version: message}}, and the names of those that ended or took too long.

    Standard input has the seed, checks.py, its checks, {name: parameters}, the right files, and the versions (see
    handout.versions). Returns only in a new process, the arguments of `run_checks`.
    """
    seed, text, checks, right, versions = json.load(sys.stdin)
    close_to_others()
    importlib.import_module("mix")  # with all that it imports; then the blanks are filled
    for file, content in right.items():
        exec(compile(content, file, "exec"), vars(sys.modules[file[:-3]]))  # noqa: S102, the reference
    torch.optim.SGD([torch.zeros(1)])  # imports 800 modules that a model on `meta` needs: here, not in each process
    gc.freeze()  # or each process would copy what the collector touches
    seeds = {name: derive_seed(seed, name) for name in checks}
    errors, stopped = {name: {} for name in checks}, []
    order = [*range(len(versions))]
    random.Random(seed).shuffle(order)
    for i in order:
        file, place, function, _ = versions[i]
        left = [name for name, parameters in checks.items() if file[:-3] in parameters and name not in stopped]
        while left and sum(os.times()[:4]) < ALL_SECONDS:  # of this process and of all that it started
            receiver, sender = os.pipe()
            pid = os.fork()
            if pid == 0:
                return file, place, function, text, [(name, checks[name], seeds[name]) for name in left], sender
            os.close(sender)
            message = "passed"
            while left and message:
                name = left.pop(0)
                is_ready, _, _ = select.select([receiver], [], [], WAIT)
                message = os.read(receiver, SIZE).decode(errors="replace").rstrip() if is_ready else ""
                if not message:
                    stopped.append(name)
                elif message != "passed":
                    errors[name][i] = message
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(receiver)
    os.write(3, json.dumps([errors, stopped]).encode())
    os._exit(0)


def run_checks(file, place, function, text, checks, sender):
    """In a new process: put a function's text in its place, such as MoE.forward, and run checks. Send "passed" or an
    error for each of them to the pipe `sender`."""
    os.close(3)
    for limit in (resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE):  # it leaves nothing behind
        resource.setrlimit(limit, (0, 0))
    gc.disable()
    owner, made = sys.modules[file[:-3]], {}
    exec(compile(function, file, "exec"), vars(owner), made)  # noqa: S102, one of our versions
    *classes, last = place.split(".")
    for name in classes:
        owner = getattr(owner, name)
    setattr(owner, last, made[last])
    modules = {name: sys.modules[name] for name in ("model", "mix")}
    contents = {name: dict(vars(module)) for name, module in modules.items()}
    for name, parameters, seed in checks:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # ends this process
        torch.manual_seed(seed)
        random.seed(seed)
        message = "passed"
        try:
            student = {"__name__": "checks"}
            exec(compile(text, "checks.py", "exec"), student)  # noqa: S102, in the sandbox
            student[name](*[modules[parameter] for parameter in parameters])
        except BaseException as error:
            frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "checks.py"]
            message = f"line {frames[-1].lineno if frames else 0}, {type(error).__name__}: {error}"
        for module, content in contents.items():  # a check may have replaced a function
            vars(modules[module]).clear()
            vars(modules[module]).update(content)
        os.write(sender, message.encode()[:SIZE].ljust(SIZE))
    os._exit(0)


# ---- outside: a student's file
def read_checks(text):
    """The checks of a file, {name: names of parameters}. Raises ValueError if it uses what a check may not use."""
    tree = ast.parse(text)
    words, modules = set(), set()  # an attribute is a word that begins with a dot
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            words.add(node.id)
        elif isinstance(node, ast.Attribute):
            words.add(f".{node.attr}")
        elif isinstance(node, ast.MatchClass):
            words |= {f".{name}" for name in node.kwd_attrs}
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [getattr(node, "module", None), *(alias.name for alias in node.names)]
            parts = [part for name in names if name for part in name.split(".")]
            modules.add(parts[0])
            words |= {f".{part}" for part in parts}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            words.add(node.name)
    refused = sorted(modules - MODULES) + sorted(word for word in words if re.fullmatch(ASSIGNMENT["refused"], word))
    if refused:
        raise ValueError(f"a check may not use {', '.join(refused)}")
    checks = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("check_"):
            checks[node.name] = [argument.arg for argument in node.args.args]
            if not checks[node.name] or not {*checks[node.name]} <= {"model", "mix"}:
                raise ValueError(f"{node.name}: its parameters are model, mix or both")
    return checks


def choose(versions, seed):
    """The right texts, 12 right versions, and two thirds of the wrong ones, chosen by the seed."""
    right, *versions = versions
    chance = random.Random(seed)
    honest, wrong = [[version for version in versions if bool(version[-1]) == is_wrong] for is_wrong in (False, True)]
    return [right, *chance.sample(honest, 12), *chance.sample(wrong, 2 * len(wrong) // 3)]


def find_copies(content):
    """Marks for the functions of checks.py that equal one of the reference."""
    try:
        functions = handout.find_functions(ast.parse(content))
    except Exception:  # the sheet says that the file cannot be read
        return []
    digests = json.loads(handout.files()["course/digests.json"]).values()
    return [f"{name} of checks.py equals the reference" for name, node in functions.items()
            if isinstance(node, ast.FunctionDef) and handout.digest_body(node) in digests]


def grade(content, points, versions, seed, isolated):
    """Grade checks.py, in bytes, by the share of the wrong versions that it finds. Returns a test as in NAME.json."""
    test = {"name": NAME, "score": 0, "max_score": points, "output": "not written yet"}
    if not content:
        return test
    try:
        checks = read_checks(content)
    except Exception as error:
        return test | {"output": f"checks.py: {error}"}
    right, *versions = versions
    given = json.dumps([seed, content.decode(errors="replace"), checks, right, versions]).encode()
    code = "from course.mutants import judge, run_checks; run_checks(*judge())"
    said = run_code(code, handout.files(), given, isolated, 4 * ALL_SECONDS)
    if not said:
        return test | {"output": "the process of the checks was ended"}
    errors, stopped = json.loads(said[0])
    wrong = {str(i): fault for i, (*_, fault) in enumerate(versions) if fault}
    found, score, lines = set(), 0, []
    for name in checks:
        alarms = [message for i, message in errors[name].items() if i not in wrong]
        if name in stopped:
            lines.append(f"{name} takes more than {SECONDS} seconds or ends its process, so it counts nothing")
        elif alarms:
            score -= ALARM
            lines.append(f"{name} fails for right code, which costs {ALARM} points: {alarms[0]}")
        else:
            lines.append(f"{name} finds {len(errors[name])}, {len(errors[name].keys() - found)} of them as the first")
            found |= errors[name].keys()
    lines.insert(0, f"{len(found)} of {len(wrong)} wrong versions are found; {FULL:.0%} give all points")
    missed = [fault for i, fault in wrong.items() if i not in found]
    if missed:
        lines.append(f"one that is not found breaks {random.Random(seed).choice(missed)}")
    score += int(points * min(1, len(found) / len(wrong) / FULL))
    return test | {"score": max(0, score), "output": "\n  ".join(lines)}
