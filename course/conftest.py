"""pytest's side of the assignment: the points of the checks, their time limits, and what a submission may not use.

This file is loaded before the checks, and they load a student's modules.
"""
import ast
import builtins
import math
import os
import re
import signal
from pathlib import Path

import pytest
import torch

FILES = ("model.py", "mix.py", "finetune_router.py")
IMPORTS = {"math", "os", "time", "pathlib", "dataclasses", "typing", "functools", "itertools", "collections", "torch",
           "tqdm", "cli", "data", "model", "support"}
REFUSED = re.compile(  # names that reach the checks, or what runs after them
    r"__(?!init__|post_init__|name__|doc__).*|(f|tb|gi|cr|ag)_(back|globals|locals|builtins|code|frame|next)|"
    r"(exec|fork|spawn|posix_spawn|popen)\w*|system|register|finalize|modules|sys|subprocess|threading|multiprocessing|"
    r"importlib|builtins|inspect|gc|atexit|ctypes|signal|unittest|eval|globals|locals|vars|open|[gs]etattr|delattr")
TOOLS = [torch, torch.autograd, torch.Tensor, math, builtins]
WORTH = {}  # the points of each check that runs


def problem_of(folder):
    """Why a submission has no points, as `model.py:339: invalid syntax`; None if nothing is wrong with its files."""
    for name in FILES:
        try:
            text = Path(folder, name).read_text(errors="replace")
            tree = ast.parse(re.sub(r"vars\((args|config)\)", "0", text))  # mix.py came with these
        except (SyntaxError, ValueError) as error:
            return f"{name}:{getattr(error, 'lineno', 0)}: {getattr(error, 'msg', error)}"
        for node in ast.walk(tree):
            word = refused_word(node)
            if word:
                return f"{name}:{node.lineno}: {word!r} is not allowed: see the README on what a file may import"
    word = re.search(r"\boverride\b|SHELL|\beval\b|\bguile\b|\$.file\b", Path(folder, "Makefile").read_text())
    return word and f"Makefile: {word[0]!r} is not allowed"


def refused_word(node):
    """A name in this node of a syntax tree that a submission may not use, or None."""
    if isinstance(node, ast.ImportFrom) and node.level:
        return "from ."
    modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    modules += [node.module] if isinstance(node, ast.ImportFrom) else []
    for module in modules:
        if module.split(".")[0] not in IMPORTS:
            return module
    for _, value in ast.iter_fields(node):
        for word in value if isinstance(value, list) else [value]:
            if isinstance(word, str) and not isinstance(node, ast.Constant) and REFUSED.fullmatch(word):
                return word


def functions():
    """{(namespace, name): function} of what the checks compute with. torch replaces its manual_seed itself."""
    names = [(space, name) for space in TOOLS for name in dir(space) if name != "manual_seed"]
    return {(space, name): getattr(space, name) for space, name in names if callable(getattr(space, name, None))}


BEFORE = functions()


def pytest_configure(config):
    problem = problem_of(Path(__file__).parent.parent)
    if problem:
        pytest.exit(f"{problem}. No check runs until then: 0 of 100 points", returncode=1)


@pytest.fixture(autouse=True)
def measure(request, record_property):
    """Write a check's points into the report, stop it if it hangs, and fail it if its tools were replaced."""
    def stop(signum, frame):
        pytest.fail(f"did not end in {seconds} seconds", pytrace=False)

    record_property("points", request.node.get_closest_marker("points").args[0])
    seconds = int(os.environ.get("CHECK_SECONDS", 60))
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    check_tools()
    yield
    signal.alarm(0)
    check_tools()


def check_tools():
    now = functions()
    if any(now.get(key) != value for key, value in BEFORE.items()):
        pytest.fail("a function that the checks rely on was replaced: this check does not count", pytrace=False)


def pytest_collection_finish(session):
    for item in session.items:
        WORTH[item.nodeid] = item.get_closest_marker("points").args[0]


def pytest_terminal_summary(terminalreporter):
    """Print the points, stage by stage."""
    reports = terminalreporter.stats
    passed = {report.nodeid for report in reports.get("passed", ())} - {r.nodeid for r in reports.get("error", ())}
    stages = {}
    for check, worth in WORTH.items():
        stage, name = re.search(r"test_stage(\d)_(\w+)", check).groups()
        stages.setdefault(stage, []).append(f"{name} {worth * (check in passed)} of {worth}")
    for stage, checks in sorted(stages.items()):
        terminalreporter.write_line(f"stage {stage}: {', '.join(sorted(checks))}")
    total = sum(worth for check, worth in WORTH.items() if check in passed)
    terminalreporter.write_line(f"{total} of {sum(WORTH.values()) or 100} points")
