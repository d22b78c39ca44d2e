"""Run the checks of the assignment: `make check`, or `make check STAGE=2`.

Your files are put beside a fresh handout and checked there (stages.py), as the grader does it. The checks run in one
process. Each call of your functions has another, with limits on time, memory and the size of files (sandbox.sh). Your
own checks, of stage 6, run on right and wrong versions of model.py and mix.py (mutants.py).
"""
import importlib
import json
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path

import torch

from cli import BadInput, make_parser, run
from course import handout, mutants
from course.sandbox import close_to_others, derive_seed, run_code

POINTS = handout.ASSIGNMENT["points"]  # {check: points}
SECONDS = 20  # limit for one call; three imports and 12 checks stay below Gradescope's ten minutes


# ---- inside the sandbox
class Asked(BaseException):
    """Raised in a new process: it leaves the check, with all that the check expects, before a student's code runs."""


def judge(checks):
    """Run checks in this process, which runs no code of a student. Write a line of JSON for each to file descriptor 3:
    its name, and "right" or what is wrong. Returns only in a process that `ask` starts: the arguments of `answer`.
    """
    imported = []  # the student's files that can be imported
    seed = int(os.read(0, 99))  # not from the command line, which a student's process can read
    stages = importlib.import_module("course.stages")  # it imports the handout's three files
    stages.ask = ask
    sys.path.remove("")  # nothing is imported from this folder any more: a student's function may write to it
    close_to_others()
    for name in [*handout.WRITTEN, *checks]:
        torch.manual_seed(derive_seed(seed, name))
        message = "right"
        try:
            if name in handout.WRITTEN:
                imported.append(name)
                ask(dict)
            else:
                getattr(stages, name)()
        except Asked as asked:
            return *asked.args, imported
        except Exception as error:
            message = str(error)
            if name in handout.WRITTEN:
                imported.remove(name)
            elif message.startswith("stage "):
                message = f"not written yet ({message})"
            else:
                message = f"{' '.join(getattr(stages, name).__doc__.split())}\n  {message}"
        os.write(3, json.dumps([name, message[:3000]]).encode() + b"\n")
    os._exit(0)


def ask(function):
    """Call a function in a new process, which imports the student's files. Returns what it returns, tensors and plain
    values. Raises RuntimeError if it fails."""
    with tempfile.TemporaryFile() as file:
        pid = os.fork()
        if pid == 0:
            raise Asked(function, os.dup(file.fileno()))
        _, status = os.waitpid(pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):  # it would wait for ever
            os.kill(pid, signal.SIGKILL)
        file.seek(0)
        try:
            result, message = torch.load(file, weights_only=True)
        except Exception:
            result, message = None, f"it ended its process, took more than {SECONDS} seconds, or returned no tensors"
    if message:
        raise RuntimeError(message)
    return result


def answer(function, descriptor, imported):
    """In a new process: import the student's files, call a function, and write its result, or what is wrong."""
    os.close(3)
    signal.alarm(SECONDS)  # ends this process
    torch.manual_seed(0)  # the seed of the checks is not known here
    sys.path[:0] = ["submitted", ""]
    result, message = None, ""
    try:
        for name in imported:
            importlib.reload(sys.modules[Path(name).stem])
        torch.set_default_dtype(torch.float32)  # a file may have set another one
        result = function()
    except BaseException as error:  # catches exit(), too
        message = str(error)
        if not message.startswith("stage "):  # raised by a body that is not written yet
            message = f"{type(error).__name__}: {message}"
            frames = traceback.extract_tb(error.__traceback__)
            for frame in [frame for frame in frames if "submitted" in frame.filename][-1:]:
                message += f"\n  in {Path(frame.filename).name}, {frame.name}: {frame.line}"
    with open(descriptor, "wb") as file:
        torch.save((result, message), file)
    os._exit(0)


# ---- outside: a submission
def run_checks(given, written, checks, seed, isolated):
    """Put a student's files, {name: bytes}, beside the handout's, and run checks there.

    isolated: see run_code. Returns {name: message}, also of each file that is imported.
    """
    files = given | {f"submitted/{name}": content for name, content in written.items()}
    code = f"from course.check import answer, judge; answer(*judge({[*checks]}))"
    said = run_code(code, files, b"%d" % seed, isolated, SECONDS * (4 + len(checks)))
    messages = dict.fromkeys([*handout.WRITTEN, *checks], "the process of the checks was ended")
    return messages | dict(json.loads(line) for line in said)


def check_files(submission, checks, versions, seed, isolated=""):
    """Check a student's files, {name: bytes}. Returns the content of NAME.json, in Gradescope's format.

    versions: those of stage 6, see handout.versions.
    A file that is missing or cannot be imported is replaced by that of the handout.
    """
    given = handout.files()
    written = {name: submission[name] for name in handout.WRITTEN if name in submission}
    messages = run_checks(given, written, [name for name in checks if name != mutants.NAME], seed, isolated)
    broken = [name for name in written if messages[name] != "right"]
    notes = [f"there is no {name}" for name in handout.HANDED_IN if name not in submission]
    notes += [f"{name} cannot be imported, so the handout's file replaces it: {messages[name]}" for name in broken]
    diff, marks = handout.compare(given, given | written | {name: given[name] for name in broken})
    tests = [{"name": name, "score": POINTS[name] if messages[name] == "right" else 0, "max_score": POINTS[name],
              "output": messages[name]} for name in checks if name != mutants.NAME]
    if mutants.NAME in checks:
        content = submission.get("checks.py", b"")
        tests.append(mutants.grade(content, POINTS[mutants.NAME], versions, seed, isolated))
        marks += mutants.find_copies(content)
    changed = len([line for line in diff if not line.startswith(("---", "+++", "@@"))])
    return {"score": sum(test["score"] for test in tests), "tests": tests, "output": "\n".join(notes),
            "extra_data": {"seed": seed, "changed": changed, "look": marks, "diff": diff[:1000]}}


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--only", default="", help="stage, such as 2, or check, such as stage1_gates (default: all)")
    only = parser.parse_args(argv).only
    checks = [name for name in POINTS if name.startswith(f"stage{only.removeprefix('stage')}")]
    if not checks:
        raise BadInput(f"--only {only}: choose a stage from 1 to 6, or one of {', '.join(POINTS)}")
    submission = {name: Path(name).read_bytes() for name in handout.HANDED_IN if Path(name).is_file()}
    result = check_files(submission, checks, handout.versions(), seed=0)
    for test in result["tests"]:
        print(f"{test['name']:<20} {test['score']:>2} of {test['max_score']:>2}  {test['output']}")
    print(f"{result['score']} of {sum(POINTS[name] for name in checks)} points")
    print(result["output"], *result["extra_data"]["diff"][:40], sep="\n")


if __name__ == "__main__":
    run(main)
