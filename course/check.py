"""Run the checks of the assignment: `make check`, or `make check STAGE=2`.

What you wrote is put into a fresh handout (splice.py) and checked there, as the grader does. Each check runs in a
process of its own, with limits on time and memory.
"""
import inspect
import json
import os
import re
import resource
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from pathlib import Path

from cli import BadInput, make_parser, positive_int, run
from course import splice

HERE = Path(__file__).parent
GIVEN = HERE / "given.zip"  # the handout as it was given; only a handout has this file
POINTS = {}  # {check: its points}
for worth, check_name in re.findall(r"@points\((\d+)\)\ndef (\w+)", (HERE / "test_stages.py").read_text()):
    POINTS[check_name] = int(worth)
MEMORY = 4 * 2**30  # bytes that a check may use
MEAN, LOSS = (68, 82), (0.46, 0.48)  # of make demo: ASSIGNMENT.md names these, too
NO_REPORT = "the checks ended without a report"


def given_files():
    """All files of a fresh handout, {name: bytes}."""
    if GIVEN.exists():
        with zipfile.ZipFile(GIVEN) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    from course import handout
    return handout.files()


def write(folder, files):
    """Write {name: bytes} into a folder."""
    for name, content in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def submit(submission, folder):
    """Write a fresh handout with what a student wrote, {name: bytes}. Returns (what was not taken, {file: diff})."""
    files, notes, diffs = given_files(), [], {}
    for name in splice.WRITTEN:
        if name in submission:
            text, some, diffs[name] = splice.splice(name, files[name].decode(), splice.decode(submission[name]))
            files[name] = text.encode()
            notes += some
        else:
            notes.append(f"there is no {name}")
    write(folder, files)
    return notes, diffs


def run_checks(folder, checks, seed, seconds):
    """{check: (points, message)} of the checks in a handout. Without a whole report nothing has points."""
    job = {"checks": list(checks), "seed": seed, "seconds": seconds}
    environment = {"PATH": os.environ["PATH"], "HOME": folder, "TMPDIR": folder, "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen([sys.executable, "-m", "course.check", "--serve"], cwd=folder, env=environment, text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              start_new_session=True)
    try:
        output, errors = server.communicate(json.dumps(job), timeout=20 * seconds)
        report = json.loads(output)
    except subprocess.TimeoutExpired:
        report, errors = [], "out of time"
    except ValueError:
        report = []
    finally:
        stop(server.pid)
        server.wait()
    if len(report) != len(job["checks"]):
        last = (errors.strip().splitlines() or ["it was killed"])[-1]
        return {check: (0, f"{NO_REPORT}: {last}") for check in checks}
    hints = json.loads((HERE / "hints.json").read_text())
    found = {}
    for check, (passed, message) in zip(checks, report, strict=True):
        if message in hints:
            message += f"\n  perhaps: {hints[message]}"
        found[check] = (POINTS[check] if passed else 0, message)
    return found


def serve():
    """Run checks in this folder, and print their report. What students wrote runs in children, which cannot print."""
    job = json.load(sys.stdin)
    report = os.dup(1)
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    from course import test_stages
    test_stages.SEED = job["seed"]
    results = []
    for check in job["checks"]:
        results.append(in_child(getattr(test_stages, check), job["seconds"], closing=report))
    os.write(report, json.dumps(results).encode())


def in_child(check, seconds, closing=None):
    """Call a check in a process of its own: (whether it passed, its message).

    `seconds` of computing are allowed, so that a busy machine costs nobody points, and four times as many of waiting.
    """
    token = secrets.token_hex()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        if closing is not None:
            os.close(closing)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        message = attempt(check)
        os.write(writing, json.dumps([token, message is None, (message or "right")[:2000]]).encode())
        os._exit(0)
    os.close(writing)
    end, content = time.monotonic() + 4 * seconds, b""
    while select.select([reading], [], [], max(0, end - time.monotonic()))[0]:
        part = os.read(reading, 65536)
        content += part
        if not part:
            break
    else:
        content = b""
    late = time.monotonic() >= end
    status = 0
    if not late:  # it has closed its pipe, so it ends
        status = os.waitpid(child, 0)[1]
    stop(child)
    if late:
        os.waitpid(child, 0)
    os.close(reading)
    late = late or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU)
    if late:
        return False, f"did not end in {seconds} seconds"
    try:
        key, passed, message = json.loads(content)
    except ValueError:
        key = None
    if status or key != token:
        return False, "the process of this check ended before the check did (out of memory?)"
    return passed, message


