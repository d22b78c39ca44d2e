"""pytest's side of the assignment: the points of the checks, their time limits, and a watch on what they rely on.

This file is loaded before the checks, and they load a student's modules.
"""
import builtins
import math
import os
import re
import signal
from pathlib import Path

import pytest
import torch

REACHES = r"\b(test_stages|conftest|pytest|unittest|importlib|__import__|exec|_getframe|sys\.modules|gc)\b"
ROOT = Path(__file__).parent.parent
TOOLS = [torch, torch.testing, torch.testing._comparison, torch.autograd, torch.Tensor, pytest, math, builtins, signal]


def functions_of(namespaces):
    """{(namespace, name): function}, to see later whether one was replaced. torch replaces its manual_seed itself."""
    names = [(space, name) for space in namespaces for name in dir(space) if name != "manual_seed"]
    return {(space, name): getattr(space, name) for space, name in names if callable(getattr(space, name, None))}


BEFORE = functions_of(TOOLS)
CHECKS = {}  # the functions of the checks' own module, at the first check


@pytest.fixture(autouse=True)
def measure(request, record_property):
    """Write a check's points into the report, stop it if it hangs, and fail it if a submission reaches for the checks.

    So a submission that imports from the checks or patches them has no points, as a bare handout.
    """
    def stop(signum, frame):
        pytest.fail(f"did not end in {seconds} seconds", pytrace=False)

    record_property("points", request.node.get_closest_marker("points").args[0])
    refuse_tricks(request.module)
    seconds = int(os.environ.get("CHECK_SECONDS", 60))
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    refuse_tricks(request.module)


def refuse_tricks(checks):
    """Fail if a file of the student names the tools of the checks, or if one of these tools was replaced."""
    for name in ("model.py", "mix.py", "finetune_router.py"):
        word = re.search(REACHES, (ROOT / name).read_text(errors="replace"))
        if word:
            pytest.fail(f"{name} has the word {word[0]!r}: your code may not use the checks or load modules by name. "
                        "No check counts until it is gone, even from comments", pytrace=False)
    now = functions_of(TOOLS)
    ours = {name: value for name, value in vars(checks).items() if getattr(value, "__module__", "") == checks.__name__}
    CHECKS.setdefault("functions", ours)
    if ours != CHECKS["functions"] or any(now.get(key) != value for key, value in BEFORE.items()):
        raise RuntimeError("a function that the checks rely on was replaced: this check does not count")


def pytest_terminal_summary(terminalreporter):
    """Print the points, stage by stage."""
    stages, total, most = {}, 0, 0
    failed = {report.nodeid for key in ("failed", "error") for report in terminalreporter.stats.get(key, [])}
    reports = [r for key in ("passed", "failed") for r in terminalreporter.stats.get(key, []) if r.when == "call"]
    for report in reports:
        stage, name = re.search(r"test_stage(\d)_(\w+)", report.nodeid).groups()
        worth = dict(report.user_properties)["points"]
        points = 0 if report.nodeid in failed else worth
        total, most = total + points, most + worth
        stages.setdefault(stage, []).append(f"{name} {points} of {worth}")
    for stage, checks in sorted(stages.items()):
        terminalreporter.write_line(f"stage {stage}: {', '.join(sorted(checks))}")
    terminalreporter.write_line(f"{total} of {most} points")
