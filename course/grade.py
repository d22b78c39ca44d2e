"""Grade submissions by the checks of the assignment, on other random numbers than the students have.

    python -m course.grade out/submissions/ada out/submissions/ben --out out/grades      # or: make grade
    python -m course.grade --autograder out/autograder.zip                               # for Gradescope

A submission is a folder with model.py, mix.py, finetune_router.py and Makefile, or a zip of them. What the student
wrote is put into a fresh handout (splice.py) and checked there (check.py). Writes grades.csv, with a row for each
submission ever graded there; NAME.json in Gradescope's format; and class.md, what the class can do and which mistakes
it made. Submitted functions run with your rights, so grade strangers' code in a container: see course/README.md.
"""
import csv
import json
import os
import re
import secrets
import shutil
import tempfile
import zipfile
import zlib
from collections import Counter
from pathlib import Path

from cli import BadInput, make_parser, positive_int, replacing, run
from course import check, splice
from support.report import markdown

STAGES = [f"stage {stage}" for stage in range(1, 7)]
RUBRIC = ["predict 10", "run 10", "draw 7", "explain 12", "limit 6", "class row 5"]  # you fill in these columns
WRITTEN_PROBLEMS = ["written 1 10", "written 4 10"]                                  # and these
COLUMNS = ["submission", *STAGES, "code 100", *WRITTEN_PROBLEMS, *RUBRIC, "grade", "seed"]
LARGEST = 10**6  # bytes of a file that a student writes


def find_files(submission):
    """What a student wrote, {name: bytes}; of two files with one name the one nearer to the top.

    Looks into zips for what is missing. Links and what cannot be read do not count.
    """
    found, zips = {}, [submission] if submission.is_file() else []
    for folder, _, names in sorted(os.walk(submission), key=lambda entry: (entry[0].count(os.sep), entry[0])):
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_symlink() or not path.is_file() or "__MACOSX" in path.parts:
                continue
            if name in splice.WRITTEN and path.stat().st_size <= LARGEST:
                found.setdefault(name, path.read_bytes())
            elif path.suffix == ".zip":
                zips.append(path)
    for path in zips:
        try:
            with zipfile.ZipFile(path) as archive:
                for entry in sorted(archive.infolist(), key=lambda entry: (entry.filename.count("/"), entry.filename)):
                    name = entry.filename.rsplit("/", 1)[-1]
                    if name in splice.WRITTEN and "__MACOSX" not in entry.filename and entry.file_size <= LARGEST:
                        found.setdefault(name, archive.read(entry))
        except (OSError, ValueError, RuntimeError, NotImplementedError, EOFError, zipfile.BadZipFile, zlib.error):
            print(f"{path}: this zip, or a part of it, cannot be read")
    return found


def list_class(folder):
    """The folders and zips in a folder. Names what is neither."""
    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder of submissions")
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() or path.suffix == ".zip":
            found.append(path)
        else:
            print(f"{path} is no folder and no zip: not graded")
    return found


def name_submissions(paths):
    """{the name of its row: a submission}; of two that would have one name the second has a number."""
    named = {}
    for path in paths:
        if not path.exists() and not path.is_symlink():
            raise BadInput(f"there is no {path}")
        name = first = re.sub(r"[^\w.@+ -]", "_", path.absolute().name.removesuffix(".zip"))
        number = 1
        while name in named:
            number += 1
            name = f"{first}_{number}"
        named[name] = path
    return named


def grade(submission, seed, seconds):
    """All checks of one submission: ([(check, points, most, message)], remarks)."""
    try:
        found = {} if submission.is_symlink() else find_files(submission)
        with tempfile.TemporaryDirectory(prefix="grade_") as folder:
            notes, diffs = check.submit(found, folder)
            results = {name: (0, "none of the four files could be read") for name in check.POINTS}
            if found:
                results = check.run_checks(folder, check.POINTS, seed, seconds)
    except Exception as error:  # whatever is odd about a submission, the others are graded
        notes, diffs = [f"{type(error).__name__}: {error}"], {}
        results = {name: (0, "this submission could not be read") for name in check.POINTS}
    for name, lines in diffs.items():
        if lines:
            notes.append("\n".join([f"{name}: given code was changed, without effect:", *lines[:40]]))
    return [(name, got, check.POINTS[name], message) for name, (got, message) in results.items()], notes


