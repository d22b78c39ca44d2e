"""How far you are: run the public checks of one stage, of several, or of all.

    python -m course.check 2

A line for each check: its points if it is right, or else what differs. The grader runs the same checks on other numbers.
"""
import importlib
import json
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch

from course import checks
from support.settings import BadInput, option, parse, run


@dataclass
class Settings:
    stages: list = option([], "stages to check; none: all", positional=True)


def modules():
    """The three files that are written, as attributes of one object."""
    return SimpleNamespace(**{name: importlib.import_module(name) for name in ("model", "mix", "train_expert")})


def where(error):
    """An error in one line: its kind and message, and the last line of the submission's own that it comes from."""
    own = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).stem in ("model", "mix", "train_expert")]
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    message = str(error).partition("\n")[0][:200]
    return f"{type(error).__name__}: {message}{place}" if message else type(error).__name__ + place


def main(argv=None):
    settings = parse(Settings, argv)
    wrong = [word for word in settings.stages if word not in map(str, checks.STAGES)]
    if wrong:
        raise BadInput(f"{wrong[0]!r} is no stage; they are {', '.join(map(str, checks.STAGES))}")
    wanted = json.loads((Path(__file__).parent / "expected.json").read_text())
    lib, total, most = modules(), 0, 0
    for stage in [int(word) for word in settings.stages] or checks.STAGES:
        print(f"stage {stage}: {checks.STAGES[stage]}")
        for check, points in checks.CHECKS[stage]:
            problem = None
            for seed, numbers in wanted[check.__name__].items():
                want = {name: torch.tensor(v, dtype=torch.float64).view(shape) for name, (shape, v) in numbers.items()}
                try:
                    problem = problem or checks.differs(checks.compute(check, lib, int(seed)), want)
                except Exception as error:
                    problem = problem or where(error)
            got = 0 if problem else points
            total, most = total + got, most + points
            print(f"  {got:>2} of {points:>2}  {check.__name__}")
            if problem:
                print(f"      {problem}")
                if "NotImplementedError" not in problem:
                    print(f"      look at: {check.__doc__}")
    print(f"{total} points")
    sys.exit(total < most)


if __name__ == "__main__":
    run(main)
