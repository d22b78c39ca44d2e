"""Grade submissions by the checks of the assignment, on other random numbers than the students have.

    python -m course.grade out/submissions/ada out/submissions/ben --out out/grades      # or: make grade
    python -m course.grade --autograder out/autograder.zip                               # for Gradescope

A submission is a folder with model.py, mix.py and finetune_router.py, or a zip of them. What the student wrote is put
into a fresh handout (splice.py) and checked there (check.py). Writes grades.csv, with a row for each
submission ever graded there; NAME.json in Gradescope's format; and class.md, what the class can do and which mistakes
it made. Submitted functions run with your rights, so grade strangers' code in a container: see course/README.md.
"""
import csv
import json
import re
import secrets
import shutil
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

from cli import BadInput, make_parser, replacing, run
from course import check, splice
from support.report import markdown

LARGEST = 10**6  # bytes of a file that a student writes


def find_files(submission):
    """What a student wrote, {name: bytes}, in folders and zips, and remarks. The file nearest to the top counts."""
    found, remarks = [], []
    if submission.is_symlink():
        return {}, ["a link is not followed"]
    for path in sorted(submission.rglob("*")) if submission.is_dir() else [submission]:
        if path.is_symlink() or not path.is_file():
            continue
        if path.name in splice.WRITTEN and path.stat().st_size <= LARGEST:
            found.append((path.relative_to(submission).as_posix(), path.read_bytes()))
        elif path.suffix == ".zip":
            try:
                with zipfile.ZipFile(path) as archive:
                    found += [(entry.filename, archive.read(entry)) for entry in archive.infolist()
                              if Path(entry.filename).name in splice.WRITTEN and entry.file_size <= LARGEST]
            except Exception as error:  # zipfile has a different one for every kind of damage
                remarks.append(f"{path.name}: this zip cannot be read ({error})")
    deepest_first = sorted(found, key=lambda file: file[0].count("/"), reverse=True)
    return {name.rsplit("/", 1)[-1]: content for name, content in deepest_first}, remarks


def grade(submission, seed):
    """What the checks say of one submission, {check: (points, message)}, and remarks."""
    try:
        found, remarks = find_files(submission)
        with tempfile.TemporaryDirectory(prefix="grade_") as folder:
            remarks += check.submit(found, folder)
            return check.run_checks(folder, check.POINTS, seed), remarks
    except Exception as error:  # whatever is odd about a submission, the others are graded
        return {name: (0, "this submission could not be read") for name in check.POINTS}, [repr(error)]


def read_sheet(out):
    """{submission: its row, {column: text}} of grades.csv."""
    sheet = Path(out, "grades.csv")
    if not sheet.exists():
        return {}
    with sheet.open(newline="") as file:
        return {row["submission"]: row for row in csv.DictReader(file)}


def write_results(out, name, results, remarks, seed):
    """Write NAME.json, and this submission's row of grades.csv; the rest of the sheet stays. Returns the points."""
    total = sum(points for points, _ in results.values())
    tests = [{"name": test, "score": points, "max_score": check.POINTS[test], "output": message}
             for test, (points, message) in results.items()]
    content = {"score": total, "output": "\n".join([f"graded with --seed {seed}", *remarks]), "tests": tests}
    Path(out).mkdir(parents=True, exist_ok=True)
    Path(out, f"{name}.json").write_text(json.dumps(content, indent=1))
    rows = read_sheet(out)
    row = rows.setdefault(name, {})
    row["submission"] = name
    for stage in "123456":
        row[f"stage {stage}"] = sum(points for test, (points, _) in results.items() if test[5] == stage)
    row |= {"code 100": total, "seed": seed}
    columns = list(next(iter(rows.values())))  # also those that you added
    with replacing(Path(out, "grades.csv")) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows.values())
    return total


def write_class(out):
    """Write class.md: how many passed each check, and the ten most frequent hints, or messages without a hint."""
    passed, mistakes = Counter(), Counter()
    paths = [path for name in read_sheet(out) if (path := Path(out, f"{name}.json")).exists()]
    for path in paths:
        for test in json.loads(path.read_text())["tests"]:
            if test["score"]:
                passed[test["name"]] += 1
            else:
                first, _, hint = test["output"].partition("\n  perhaps: ")
                mistakes[test["name"], hint or first.split("\n")[0]] += 1
    rows = [[test, f"{passed[test]} of {len(paths)}"] for test in check.POINTS]
    lines = [f"- {n} × **{test}**: {message}" for (test, message), n in mistakes.most_common(10)]
    text = ["# The class", markdown(["check", "passed"], rows), "\n".join(lines)]
    Path(out, "class.md").write_text("\n\n".join(text) + "\n")


def write_autograder(path):
    """Gradescope's zip: the files of course/gradescope, and a handout with its grader. It holds no solution."""
    from course import handout
    with tempfile.TemporaryDirectory() as folder:
        handout.write_handout(folder)
        check.write(folder, handout.read(["course/grade.py"]))
        shutil.copytree(handout.ROOT / "course" / "gradescope", folder, dirs_exist_ok=True)
        print(f"wrote {shutil.make_archive(str(Path(path).with_suffix('')), 'zip', folder)}")


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("submissions", nargs="*", type=Path, help="folders, each with the files that a student wrote")
    parser.add_argument("--each", metavar="FOLDER", type=Path, help="grade every folder and zip in this folder")
    parser.add_argument("--out", default="out/grades", help="folder for the results (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of the random numbers (default: the sheet's, or a new one)")
    parser.add_argument("--autograder", metavar="ZIP", help="write Gradescope's zip to this file instead")
    args = parser.parse_args(argv)
    if args.autograder:
        return write_autograder(args.autograder)
    submissions = args.submissions
    if args.each:
        submissions += sorted(args.each.glob("[!.]*"))
    missing = [str(path) for path in submissions if not path.exists() and not path.is_symlink()]
    if missing or not submissions:
        raise BadInput(f"there is no {missing or 'submission'}: name SUBMISSION=folder, or SUBMISSIONS=its parent")
    seed = args.seed
    if seed is None:
        seed = int(next((row["seed"] for row in read_sheet(args.out).values()), secrets.randbelow(10**6)))
    names = Counter()
    for path in submissions:
        name = re.sub(r"[^\w.@+ -]", "_", path.absolute().name.removesuffix(".zip"))
        names[name] += 1
        results, remarks = grade(path, seed)
        if names[name] > 1:
            name = f"{name}_{names[name]}"
            remarks.append(f"another submission has this name, so {path} is called {name}")
        print(f"{name}: {write_results(args.out, name, results, remarks, seed)} points", flush=True)
    write_class(args.out)
    print(f"wrote {args.out}/grades.csv, class.md and NAME.json for each, graded with --seed {seed}")


if __name__ == "__main__":
    run(main)
