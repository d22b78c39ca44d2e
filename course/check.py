"""Run the checks of the assignment: `make check`, or `make check STAGE=2`.

What you wrote is put into a fresh handout (splice.py) and checked there (stages.py), as the grader does. Each check
runs in a process of its own, with limits on time and memory.
"""
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import traceback
import zipfile
from pathlib import Path

import torch

from cli import BadInput, make_parser, run
from course import splice

HERE = Path(__file__).parent
GIVEN = HERE / "given.zip"  # the handout as it was given; only a handout has this file
POINTS = {"stage1_gates": 8, "stage1_sum": 10, "stage1_work": 4, "stage1_layer": 8,
          "stage2_average": 6, "stage2_mix": 14,
          "stage3_load": 4, "stage3_step": 6,
          "stage4_balance": 10,
          "stage5_switch": 8, "stage5_sample": 6, "stage5_temperature": 2, "stage5_noise": 4,
          "stage6_split": 5, "stage6_blend": 5}
MEMORY, SECONDS = 4 * 2**30, 60  # what a check may use


def given_files():
    """The files of a fresh handout, {name: bytes}: from given.zip in a handout, made anew in the repository."""
    if GIVEN.exists():
        with zipfile.ZipFile(GIVEN) as archive:
            return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    from course import handout
    return handout.files()


def write(folder, files):
    """Write {name: bytes} into a folder."""
    for name, content in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def submit(submission, folder):
    """Write a fresh handout with what a student wrote, {name: bytes}. Returns notes on what of it has no effect."""
    files, notes = given_files(), []
    for name in splice.WRITTEN:
        if name not in submission:
            notes.append(f"there is no {name}")
            continue
        text, some = splice.splice(name, files[name].decode(), splice.decode(submission[name]))
        files[name] = text.encode()
        notes += some
    write(folder, files)
    return notes


def run_checks(folder, checks, seed):
    """{check: (points, message)} of the checks in a handout. Without a whole report nothing has points."""
    command = [sys.executable, "-m", "course.check", "--serve", *checks, f"--seed={seed}"]
    environment = {"PATH": os.environ["PATH"], "HOME": folder, "TMPDIR": folder, "OMP_NUM_THREADS": "1"}
    server = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, input="")
    messages = dict.fromkeys(checks, f"the checks ended without a report: {server.stderr.strip()[-300:]}")
    if server.returncode == 0:
        messages = dict(json.loads(server.stdout))
    hints, found = json.loads((HERE / "hints.json").read_text()), {}
    for check, message in messages.items():
        if message in hints:
            message += f"\n  perhaps: {hints[message]}"
        found[check] = (POINTS[check] if message == "right" else 0, message)
    return found


def in_child(check):
    """What `report` says of a check in a process of its own."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    child = fork.Process(target=report, args=(check, sender))
    child.start()
    sender.close()
    message = f"did not end in {SECONDS} seconds"
    if receiver.poll(SECONDS):
        try:
            message = receiver.recv_bytes().decode()  # bytes: a pickle could run code here
        except EOFError:
            message = "the process of this check ended before the check did (out of memory?)"
    child.kill()
    child.join()
    return message


def report(check, sender):
    """Call a check and send "right", or what is not right. What it prints goes nowhere."""
    from course import stages
    function = getattr(stages, check)
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    message = "right"
    try:
        function()
    except stages.Wrong as wrong:
        message = f"{' '.join(function.__doc__.split())}\n  {wrong}"
    except NotImplementedError as error:
        message = f"not written yet ({error})"
    except BaseException as error:  # exit() would end this process with the check
        message = f"{type(error).__name__}: {error}"
        frames = traceback.extract_tb(error.__traceback__)
        theirs = [frame for frame in frames if Path(frame.filename).name in splice.WRITTEN]
        if theirs:
            message += f"\n  in {Path(theirs[-1].filename).name}, {theirs[-1].name}: {theirs[-1].line}"
    sender.send_bytes(message[:3000].encode())


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--stage", default="", help="run the checks of this stage alone: 2, or stage2")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (default: 0)")
    parser.add_argument("--write", metavar="FOLDER", help="only write the handout with what you wrote")
    parser.add_argument("--serve", nargs="+", metavar="CHECK", help="run these checks in this folder, as it is")
    args = parser.parse_args(argv)
    if args.serve:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (2 * SECONDS, 2 * SECONDS))  # of this process; in_child ends a check
        from course import stages  # noqa: F401 - once, and not again in each process
        torch.manual_seed(args.seed)
        return print(json.dumps([(check, in_child(check)) for check in args.serve]))
    checks = [name for name in POINTS if name.startswith(f"stage{args.stage.removeprefix('stage')}")]
    if not checks:
        raise BadInput(f"--stage {args.stage}: there are stages 1 to 6")
    submission = {name: Path(name).read_bytes() for name in splice.WRITTEN if Path(name).is_file()}
    if args.write:
        return print(*submit(submission, args.write), sep="\n")
    with tempfile.TemporaryDirectory(prefix="check_") as folder:
        notes = submit(submission, folder)
        results = run_checks(folder, checks, args.seed)
    for name, (points, message) in results.items():
        print(f"{name:<20} {points:>2} of {POINTS[name]:>2}  {'' if points else message}".rstrip())
    print(f"{sum(points for points, _ in results.values())} of {sum(POINTS[name] for name in results)} points")
    print(*notes, sep="\n")


if __name__ == "__main__":
    run(main)
