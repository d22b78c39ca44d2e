"""How far you are: run the public checks of one stage, of several, or of all.

    python -m course.check 2

Each check has a line with its points. If it is not right, a second line says what differs. The grader runs the same
checks on other numbers.
"""
import sys
import traceback
from pathlib import Path

import torch

from course import checks
from data.common import BadInput, make_parser, run

EXPECTED = Path(__file__).parent / "expected.pt"  # in a handout: {check: {seed: its results}}
WRITTEN = ("model.py", "mix.py", "finetune_router.py")  # students hand these in


def attempt(check, lib, seed):
    """What a check gives for the modules in `lib`; {"error": in one line} if it raises one."""
    try:
        return checks.compute(check, lib, seed)
    except Exception as error:  # whatever students' code may raise
        text = f"{type(error).__name__}: {str(error)[:200]}".partition("\n")[0]
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name in WRITTEN]
        if frames:
            text += f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"
        return {"error": text}


def attempt_stage(stage, seeds):
    """What all checks of a stage give for the files in this folder, {check: {seed: results or error}}."""
    return {check.__name__: {seed: attempt(check, checks.Modules(), seed) for seed in seeds}
            for check, _ in checks.CHECKS[stage]}


def first_problem(found, expected):
    """What is wrong with a check's results, in one line; "" if nothing is. found, expected: {seed: results}."""
    for seed, results in found.items():
        problem = results.get("error") or checks.difference(results, expected[seed])
        if problem:
            return problem
    return ""


def explain(check, problem):
    """A problem and, if something is written already, what to look at."""
    if not problem or "NotImplementedError" in problem:
        return problem
    return f"{problem}\n      look at: {check.__doc__}"


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("stages", nargs="*", type=int, help="stages to check (default: all)")
    args = parser.parse_args(argv)
    for stage in args.stages:
        if stage not in checks.STAGES:
            raise BadInput(f"there is no stage {stage}; choose from 1 to {len(checks.STAGES)}")
    if not EXPECTED.exists():
        raise BadInput(f"{EXPECTED}: no such file; run this in a handout, see python -m course.handout --help")
    expected = torch.load(EXPECTED, weights_only=True)
    total = most = 0
    for stage in args.stages or checks.STAGES:
        print(f"stage {stage}: {checks.STAGES[stage]}")
        found = attempt_stage(stage, checks.PUBLIC_SEEDS)
        for check, points in checks.CHECKS[stage]:
            problem = first_problem(found[check.__name__], expected[check.__name__])
            got = 0 if problem else points
            total += got
            most += points
            print(f"  {got:>2} of {points:>2}  {check.__name__}")
            if problem:
                print(f"      {explain(check, problem)}")
    print(f"{total} points")
    sys.exit(total < most)


if __name__ == "__main__":
    run(main)
