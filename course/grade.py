"""Grade submissions: their model.py, mix.py and train_expert.py, by the checks of checks.py on numbers that nobody knows before.

    python -m course.grade out/submissions/ada out/submissions/ben --out out/grades
    python -m course.grade --autograder out/autograder.zip      # for Gradescope

A submission runs in child processes that know the inputs alone; what they compute is compared here with what the reference
computes. Writes grades.csv, and of each submission NAME.json as Gradescope reads it.
"""
import csv
import io
import json
import os
import resource
import secrets
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tqdm import tqdm

from course import checks, handout, mistakes
from support import checkpoint as ckpt
from support.files import open_input, output, prepare_output, write_text
from support.settings import BadInput, option, parse, run

WRITTEN = ("model.py", "mix.py", "train_expert.py")  # all else of a submission is left alone
NOBODY = 65534
MEMORY, FILE_SIZE, MAX_SOURCE = 8 * 2**30, 2**24, 2**20  # bytes


@dataclass
class Settings:
    submissions: list = option([], "folders, each with the files that a student wrote", positional=True)
    out: str = option("out/grades", "folder for grades.csv and NAME.json")
    seconds: float = option(20.0, "time for a stage", low=1.0, high=3600.0)
    seed: int = option(0, "seed of the hidden numbers; 0: another one each time", low=0, high=2**31)
    workers: int = option(0, "submissions at a time; 0: one for each core", low=0, high=1000)
    autograder: str = option("", "write Gradescope's zip to this file instead")


@dataclass
class Result:
    """One check of one submission; the problem is None if it has its points."""
    stage: int
    check: str
    points: int
    problem: str | None

    @property
    def got(self):
        return 0 if self.problem else self.points


def limit():
    """In the child: bounds on its memory, on the files that it writes, and no core dumps."""
    for what, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_FSIZE, FILE_SIZE), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(what, (most, most))


@cache
def someone():
    """Who runs the child, as arguments of Popen: root lets nobody do it, who cannot read what is root's alone."""
    nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    if os.geteuid() == 0:
        try:
            subprocess.run([sys.executable, "-c", "import torch"], check=True, cwd="/", env={}, capture_output=True, **nobody)
            return nobody
        except (OSError, subprocess.CalledProcessError):
            pass
    print("grade.py: submissions run as you, and could read what you can: grade strangers' code in a container", file=sys.stderr)
    return {}


