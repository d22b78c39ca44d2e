"""Grade submissions by the checks of the assignment, on other random numbers than the students have.

    python -m course.grade out/submissions/ada out/submissions/ben --out out/grades      # or: make grade
    python -m course.grade --autograder out/autograder.zip                               # for Gradescope

A submission is a folder with model.py, mix.py, finetune_router.py and Makefile, or with a zip of them. They are put
into a fresh handout, where pytest runs with time limits. Writes grades.csv, with a row for each submission ever graded
there; NAME.json in Gradescope's format; and class.md, what the class can do and which messages it got.
Submitted code runs with your rights, so grade strangers' code in a container:
docker run --rm -v "$PWD":/w -w /w --network none IMAGE python -m course.grade out/submissions/*
"""
import csv
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
import zipfile
from collections import Counter
from pathlib import Path

from cli import BadInput, make_parser, positive_int, replacing, run
from course import handout
from course.conftest import problem_of
from support.report import markdown

STAGES = [f"stage {stage}" for stage in range(1, 7)]
RUBRIC = ["predict 10", "run 10", "draw 7", "explain 12", "limit 6", "class row 5"]  # you fill in these columns
COLUMNS = ["submission", *STAGES, "code 100", *RUBRIC, "grade", "seed"]


def copy_files(submission, folder, names):
    """Copy what a student wrote into a handout; of two files with one name the one nearer to the top.

    Looks into zips for what is missing. Returns what is still missing: there the handout's file stays, and it fails.
    """
    missing = []
    for name in names:
        paths = [path for path in Path(submission).rglob(name) if "__MACOSX" not in path.parts]
        if paths:
            shutil.copy(min(paths, key=lambda path: (len(path.parts), path)), folder)
        else:
            missing.append(name)
    zips = [submission] if Path(submission).is_file() else sorted(Path(submission).rglob("*.zip"))
    for path in zips if missing else ():
        if zipfile.is_zipfile(path):
            with tempfile.TemporaryDirectory() as opened:
                zipfile.ZipFile(path).extractall(opened)
                missing = copy_files(opened, folder, missing)
    return missing


def list_class(folder):
    """The folders and zips in a folder. Names what is neither."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() or path.suffix == ".zip":
            found.append(path)
        else:
            print(f"{path} is no folder and no zip: not graded")
    return found


def run_checks(folder, seed, seconds):
    """What pytest says of the checks in a folder: [(check, points, most, message)]."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", "--junitxml", "checks.xml",
               "course/test_stages.py"]
    settings = {"CHECK_SEED": str(seed), "CHECK_SECONDS": str(seconds), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, cwd=folder, env=os.environ | settings, timeout=20 * seconds, capture_output=True,
                              text=True)
        problem = done.stdout
    except subprocess.TimeoutExpired:
        problem = f"the checks did not end in {20 * seconds} seconds"
    report = Path(folder, "checks.xml")
    results = {}
    for case in ElementTree.parse(report).iter("testcase") if report.exists() else ():
        properties = {p.get("name"): p.get("value") for p in case.iter("property")}
        if "points" not in properties:  # no check: pytest could not read the file
            continue
        most = int(properties["points"])
        failures = [*case.iter("failure"), *case.iter("error"), *case.iter("skipped")]
        message = "right"
        if failures:
            lines = re.findall(r"^(?:\S*/)?((?:model|mix|finetune_router)\.py:\d+)", failures[0].text or "", re.M)
            message = failures[0].get("message", "") + "".join(f"\n  at {line}" for line in lines[-1:])
        results[case.get("name")] = (case.get("name"), 0 if failures else most, most, message)
    return list(results.values()) or [("all checks", 0, 100, problem)]  # a module could not be imported


def grade(submission, seed, seconds):
    """All checks of one submission: [(check, points, most, message)]. Raises BadInput if there is nothing to grade."""
    with tempfile.TemporaryDirectory(prefix="grade_") as folder:
        handout.write(folder, handout.files())
        missing = copy_files(submission, folder, handout.WRITTEN)
        if len(missing) == len(handout.WRITTEN):
            raise BadInput(f"{submission} has none of {', '.join(missing)}")
        problem = problem_of(folder)
        if problem:
            raise BadInput(problem)
        results = run_checks(folder, seed, seconds)
    return results + [("missing", 0, 0, f"there is no {name}: graded with the handout's") for name in missing]


