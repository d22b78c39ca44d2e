"""Run the checks of the assignment: `make check`, or `make check STAGE=2`.

Your three files are copied into a fresh handout and checked there (stages.py), as the grader does it. Each check runs
in its own process, with limits on time, memory and the size of files (sandbox.sh).
"""
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from cli import BadInput, make_parser, run
from contextlib import ExitStack, suppress
from pathlib import Path

import torch

from course import handout

POINTS = handout.ASSIGNMENT["points"]  # {check: points}
IMPORT_SECONDS, SECONDS = 45, 20  # at most five imports and 15 checks stay below Gradescope's ten minutes


# ---- inside of the sandbox: checks
def serve(checks, seed, isolated):
    """Import the files of this folder, and run each check in its own process. The messages are written to files."""
    signal.alarm(IMPORT_SECONDS)  # ends this process
    leave_message("import", lambda: importlib.import_module("course.stages"))  # it imports all three files
    torch.manual_seed(seed)
    for name in checks:
        signal.alarm(2 * SECONDS)
        pid = os.fork()
        if pid == 0:
            os.setsid()  # starts a new process group
            signal.alarm(SECONDS)
            function = getattr(sys.modules["course.stages"], name)
            leave_message(name, function, " ".join(function.__doc__.split()) + "\n  ")
            os._exit(0)
        os.waitpid(pid, 0)
        with suppress(ProcessLookupError):  # no process is left
            if isolated:  # the sandbox has no processes but bwrap's, this one and the check's
                os.kill(-1, signal.SIGKILL)
            os.killpg(pid, signal.SIGKILL)


def leave_message(name, function, equation=""):
    """Call a function. Write "right" to a file, or what is wrong and in which line of the student's files."""
    message = "right"
    try:
        function()
    except BaseException as error:  # catches exit(), too, which would end this process
        message = f"{equation}{type(error).__name__}: {error}"
        frames = traceback.extract_tb(error.__traceback__)
        for frame in [frame for frame in frames if Path(frame.filename).name in handout.WRITTEN][-1:]:
            message += f"\n  in {Path(frame.filename).name}, {frame.name}: {frame.line}"
        if str(error).startswith("stage "):
            message = f"not written yet ({error})"
    Path(f"{name}.message").write_text(message)


# ---- outside: a submission
def run_checks(files, checks, seed, isolated):
    """Write {name: bytes} to a folder and run checks there. Returns {check: message}, and a message for "import"."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="check_", ignore_cleanup_errors=True))
        paths = {name: Path(folder, f"{name}.message") for name in ["import", *checks]}
        handout.write(folder, files | {path.name: b"" for path in paths.values()})
        # opened before a submission can leave a link or a pipe there
        opened = {name: stack.enter_context(path.open(errors="replace")) for name, path in paths.items()}
        serving = f"from course.check import serve; serve({[*checks]}, {seed}, {isolated})"
        command = ["bash", handout.ROOT / "course" / "sandbox.sh", "bwrap" if isolated else "", folder, sys.prefix,
                   sys.base_prefix, sys.executable, "-c", serving]
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(command, timeout=IMPORT_SECONDS + SECONDS * len(checks))
        ended = "it ended its process, or took more than {} seconds"
        return {name: file.read(3000) or ended.format(IMPORT_SECONDS if name == "import" else SECONDS)
                for name, file in opened.items()}


def check_files(submission, checks, seed, isolated=False):
    """Check a student's files, {name: bytes}. Returns the content of NAME.json, in Gradescope's format.

    A file that cannot be imported is replaced by that of the handout.
    """
    given = handout.files()
    files = given | submission
    notes = [f"there is no {name}" for name in handout.WRITTEN if name not in submission]
    messages = run_checks(files, checks, seed, isolated)
    if messages["import"] != "right":  # find the files that cannot be imported
        files = dict(given)
        for name, content in submission.items():
            message = run_checks(files | {name: content}, [], seed, isolated)["import"]
            if message == "right":
                files[name] = content
            else:
                notes.append(f"{name} cannot be imported, so the handout's file replaces it: {message}")
        messages = run_checks(files, checks, seed, isolated)
    diff, marks = handout.compare(given, files)
    tests = [{"name": name, "score": POINTS[name] if messages[name] == "right" else 0, "max_score": POINTS[name],
              "output": messages[name]} for name in checks]
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
    submission = {name: Path(name).read_bytes() for name in handout.WRITTEN if Path(name).is_file()}
    result = check_files(submission, checks, seed=0)
    for test in result["tests"]:
        print(f"{test['name']:<20} {test['score']:>2} of {test['max_score']:>2}  {test['output']}")
    print(f"{result['score']} of {sum(POINTS[name] for name in checks)} points")
    print(result["output"], *result["extra_data"]["diff"][:40], sep="\n")


if __name__ == "__main__":
    run(main)