def read_sheet(out):
    """{submission: its row, {column: text}} of grades.csv."""
    sheet = Path(out, "grades.csv")
    if not sheet.exists():
        return {}
    with sheet.open(newline="") as file:
        return {row["submission"]: row for row in csv.DictReader(file)}


def write_results(out, name, results, notes, seed):
    """Write NAME.json, and this submission's row of grades.csv; the rest of the sheet stays. Returns the points."""
    total = sum(got for _, got, _, _ in results)
    tests = [{"name": test, "score": got, "max_score": most, "output": text} for test, got, most, text in results]
    content = {"score": total, "output": "\n".join([f"graded with --seed {seed}", *notes]), "tests": tests}
    Path(out).mkdir(parents=True, exist_ok=True)
    Path(out, f"{name}.json").write_text(json.dumps(content, indent=1))
    rows = read_sheet(out)
    row = rows.setdefault(name, {})
    row |= {"submission": name, "code 100": total, "seed": seed}
    for stage in STAGES:
        row[stage] = sum(got for test, got, _, _ in results if test.startswith(f"test_{stage.replace(' ', '')}"))
    for row in rows.values():
        if all(row.get(item) for item in [*RUBRIC, *WRITTEN_PROBLEMS]):
            experiment, written = (sum(float(row[item]) for item in some) for some in (RUBRIC, WRITTEN_PROBLEMS))
            row["grade"] = round((float(row["code 100"]) + 2 * experiment + written) / 2.2, 1)
    columns = list(dict.fromkeys([*COLUMNS, *next(iter(rows.values()))]))  # and those that you added
    with replacing(Path(out, "grades.csv")) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows.values())
    return total


def write_class(out):
    """Write class.md: how many passed each check, and the ten most frequent hints, or messages without a hint."""
    passed, mistakes = Counter(), Counter()
    paths = [path for name in read_sheet(out) if (path := Path(out, f"{name}.json")).exists()]
    for path in paths:
        for test in json.loads(path.read_text())["tests"]:
            passed[test["name"]] += test["output"] == "right"
            if test["output"] != "right":
                first, _, hint = test["output"].partition("\n  perhaps: ")
                mistakes[test["name"].removeprefix("test_"), hint or first.split("\n")[0]] += 1
    rows = [[test.removeprefix("test_"), f"{passed[test]} of {len(paths)}"] for test in check.POINTS]
    lines = ["\n".join(f"- {n} × **{test}**: {message}" for (test, message), n in mistakes.most_common(10))]
    Path(out, "class.md").write_text("\n\n".join(["# The class", markdown(["check", "passed"], rows), *lines]) + "\n")


def write_autograder(path):
    """Gradescope's zip: the files of course/gradescope, and a handout with its grader. It holds no solution."""
    from course import handout
    with tempfile.TemporaryDirectory() as folder:
        files = handout.files()
        check.write(folder, files | handout.read(["course/grade.py"]) | {"course/given.zip": handout.zip_files(files)})
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
    submissions = name_submissions([*args.submissions, *(list_class(args.each) if args.each else ())])
    if not submissions:
        raise BadInput("name what to grade: make grade SUBMISSION=folder, or SUBMISSIONS=folder of folders")
    seed = args.seed
    if seed is None:
        seeds = [int(row["seed"]) for row in read_sheet(args.out).values() if row["seed"]]
        seed = seeds[-1] if seeds else secrets.randbelow(10**6)
    for name, submission in submissions.items():
        results, notes = grade(submission, seed, args.seconds)
        print(f"{name}: {write_results(args.out, name, results, notes, seed)} points", flush=True)
    write_class(args.out)
    print(f"wrote {args.out}/grades.csv, class.md and NAME.json for each, graded with --seed {seed}")


if __name__ == "__main__":
    run(main)
