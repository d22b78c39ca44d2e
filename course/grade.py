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


def read_zip(path):
    """What a student wrote in a zip: [(its name there, bytes)]."""
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist()[:1000]
                   if Path(entry.filename).name in splice.WRITTEN and entry.file_size <= LARGEST]
        return [(entry.filename, archive.read(entry)) for entry in entries]


def find_files(submission):
    """What a student wrote, {name: bytes}, in folders and zips, and notes. The file nearest to the top counts."""
    found, notes = [], []
    if submission.is_symlink():
        return {}, ["a link is not followed"]
    paths = sorted(submission.rglob("*")) if submission.is_dir() else [submission]
    for path in [path for path in paths if path.is_file() and not path.is_symlink()]:
        place = path.relative_to(submission).as_posix()
        if path.name in splice.WRITTEN and path.stat().st_size <= LARGEST:
            found.append((place, path.read_bytes()))
        elif path.suffix.lower() == ".zip":
            try:
                found += [(f"{place}/{name}", content) for name, content in read_zip(path)]
            except Exception as error:  # zipfile has a different one for every kind of damage
                notes.append(f"{path.name}: this zip cannot be read ({error})")
    deepest_first = sorted(found, key=lambda file: file[0].count("/"), reverse=True)
    return {name.rsplit("/", 1)[-1]: content for name, content in deepest_first}, notes


def grade(submission, seed):
    """What the checks say of one submission, {check: (points, message)}, and notes."""
    try:
        found, notes = find_files(submission)
        with tempfile.TemporaryDirectory(prefix="grade_") as folder:
            notes += check.submit(found, folder)
            return check.run_checks(folder, check.POINTS, seed), notes
    except Exception as error:  # whatever is odd about a submission, the others are graded
        return {name: (0, "this submission could not be read") for name in check.POINTS}, [repr(error)]


def read_results(out):
    """{submission: its NAME.json} of all that were ever graded there."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(Path(out).glob("*.json"))}


def write_sheet(out):
    """Write grades.csv, and class.md: how many passed each check, and the ten most frequent hints or messages."""
    rows, passed, mistakes, graded = [], Counter(), Counter(), read_results(out)
    for name, result in graded.items():
        row = {"submission": name} | {f"stage {stage}": 0 for stage in range(1, 7)}
        for test in result["tests"]:
            row[f"stage {test['name'][5]}"] += test["score"]
            passed[test["name"]] += test["score"] > 0
            if not test["score"] and not test["output"].startswith("not written"):
                first, _, hint = test["output"].partition("\n  perhaps: ")
                mistakes[test["name"], hint or first.split("\n")[0]] += 1
        rows.append(row | {"code 100": result["score"], **result["extra_data"]})
    with open(Path(out, "grades.csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    table = markdown(["check", "passed"], [[test, f"{passed[test]} of {len(rows)}"] for test in check.POINTS])
    lines = [f"- {n} × **{test}**: {message}" for (test, message), n in mistakes.most_common(10)]
    Path(out, "class.md").write_text("\n\n".join(["# The class", table, "\n".join(lines)]) + "\n")


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
    parser.add_argument("submissions", nargs="*", type=Path, help="folders or zips with the files that a student wrote")
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
        what = ", ".join(missing) or "submission"
        raise BadInput(f"there is no {what}: name SUBMISSION=folder, or SUBMISSIONS=its parent")
    seeds = [args.seed, *(result["extra_data"]["seed"] for result in read_results(args.out).values())]
    seed = next((seed for seed in seeds if seed is not None), secrets.randbelow(10**6))
    names = set()
    for path in submissions:
        wanted = re.sub(r"[^\w.@+ -]", "_", re.sub(r"(?i)\.zip$", "", path.absolute().name))
        name = wanted
        while name in names:
            name += "_2"
        names.add(name)
        results, notes = grade(path, seed)
        if name != wanted:
            notes.append(f"another submission has this name, so {path} is called {name}")
        tests = [{"name": test, "score": points, "max_score": check.POINTS[test], "output": message}
                 for test, (points, message) in results.items()]
        content = {"score": sum(test["score"] for test in tests), "tests": tests, "output": "\n".join(notes),
                   "extra_data": {"seed": seed}}
        with replacing(Path(args.out, f"{name}.json")) as part:
            part.write_text(json.dumps(content, indent=1))
        print(f"{name}: {content['score']} points", flush=True)
    write_sheet(args.out)
    print(f"wrote {args.out}/grades.csv, class.md and NAME.json for each, graded with --seed {seed}")


if __name__ == "__main__":
    run(main)
