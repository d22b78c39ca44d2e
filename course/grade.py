"""Grade submissions by the checks of the assignment, on other random numbers than the students have.

    python -m course.grade out/submissions/* --out out/grades      # or: make grade SUBMISSIONS=out/submissions

A submission is a folder with model.py, mix.py and finetune_router.py, or a zip of them. They are checked in a fresh
handout (check.py), isolated by bwrap where it works. Writes grades.csv, with a row for each submission ever graded
there; NAME.json in Gradescope's format; and class.md, what the class can do and which mistakes it made.
"""
import csv
import json
import re
import secrets
import zipfile
from collections import Counter
from functools import partial
from pathlib import Path

from cli import BadInput, make_parser, replacing, run

from course import check, handout
from support.report import markdown


def find_files(submission):
    """What a student wrote in a folder or zip: {name: bytes}, and notes. Links do not count.

    Of several files with one name that nearest to the top counts. Where there is none, "my_model (1).py" is model.py.
    """
    places = {}  # {path: how to read it}
    paths = sorted(submission.rglob("*")) if submission.is_dir() else [submission]
    for path in [path for path in paths if path.is_file() and not path.is_symlink()]:
        place = path.relative_to(submission.parent).as_posix()
        if zipfile.is_zipfile(path):
            archive = zipfile.ZipFile(path)
            small = [entry.filename for entry in archive.infolist() if entry.file_size <= 10**6]  # a bomb is large
            places |= {f"{place}/{name}": partial(archive.read, name) for name in small}
        else:
            places[place] = path.read_bytes
    found, notes = {}, []
    for name in handout.WRITTEN:
        exact = [place for place in places if place.split("/")[-1] == name]
        similar = [place for place in places if re.search(rf"(?i){name[:-3]}[^/]*\.py$", place)]
        candidates = sorted(exact or similar, key=lambda place: (place.count("/"), place))
        if candidates:
            found[name] = places[candidates[0]]()
        if candidates[1:] or (similar and not exact):
            notes.append(f"{name} is {candidates[0]}, one of {len(candidates)}")
    return found, notes


def grade(submission, seed, isolated):
    """The content of a submission's NAME.json."""
    try:
        found, notes = find_files(submission)
        results, more, diff = check.check_files(found, check.POINTS, seed, isolated)
    except Exception as error:  # whatever is odd about a submission, the others are graded
        results, notes, more, diff = {}, [f"it could not be graded: {error!r}"], [], []
    tests = [{"name": name, "score": points, "max_score": check.POINTS[name], "output": message}
             for name, (points, message) in results.items()]
    changed = len([line for line in diff if not line.startswith(("---", "+++", "@@"))])
    return {"score": sum(test["score"] for test in tests), "tests": tests, "output": "\n".join(notes + more),
            "extra_data": {"seed": seed, "changed": changed, "diff": diff[:1000]}}


def write_sheet(out, graded):
    """Write grades.csv, and class.md: passes of each check, frequent messages. graded: {submission: its NAME.json}."""
    rows, passed, failed = [], Counter(), Counter()
    for name, result in graded.items():
        row = {"submission": name} | {f"stage {stage}": 0 for stage in range(1, 7)}
        for test in result["tests"]:
            row[f"stage {test['name'][5]}"] += test["score"]
            if test["score"]:
                passed[test["name"]] += 1
            else:
                failed[test["name"], " ".join(test["output"].split())] += 1
        more = {"code 100": result["score"], "changed": result["extra_data"]["changed"]}
        rows.append(row | more | {"seed": result["extra_data"]["seed"], "notes": result["output"]})
    with open(out / "grades.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    table = markdown(["check", "passed"], [[name, f"{passed[name]} of {len(rows)}"] for name in check.POINTS])
    lines = [f"- {n} × **{name}**: {message}" for (name, message), n in failed.most_common(10)]
    (out / "class.md").write_text("\n\n".join(["# The class", table, "\n".join(lines)]) + "\n")


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("submissions", nargs="+", type=Path, help="folders or zips with the files that a student wrote")
    parser.add_argument("--out", type=Path, default="out/grades", help="folder for the results (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of random numbers (default: any)")
    args = parser.parse_args(argv)
    for path in args.submissions:
        if not path.exists():
            raise BadInput(f"there is no {path}: name SUBMISSION=folder, or SUBMISSIONS=its parent")
    isolated = check.run_checks(handout.files(), [], 0, isolated=True)["import"] == "right"
    print("isolated by bwrap" if isolated else "not isolated, bwrap does not work here: submissions have your rights")
    graded = {path.stem: json.loads(path.read_text()) for path in sorted(args.out.glob("*.json"))}
    for path in args.submissions:
        name = path.absolute().name
        graded[name] = grade(path, args.seed, isolated)
        with replacing(args.out / f"{name}.json") as part:
            part.write_text(json.dumps(graded[name], indent=1))
        print(f"{name}: {graded[name]['score']} points", flush=True)
    write_sheet(args.out, graded)
    print(f"wrote {args.out}/grades.csv, class.md and NAME.json for each, graded with --seed {args.seed}")


if __name__ == "__main__":
    run(main)