def read_sheet(out):
    """{submission: its row, {column: text}} of grades.csv."""
    sheet = Path(out, "grades.csv")
    if not sheet.exists():
        return {}
    with sheet.open(newline="") as file:
        return {row["submission"]: row for row in csv.DictReader(file)}


def write_results(out, name, results, seed):
    """Write NAME.json, and this submission's row of grades.csv; the rest of the sheet stays. Returns the points."""
    total = sum(got for _, got, _, _ in results)
    tests = [{"name": check, "score": got, "max_score": most, "output": text} for check, got, most, text in results]
    content = {"score": total, "output": f"graded with --seed {seed}", "tests": tests}
    Path(out).mkdir(parents=True, exist_ok=True)
    Path(out, f"{name}.json").write_text(json.dumps(content, indent=1))
    rows = read_sheet(out)
    row = rows.setdefault(name, {})
    row |= {"submission": name, "code 100": total, "seed": seed}
    for stage in STAGES:
        row[stage] = sum(got for check, got, _, _ in results if check.startswith(f"test_{stage.replace(' ', '')}"))
    for row in rows.values():
        if all(row.get(item) for item in RUBRIC):
            row["grade"] = (float(row["code 100"]) + 2 * sum(float(row[item]) for item in RUBRIC)) / 2
    columns = list(dict.fromkeys([*COLUMNS, *next(iter(rows.values()))]))  # and those that you added
    with replacing(Path(out, "grades.csv")) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows.values())
    return total


def write_class(out):
    """Write class.md: how many passed each check, and the ten most frequent messages."""
    passed, messages = Counter(), Counter()
    paths = [path for name in read_sheet(out) if (path := Path(out, f"{name}.json")).exists()]
    for path in paths:
        for test in json.loads(path.read_text())["tests"]:
            passed[test["name"]] += test["output"] == "right"
            if test["output"] != "right" and test["name"] != "missing":
                messages[test["name"].removeprefix("test_"), test["output"].split("\n")[0]] += 1
    checks = [check for check in passed if check.startswith("test_")]
    rows = [[check.removeprefix("test_"), f"{passed[check]} of {len(paths)}"] for check in checks]
    lines = ["\n".join(f"- {n} × **{check}**: {message}" for (check, message), n in messages.most_common(10))]
    Path(out, "class.md").write_text("\n\n".join(["# The class", markdown(["check", "passed"], rows), *lines]) + "\n")


def write_autograder(path):
    """Gradescope's zip: the two scripts of course/gradescope, and what grading needs of this repository."""
    with tempfile.TemporaryDirectory() as folder:
        handout.write(folder, handout.read((*handout.KEPT, "data/start/*.pt", "course/*.py")))
        shutil.copytree(handout.ROOT / "course" / "gradescope", folder, dirs_exist_ok=True)
        print(f"wrote {shutil.make_archive(str(Path(path).with_suffix('')), 'zip', folder)}")


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("submissions", nargs="*", type=Path, help="folders, each with the files that a student wrote")
    parser.add_argument("--each", metavar="FOLDER", type=Path, help="grade every folder and zip in this folder")
    parser.add_argument("--out", default="out/grades", help="folder for the results (default: %(default)s)")
    parser.add_argument("--seconds", type=positive_int, default=60, help="time for each check (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of the random numbers (default: the sheet's, or a new one)")
    parser.add_argument("--autograder", metavar="ZIP", help="write Gradescope's zip to this file instead")
    args = parser.parse_args(argv)
    if args.autograder:
        return write_autograder(args.autograder)
    submissions = [*args.submissions, *(list_class(args.each) if args.each else ())]
    if not submissions:
        raise BadInput("name what to grade: make grade SUBMISSION=folder, or SUBMISSIONS=folder of folders")
    seed = args.seed
    if seed is None:
        seeds = [int(row["seed"]) for row in read_sheet(args.out).values() if row["seed"]]
        seed = seeds[-1] if seeds else secrets.randbelow(10**6)
    for submission in submissions:
        try:
            results = grade(submission, seed, args.seconds)
        except BadInput as error:
            results = [("all checks", 0, 100, str(error))]
        name = submission.resolve().name.removesuffix(".zip")
        print(f"{name}: {write_results(args.out, name, results, seed)} points")
    write_class(args.out)
    print(f"wrote {args.out}/grades.csv, class.md and NAME.json for each, graded with --seed {seed}")


if __name__ == "__main__":
    run(main)