def child(tree, out, stage, seeds, done, seconds):
    """Run the child once, in a session of its own that is killed at the end. Returns whether it was over in time."""
    words = [sys.executable, "-m", "course.run", str(stage), str(out), ",".join(map(str, seeds)), *done]
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    kept |= {"OMP_NUM_THREADS": "1", "HOME": str(out), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(words, cwd=tree, env=kept, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, start_new_session=True, preexec_fn=limit, **someone())
    try:
        process.wait(seconds)
        return True
    except subprocess.TimeoutExpired:
        return False
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def plant(submission, tree, made):
    """Write the handout, and over it what a student may write. Raises BadInput for nothing of that, links and long files."""
    for name, content in made.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    found = [path for name in WRITTEN if os.path.lexists(path := Path(submission) / name)]
    if not found:
        raise BadInput(f"{submission}: holds none of {', '.join(WRITTEN)}")
    for path in found:
        if path.is_symlink():  # it could lead to the solution, which we may read
            raise BadInput(f"{path}: a link; hand in the file itself")
        with open_input(path) as file:
            source = file.read(MAX_SOURCE + 1)
        if len(source) > MAX_SOURCE:
            raise BadInput(f"{path}: more than {MAX_SOURCE:,} bytes")
        (tree / path.name).write_bytes(source)


@cache
def wanted(check, seed):
    """What the reference gives."""
    return checks.compute(check, handout.REFERENCE, seed)


@cache
def with_mistake(mistake, check, seed):
    """What the reference gives with a mistake in it, {} if nothing."""
    try:
        return checks.compute(check, mistakes.variant(mistake), seed)
    except Exception:
        return {}


def hint(stage, check, found):
    """What is known of a mistake that gives just these results, {seed: {name: tensor}}; "" if none does."""
    for mistake in mistakes.MISTAKES:
        if mistake.stage == stage and all(checks.differs(numbers, with_mistake(mistake, check, seed)) is None
                                          and with_mistake(mistake, check, seed) for seed, numbers in found.items()):
            return mistake.hint
    return ""


def judge(stage, check, out, seeds, in_time):
    """What is wrong with a check's results in the folder `out`, in one line, or None."""
    found, problem = {}, None
    for seed in seeds:
        place = f"{out}/{check.__name__}.{seed}"
        try:
            if Path(f"{place}.error").exists():
                with open_input(f"{place}.error") as file:
                    problem = problem or file.read(500).decode("utf-8", "replace").partition("\n")[0] or "an error"
                continue
            found[seed] = ckpt.read(f"{place}.pt").get("model", {})
        except BadInput:
            problem = problem or ("the process ended" if in_time else "not done in time")
            continue
        except ValueError as error:  # not a number
            problem = problem or str(error)
            continue
        problem = problem or checks.differs(found[seed], wanted(check, seed))
    if problem and len(found) == len(seeds):
        known = hint(stage, check, found)
        problem = f"{problem}; {known}" if known else problem
    return problem


def grade(submission, made, seeds, seconds):
    """All checks of one submission, a list of Result."""
    results = []
    with tempfile.TemporaryDirectory(prefix="grade_") as folder:
        tree = Path(folder) / "tree"
        Path(folder).chmod(0o755)
        plant(submission, tree, made)
        for stage, stage_checks in checks.CHECKS.items():
            out = Path(folder) / f"out{stage}"
            out.mkdir()
            if someone():
                os.chown(out, NOBODY, NOBODY)
            all_of = [f"{check.__name__}.{seed}" for check, _ in stage_checks for seed in seeds]
            in_time, done, before = True, [], None
            while in_time and len(done) < len(all_of) and done != before:  # what ends the process is left out the next time
                in_time, before = child(tree, out, stage, seeds, done, seconds), done
                done = [name for name in all_of if (out / f"{name}.begun").exists()]
            results += [Result(stage, check.__name__, points, judge(stage, check, out, seeds, in_time))
                        for check, points in stage_checks]
    return results


def table(results):
    """A submission's points by stage, and a line for each problem."""
    lines = []
    for stage in checks.CHECKS:
        mine = [r for r in results if r.stage == stage]
        lines.append(f"stage {stage}: {sum(r.got for r in mine):>3} of {sum(r.points for r in mine):>3}  {checks.STAGES[stage]}")
        for r in mine:
            if r.problem:
                about = next(check.__doc__ for check, _ in checks.CHECKS[stage] if check.__name__ == r.check)
                lines.append(f"    {r.check} ({r.points}): {r.problem}\n        look at: {about}")
    lines.append(f"total:   {sum(r.got for r in results):>3} of {sum(r.points for r in results):>3}")
    return "\n".join(lines)


def gradescope(results):
    """The results.json that Gradescope reads."""
    tests = [{"name": f"stage {r.stage}: {r.check}", "score": r.got, "max_score": r.points, "visibility": "visible",
              "output": r.problem or "right"} for r in results]
    return {"score": sum(r.got for r in results), "output": table(results), "tests": tests}


SETUP = """#!/usr/bin/env bash
# Gradescope runs this once, as root, when it builds the image.
set -e
apt-get update -qq && apt-get install -y -qq python3 python3-venv
python3 -m venv /autograder/venv
/autograder/venv/bin/pip install -q torch --index-url https://download.pytorch.org/whl/cpu
/autograder/venv/bin/pip install -q -r /autograder/source/requirements.txt
chmod -R go-rwx /autograder/source  # submissions run as nobody, and may not read the solutions
"""
RUN = """#!/usr/bin/env bash
# Gradescope runs this for each submission, as root.
cd /autograder/source
/autograder/venv/bin/python -m course.grade /autograder/submission --out /autograder/results
mv /autograder/results/submission.json /autograder/results/results.json
"""


def write_autograder(path):
    """Gradescope's zip: its two scripts, and of this repository what grading takes."""
    prepare_output(path)
    content = handout.originals((*handout.KEPT, "course/*.py", "course/*.md", "results/table6.html"))
    content |= {"setup.sh": SETUP.encode(), "run_autograder": RUN.encode()}
    handout.pack(path, content, executable=("setup.sh", "run_autograder"))
    print(f"wrote {path}")


def main(argv=None):
    settings = parse(Settings, argv)
    if settings.autograder:
        if settings.submissions or Path(settings.autograder).suffix != ".zip":
            raise BadInput(f"--autograder {settings.autograder}: name the zip to write, ending in .zip, and no submissions")
        return write_autograder(settings.autograder)
    folders = [Path(folder) for folder in settings.submissions]
    if not folders:
        raise BadInput("name the folders to grade, as in: python -m course.grade out/submissions/* --out out/grades")
    for folder in folders:
        if not folder.is_dir():
            raise BadInput(f"{folder}: no such folder")
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        raise BadInput("two submissions have one name; rename one of the folders")
    out, made = Path(settings.out), handout.files()
    first = settings.seed or 1 + secrets.randbelow(2**31 - 2)

    def one(folder):
        try:
            return grade(folder, made, (first, first + 1), settings.seconds)
        except BadInput as error:
            return [Result(stage, check.__name__, points, str(error))
                    for stage, some in checks.CHECKS.items() for check, points in some]
    lines = io.StringIO()
    sheet = csv.writer(lines)
    sheet.writerow(["submission", *(f"stage {stage}" for stage in checks.CHECKS), "total"])
    with ExitStack() as files:
        for name in ("grades.csv", *(f"{name}.json" for name in names)):
            files.enter_context(output(out / name))
        with ThreadPoolExecutor(settings.workers or os.cpu_count()) as pool:
            graded = list(tqdm(pool.map(one, folders), total=len(folders), desc="grade", disable=len(folders) == 1))
        for name, results in zip(names, graded, strict=True):
            write_text(out / f"{name}.json", json.dumps(gradescope(results), indent=1))
            sheet.writerow([name, *(sum(r.got for r in results if r.stage == stage) for stage in checks.CHECKS),
                            sum(r.got for r in results)])
        write_text(out / "grades.csv", lines.getvalue())
    print(table(graded[0]) if len(folders) == 1 else lines.getvalue())
    print(f"wrote {out}/grades.csv and NAME.json for each of {len(folders)}")


if __name__ == "__main__":
    run(main)
