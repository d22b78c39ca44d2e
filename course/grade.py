"""Grade submissions by the checks of the assignment, on new numbers.

    python -m course.grade out/submissions/ada out/submissions/ben --out out/grades      # or: make grade
    python -m course.grade --autograder out/autograder.zip                               # for Gradescope

A submission is a folder with model.py, mix.py, finetune_router.py and Makefile. They may lie in a subfolder. Each is
put into a fresh handout, where pytest runs with time limits. Writes grades.csv, with a row for each submission ever
graded there, and NAME.json in Gradescope's format. Submitted code runs with your rights, so grade strangers' code in a
container: docker run --rm -v "$PWD":/w -w /w --network none IMAGE python -m course.grade out/submissions/*
"""
import csv
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from cli import BadInput, make_parser, positive_int, replacing, run
from course import handout

STAGES = range(1, 7)


def find_files(submission):
    """The files that students write, of two with one name the one nearer to the top. Raises BadInput without one."""
    found = []
    for name in handout.WRITTEN:
        paths = sorted(Path(submission).rglob(name), key=lambda path: (len(path.parts), str(path)))
        if not paths:
            raise BadInput(f"{submission} has no {name}")
        found.append(paths[0])
    return found


def run_checks(folder, seed, seconds):
    """What pytest says of the checks in a folder: [(check, points, most, message)]."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml", "checks.xml",
               "course/test_stages.py"]
    settings = {"CHECK_SEED": str(seed), "CHECK_SECONDS": str(seconds), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, cwd=folder, env=os.environ | settings, timeout=20 * seconds, capture_output=True,
                              text=True)
        problem = done.stdout
    except subprocess.TimeoutExpired:
        problem = f"the checks did not end in {20 * seconds} seconds"
    report = Path(folder, "checks.xml")
    cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    results = []
    for case in cases:
        properties = {p.get("name"): p.get("value") for p in case.iter("property")}
        if "points" not in properties:  # no check: pytest could not read the file
            continue
        most = int(properties["points"])
        failures = [*case.iter("failure"), *case.iter("error")]
        message = failures[0].get("message") if failures else "right"
        results.append((case.get("name"), 0 if failures else most, most, message))
    return results or [("all checks", 0, 100, problem)]  # pytest could not begin, as with a SyntaxError


def grade(submission, seed, seconds):
    """All checks of one submission: [(check, points, most, message)]."""
    with tempfile.TemporaryDirectory(prefix="grade_") as folder:
        handout.write(folder, handout.files())
        for path in find_files(submission):
            shutil.copy(path, folder)
        return run_checks(folder, seed, seconds)


def write_results(out, name, results, seed):
    """Write NAME.json, and this submission's row of grades.csv; the other rows stay. Returns the points."""
    total = sum(got for _, got, _, _ in results)
    tests = [{"name": check, "score": got, "max_score": most, "output": text} for check, got, most, text in results]
    content = {"score": total, "output": f"graded with --seed {seed}", "tests": tests}
    Path(out).mkdir(parents=True, exist_ok=True)
    Path(out, f"{name}.json").write_text(json.dumps(content, indent=1))
    sheet = Path(out, "grades.csv")
    rows = {}
    if sheet.exists():
        rows = {row[0]: row for row in csv.reader(sheet.read_text().splitlines()[1:])}
    by_stage = [sum(got for check, got, _, _ in results if check.startswith(f"test_stage{stage}")) for stage in STAGES]
    rows[name] = [name, *by_stage, total, seed]
    header = ["submission", *(f"stage {stage}" for stage in STAGES), "total", "seed"]
    with replacing(sheet) as part, part.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows.values()])
    return total


def write_autograder(path):
    """Gradescope's zip: the two scripts of course/gradescope, and what grading needs of this repository."""
    with tempfile.TemporaryDirectory() as folder:
        handout.write(folder, handout.read((*handout.KEPT, "data/start/*.pt", "course/*.py")))
        shutil.copytree(handout.ROOT / "course" / "gradescope", folder, dirs_exist_ok=True)
        print(f"wrote {shutil.make_archive(str(Path(path).with_suffix('')), 'zip', folder)}")


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("submissions", nargs="*", type=Path, help="folders, each with the files that a student wrote")
    parser.add_argument("--out", default="out/grades", help="folder for the results (default: %(default)s)")
    parser.add_argument("--seconds", type=positive_int, default=60, help="time for each check (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of the random numbers, written into the sheet (default: new)")
    parser.add_argument("--autograder", metavar="ZIP", help="write Gradescope's zip to this file instead")
    args = parser.parse_args(argv)
    if args.autograder:
        return write_autograder(args.autograder)
    seed = secrets.randbelow(10**6) if args.seed is None else args.seed
    for submission in args.submissions:
        try:
            results = grade(submission, seed, args.seconds)
        except BadInput as error:
            results = [("all checks", 0, 100, str(error))]
        name = submission.resolve().name
        print(f"{name}: {write_results(args.out, name, results, seed)} points")
    print(f"wrote {args.out}/grades.csv and NAME.json for each, graded with --seed {seed}")


if __name__ == "__main__":
    run(main)