def stop(process):
    """Kill a process and what it has started."""
    try:
        os.killpg(process, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def attempt(check):
    """Call a check: None if it passes, or its message."""
    import pytest
    with tempfile.TemporaryDirectory() as folder:
        fixtures = {"tmp_path": Path(folder), "monkeypatch": pytest.MonkeyPatch()}
        try:
            check(**{name: fixtures[name] for name in inspect.signature(check).parameters})
        except pytest.fail.Exception as failure:
            return str(failure).rstrip()
        except NotImplementedError as error:
            return f"not written yet ({error})"
        except BaseException as error:  # exit() would end this process with the check
            message = f"{type(error).__name__}: {error}"
            for frame in reversed(traceback.extract_tb(error.__traceback__)):
                if Path(frame.filename).name in splice.WRITTEN:
                    return f"{message}\n  in {Path(frame.filename).name}, {frame.name}: {frame.line}"
            return message
    return None


def run_demo(folder, data):
    """Run `make demo` in a handout, on prepared data. Says whether the finetuned MoE's scores are in range."""
    write(folder, {f"data/start/{path.name}": path.read_bytes() for path in Path("data/start").glob("*.pt")})
    data = Path(data).resolve()
    command = ["make", "-o", ".venv/ready", "-o", f"{data}/ready", "demo", f"PY={sys.executable}", f"DATA={data}"]
    done = subprocess.run(command, cwd=folder, env=os.environ | {"TQDM_DISABLE": "1"}, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True)
    if done.returncode:
        return f"make demo failed: {' '.join(done.stderr.strip().splitlines()[-2:])}"
    scores = json.loads(Path(folder, "out/demo/results.json").read_text())["models"]["btx"]
    domains = [name for name in scores["accuracy"] if name != "switch"]
    mean = 100 * sum(scores["accuracy"][name] for name in domains) / len(domains)
    loss = sum(scores["loss"][name] for name in domains) / len(domains)
    verdict = "in range"
    if not (MEAN[0] <= mean <= MEAN[1] and LOSS[0] <= loss <= LOSS[1]):
        verdict = f"expected a mean of {MEAN[0]} to {MEAN[1]} and a loss of {LOSS[0]} to {LOSS[1]}"
    return f"make demo: mean {mean:.1f}, loss {loss:.3f}: {verdict}"


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--stage", default="", help="run the checks of this stage alone: 2, or stage2")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (default: 0)")
    parser.add_argument("--seconds", type=positive_int, default=60, help="time for each check (default: 60)")
    parser.add_argument("--demo", metavar="DATA", help="run make demo instead, on this folder of prepared data")
    parser.add_argument("--serve", action="store_true", help="run the checks that are named on stdin")
    args = parser.parse_args(argv)
    if args.serve:
        return serve()
    checks = [name for name in POINTS if name.startswith(f"test_stage{args.stage.removeprefix('stage')}")]
    if not checks:
        raise BadInput(f"--stage {args.stage}: there are stages 1 to 6")
    submission = {name: Path(name).read_bytes() for name in splice.WRITTEN if Path(name).is_file()}
    with tempfile.TemporaryDirectory(prefix="check_") as folder:
        notes, diffs = submit(submission, folder)
        if args.demo:
            print(run_demo(folder, args.demo))
        else:
            print_results(run_checks(folder, checks, args.seed, args.seconds))
    for name, lines in diffs.items():
        if lines:
            print(f"\n{name}: your changes of given code have no effect here:")
            print("\n".join(lines[:20]))
    for note in notes:
        print(note)


def print_results(results):
    """One line for each check, with the message of what is wrong; and the points."""
    for name, (points, message) in results.items():
        text = "" if points else message.replace("\n", "\n" + 4 * " ")
        print(f"{name.removeprefix('test_'):<20} {points:>2} of {POINTS[name]:>2}  {text}".rstrip())
    print(f"{sum(points for points, _ in results.values())} of {sum(POINTS[name] for name in results)} points")


if __name__ == "__main__":
    run(main)
