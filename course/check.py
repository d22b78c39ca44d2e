"""Run the checks of the assignment: `make check`, or `make check STAGE=2`.

Your three files are put into a fresh handout and checked there (stages.py), as the grader does. Each check runs in a
process of its own, with limits on time, memory and the size of files (sandbox.sh).
"""
import difflib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from cli import BadInput, make_parser, run
from contextlib import suppress
from pathlib import Path

import torch

from course import handout

POINTS = handout.ASSIGNMENT["points"]  # {check: points}
IMPORT_SECONDS, SECONDS = 45, 20  # five imports at most, and 15 checks: below the ten minutes of Gradescope
MESSAGE_LENGTH = 3000  # characters


# ---- inside of the sandbox: checks
def serve(checks, seed, isolated):
    """Import the files of this folder, and run checks, each in a process of its own. Messages are left in files."""
    signal.alarm(IMPORT_SECONDS)  # ends this process
    leave_message("import", lambda: importlib.import_module("course.stages"))  # it imports all three files
    torch.manual_seed(seed)
    for name in checks:
        signal.alarm(2 * SECONDS)
        pid = os.fork()
        if pid == 0:
            os.setsid()  # a process group of its own
            signal.alarm(SECONDS)
            function = getattr(sys.modules["course.stages"], name)
            leave_message(name, function, " ".join(function.__doc__.split()) + "\n  ")
            os._exit(0)
        os.waitpid(pid, 0)
        with suppress(ProcessLookupError):  # nothing is left
            if isolated:  # the sandbox has no other processes than bwrap's, this one and the check's
                os.kill(-1, signal.SIGKILL)
            os.killpg(pid, signal.SIGKILL)


def leave_message(name, function, equation=""):
    """Call a function, and write to a file "right", or what is wrong, and in which of the student's lines."""
    message = "right"
    try:
        function()
    except BaseException as error:  # exit() would end this process
        message = f"{equation}{type(error).__name__}: {error}"
        frames = traceback.extract_tb(error.__traceback__)
        for frame in [frame for frame in frames if Path(frame.filename).name in handout.WRITTEN][-1:]:
            message += f"\n  in {Path(frame.filename).name}, {frame.name}: {frame.line}"
        if str(error).startswith("stage "):
            message = f"not written yet ({error})"
    Path(f"{name}.message").write_text(message[:MESSAGE_LENGTH])


# ---- outside: a submission
def run_checks(files, checks, seed, isolated):
    """Write {name: bytes} into a folder and run checks there. Returns {check: message}, with one more for "import"."""
    messages = dict.fromkeys(["import", *checks], f"it ended its process, or took more than {SECONDS} seconds")
    with tempfile.TemporaryDirectory(prefix="check_", ignore_cleanup_errors=True) as folder:
        places = {name: Path(folder, f"{name}.message") for name in messages}
        handout.write(folder, files | {path.name: b"" for path in places.values()})
        serving = f"from course.check import serve; serve({[*checks]}, {seed}, {isolated})"
        command = ["bash", handout.ROOT / "course" / "sandbox.sh", "bwrap" if isolated else "", folder, sys.prefix,
                   sys.base_prefix, sys.executable, "-c", serving]
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(command, timeout=IMPORT_SECONDS + SECONDS * len(checks))
        for name, path in places.items():
            if path.is_file() and not path.is_symlink():  # a submission may leave a link or a pipe there
                with path.open(errors="replace") as file:
                    messages[name] = file.read(MESSAGE_LENGTH) or messages[name]
    return messages


def check_files(submission, checks, seed, isolated=False):
    """Check a student's files, {name: bytes}. Returns {check: (points, message)}, and three lists of lines.

    These are notes, the diff of given code, and marks (see handout.find_marks). The handout's file stands in for one
    that cannot be imported.
    """
    given, diff, marks = handout.files(), [], []
    files = given | submission
    notes = [f"there is no {name}" for name in handout.WRITTEN if name not in submission]
    if not submission:
        return {}, notes, [], []
    messages = run_checks(files, checks, seed, isolated)
    if messages["import"] != "right":  # which file is it?
        files = dict(given)
        for name in [name for name in handout.WRITTEN if name in submission]:
            message = run_checks(files | {name: submission[name]}, [], seed, isolated)["import"]
            if message == "right":
                files[name] = submission[name]
            else:
                notes.append(f"{name} cannot be imported, the handout's stands in for it: {message}")
        messages = run_checks(files, checks, seed, isolated)
    reference = json.loads(given[handout.DIGESTS])
    for name in handout.WRITTEN:
        before, _ = handout.split_file(name, given[name])
        after, bodies = handout.split_file(name, files[name])
        marks += handout.find_marks(bodies, reference)
        diff += difflib.unified_diff(before, after, f"given {name}", f"submitted {name}", n=0, lineterm="")
    points = {name: POINTS[name] if messages[name] == "right" else 0 for name in checks}
    return {name: (points[name], messages[name]) for name in checks}, notes, diff, marks


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--only", default="", help="a stage, such as 2 or stage2, or a check, such as stage1_gates")
    only = parser.parse_args(argv).only
    checks = [name for name in POINTS if name.startswith(f"stage{only.removeprefix('stage')}")]
    if not checks:
        raise BadInput(f"--only {only}: choose a stage from 1 to 6, or one of {', '.join(POINTS)}")
    submission = {name: Path(name).read_bytes() for name in handout.WRITTEN if Path(name).is_file()}
    results, notes, diff, _ = check_files(submission, checks, seed=0)
    for name, (points, message) in results.items():
        print(f"{name:<20} {points:>2} of {POINTS[name]:>2}  {message}")
    print(f"{sum(points for points, _ in results.values())} of {sum(POINTS[name] for name in checks)} points")
    print(*notes, *diff[:40], sep="\n")


if __name__ == "__main__":
    run(main)
