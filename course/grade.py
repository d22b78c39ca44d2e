"""Grade submissions: their model.py, mix.py and finetune_router.py, by the checks of checks.py on new numbers.

    python -m course.grade out/submissions/ada out/submissions/ben --out out/grades
    python -m course.grade --autograder out/autograder.zip      # for Gradescope

A submission computes in a process of its own, with a time limit; the results are compared here with the reference's.
Writes grades.csv, and for each submission NAME.json in Gradescope's format. Submissions run as you do: grade strangers'
code in a container.
"""
import csv
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from course import checks, handout, mistakes
from course.check import WRITTEN, attempt, explain, first_problem
from data.common import BadInput, make_parser, positive_int, replacing, run


class Result(NamedTuple):
    """One check of one submission."""
    stage: int
    check: Callable
    most: int  # points
    problem: str  # what is wrong, "" if nothing is

    @property
    def points(self):
        return 0 if self.problem else self.most


def run_checks(folder, seed, seconds):
    """What the files in `folder` give, {stage: {check: {seed: results or error}}}, without stages that do not end."""
    results, todo = {}, list(checks.CHECKS)
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    while todo:
        words = [sys.executable, "-m", "course.run", str(seed), *map(str, todo)]
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(words, cwd=folder, env=one_thread, timeout=seconds, capture_output=True)
        done = [stage for stage in todo if Path(folder, f"{stage}.pt").exists()]
        results |= {stage: torch.load(Path(folder, f"{stage}.pt"), weights_only=True) for stage in done}
        todo = todo[len(done) + 1:]  # without the stage at which the process ended
    return results


@cache
def reference(check, seed, mistake=None):
    """What the reference gives, or what it gives with a mistake in it."""
    lib = mistakes.variant(mistake) if mistake else checks.Modules()
    return attempt(check, lib, seed)


def judge(stage, check, found):
    """What is wrong with a check's results, {seed: results or error}, in one line; "" if they are right.

    If the reference with a known mistake in it gives just these results, the line ends with the hint for that mistake.
    """
    problem = first_problem(found, {seed: reference(check, seed) for seed in found})
    if problem and not any("error" in results for results in found.values()):
        for mistake in mistakes.MISTAKES:
            if mistake.stage == stage:
                known = {seed: reference(check, seed, mistake) for seed in found}
                if not first_problem(found, known):
                    return f"{problem}; {mistake.hint}"
    return problem


def grade(submission, content, seed, seconds):
    """All checks of one submission, a list of Result. content: the handout's files, {name: bytes}."""
    written = [name for name in WRITTEN if Path(submission, name).is_file()]
    found, nothing = {}, f"the process ended early, or not in {seconds} seconds"
    if written:
        with tempfile.TemporaryDirectory(prefix="grade_") as folder:
            handout.write(folder, content)
            for name in written:
                shutil.copy(Path(submission, name), folder)
            found = run_checks(folder, seed, seconds)
    else:
        nothing = f"{submission} holds none of {', '.join(WRITTEN)}; are they in a folder below it?"
        print(f"grade.py: {nothing}", file=sys.stderr)
    results = []
    for stage, stage_checks in checks.CHECKS.items():
        for check, most in stage_checks:
            problem = nothing
            if stage in found:
                problem = judge(stage, check, found[stage][check.__name__])
            results.append(Result(stage, check, most, problem))
    return results


def points_by_stage(results):
    """{stage: points}."""
    return {stage: sum(r.points for r in results if r.stage == stage) for stage in checks.CHECKS}


def table(results):
    """A submission's points by stage, and a line for each problem."""
    lines = []
    for stage, points in points_by_stage(results).items():
        of_stage = [r for r in results if r.stage == stage]
        lines.append(f"stage {stage}: {points:>3} of {sum(r.most for r in of_stage):>3}  {checks.STAGES[stage]}")
        lines += [f"    {r.check.__name__} ({r.most}): {explain(r.check, r.problem)}" for r in of_stage if r.problem]
    lines.append(f"total:   {sum(r.points for r in results):>3} of {sum(r.most for r in results):>3}")
    return "\n".join(lines)


def gradescope(results, seed):
    """The content of the results.json that Gradescope reads."""
    tests = [{"name": f"stage {r.stage}: {r.check.__name__}", "score": r.points, "max_score": r.most,
              "visibility": "visible", "output": explain(r.check, r.problem) or "right"} for r in results]
    output = f"{table(results)}\n(graded with --seed {seed})"
    return json.dumps({"score": sum(r.points for r in results), "output": output, "tests": tests}, indent=1)


SETUP = """#!/usr/bin/env bash
# Gradescope runs this once, when it builds the image.
set -e
apt-get update -qq && apt-get install -y -qq python3 python3-venv
python3 -m venv /autograder/venv
/autograder/venv/bin/pip install -q torch --index-url https://download.pytorch.org/whl/cpu
/autograder/venv/bin/pip install -q -r /autograder/source/requirements.txt
"""
RUN = """#!/usr/bin/env bash
# Gradescope runs this for each submission.
cd /autograder/source
/autograder/venv/bin/python -m course.grade /autograder/submission --out /autograder/results
mv /autograder/results/submission.json /autograder/results/results.json
"""


def write_autograder(path):
    """Gradescope's zip: its two scripts, and what grading needs of this repository."""
    content = handout.originals((*handout.KEPT, "course/*.py", "course/*.md", "results/table6.html"))
    content |= {"setup.sh": SETUP.encode(), "run_autograder": RUN.encode()}
    handout.pack(path, content, executable=("setup.sh", "run_autograder"))
    print(f"wrote {path}")


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("submissions", nargs="*", help="folders, each with the files that a student wrote")
    parser.add_argument("--out", default="out/grades",
                        help="folder for NAME.json, and for grades.csv of these submissions (default: %(default)s)")
    parser.add_argument("--seconds", type=positive_int, default=60, help="time for all checks (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of the numbers; the output names it (default: a new one each time)")
    parser.add_argument("--autograder", metavar="ZIP", help="write Gradescope's zip to this file instead")
    args = parser.parse_args(argv)
    if args.autograder:
        if args.submissions or Path(args.autograder).suffix != ".zip":
            raise BadInput(f"--autograder {args.autograder}: name a zip to write, and no submissions")
        return write_autograder(args.autograder)
    if not args.submissions:
        raise BadInput("name the folders to grade, as in: python -m course.grade out/submissions/* --out out/grades")
    for folder in args.submissions:
        if not Path(folder).is_dir():
            raise BadInput(f"{folder}: no such folder")
    names = [Path(folder).resolve().name for folder in args.submissions]
    if len(set(names)) < len(names):
        raise BadInput("two submissions have one name; rename one of the folders")
    seed = secrets.randbelow(2**31) if args.seed is None else args.seed
    print(f"grading with --seed {seed}")

    grade_one = partial(grade, content=handout.files(), seed=seed, seconds=args.seconds)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        graded = list(tqdm(pool.map(grade_one, args.submissions), total=len(names), desc="grade"))
    with replacing(Path(args.out, "grades.csv")) as part, part.open("w", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(["submission", *(f"stage {stage}" for stage in checks.CHECKS), "total"])
        for name, results in zip(names, graded, strict=True):
            points = points_by_stage(results)
            sheet.writerow([name, *points.values(), sum(points.values())])
            Path(args.out, f"{name}.json").write_text(gradescope(results, seed))
    print(table(graded[0]) if len(graded) == 1 else Path(args.out, "grades.csv").read_text())
    print(f"wrote {args.out}/grades.csv and NAME.json for each of {len(graded)}")


if __name__ == "__main__":
    run(main)
