"""Grade submissions by the checks of the assignment, with other random numbers than the students have.

    python -m course.grade out/submissions/* --out out/grades      # or: make grade SUBMISSIONS=out/submissions

A submission is a folder with model.py, mix.py, finetune_router.py and checks.py, a zip of them, or a student's files as
Canvas names them, such as doe_12345_678_model.py. The files are checked in a fresh handout (check.py), isolated by
bwrap where it works. This writes grades.csv, with a row for each submission that was ever graded in this folder, and
NAME.json in Gradescope's format.
"""
import csv
import json
import os
import re
import secrets
import sys
import zipfile
from pathlib import Path

from cli import BadInput, make_parser, replacing, run
from course import check, handout, mutants

CANVAS = re.compile(r"^([^\W\d_]+(?:_LATE)?_\d{4,})_\d{3,}_([^/]+)$")  # student with number, number of the file, name


def find_files(paths):
    """The files that a student wrote, {name: bytes}, from folders, zips or files, and notes about them. No links.

    Of several files with one name, the one nearest to the top counts. Without one, "my_model (1).py" is model.py.
    """
    found, notes, written = {}, [], {}  # found: {place: a path, perhaps inside a zip}
    for top in paths:
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            place = CANVAS.sub(r"\1/\2", path.relative_to(top.parent).as_posix())
            if path.is_symlink() or not path.is_file():
                continue
            if zipfile.is_zipfile(path):
                archive = zipfile.ZipFile(path)
                found |= {f"{place}/{name}": zipfile.Path(archive, name) for name in archive.namelist()}
            else:
                found[place] = path
    for place in found:
        if Path(place).suffix.lower() in (".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz"):
            notes.append(f"{place}: unpack it first; only undamaged zips are read, and no archive inside another one")
    for name in handout.HANDED_IN:
        similar = [place for place in found if re.search(rf"(?i){name[:-3]}[^/]*\.py$", place)]
        if not similar:
            continue
        place = min(similar, key=lambda place: (Path(place).name != name, place.count("/"), place))
        with found[place].open("rb") as file:
            written[name] = file.read(10**6)  # not more: a zip may hold a bomb
        if len(similar) > 1 or Path(place).name != name:
            notes.append(f"{name} is {place}, one of {len(similar)}")
    return written, notes


def cell(value):
    """The text of a cell of grades.csv: a single line, which a spreadsheet does not take for a formula."""
    line = "; ".join(str(value).splitlines()).strip()
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line


def write_sheet(path, graded):
    """Write grades.csv. graded: {name: the content of NAME.json}."""
    rows = []
    for name, result in graded.items():
        row = {"submission": name} | {f"stage {stage}": 0 for stage in range(1, 7)}
        for test in result["tests"]:
            row[f"stage {test['name'][5]}"] += test["score"]
        more = result["extra_data"]
        row |= {"code": result["score"], "changed": more["changed"], "seed": more["seed"],
                "look": "; ".join(more["look"]), "notes": result["output"]}
        rows.append({column: cell(value) for column, value in row.items()})
    with replacing(path) as part, open(part, "w", newline="", errors="replace") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("submissions", nargs="+", type=Path, help="folders, zips or files of the students")
    parser.add_argument("--out", type=Path, default="out/grades", help="folder for the results (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=secrets.randbits(48), help="seed of the checks (default: any)")
    args = parser.parse_args(argv)
    submissions = {}  # {name: paths}
    for path in args.submissions:
        if not (path.exists() or path.is_symlink()):
            raise BadInput(f"there is no {path}; give SUBMISSION=folder, or SUBMISSIONS=its parent folder")
        name = CANVAS.sub(r"\1", path.absolute().name)  # all files of a student share one row
        submissions.setdefault(name, []).append(path.absolute())
    for isolated in ("bwrap", "student", ""):
        if check.run_checks(handout.files(), {}, [], 0, isolated)["mix.py"] == "right":
            break
    else:
        raise BadInput("no check starts, even without a submission; first see that this works: "
                       f"env -i {sys.executable} -c 'import torch'")
    if not isolated and os.geteuid() == 0:
        raise BadInput("you are root and bwrap does not work, so submissions would be root, too; "
                       "grade as another user, or run: useradd student")
    print(f"isolated by {isolated}" if isolated else "not isolated: bwrap does not work; submissions have your rights")
    versions = mutants.choose(handout.versions(), args.seed)
    graded = {path.stem: json.loads(path.read_text()) for path in sorted(args.out.glob("*.json"))}
    for name, paths in submissions.items():
        try:
            written, notes = find_files(paths)
            result = check.check_files(written, check.POINTS, versions, args.seed, isolated)
        except Exception as error:  # whatever is odd about one submission, the others are still graded
            notes = [f"it could not be graded: {error!r}"]
            result = check.check_files({}, check.POINTS, versions, args.seed, isolated)
        result["output"] = "\n".join([*notes, result["output"]])
        graded[name] = result
        with replacing(args.out / f"{name}.json") as part:
            part.write_text(json.dumps(result, indent=1))
        print(f"{cell(name)}: {result['score']} points", flush=True)
    write_sheet(args.out / "grades.csv", graded)
    print(f"wrote {args.out}/grades.csv and NAME.json for each, graded with --seed {args.seed}")


if __name__ == "__main__":
    run(main)
