"""The assignment: the handout holds no solution, honest code keeps its points, a mistake loses those of its stage."""
import csv
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from course import check, handout
from model import GPT, GPTConfig

ROOT = handout.ROOT
REFERENCE = {name: (ROOT / name).read_text() for name in handout.WRITTEN}
MODEL = REFERENCE["model.py"]
VARIANTS = json.loads((ROOT / "course" / "variants.json").read_text())  # {file: {name: [[old, new], ...]}}
MISTAKES = json.loads((ROOT / "course" / "mistakes.json").read_text())  # {stage and file: {right: {other: verdict}}}


def submission(**texts):
    """The reference as bytes, perhaps with another text for model, mix or finetune_router; None leaves a file out."""
    files = REFERENCE | {f"{name}.py": text for name, text in texts.items()}
    return {name: text.encode() for name, text in files.items() if text}


SERVE = """
import os, sys
import torch
torch.optim.SGD([torch.zeros(1)])  # this imports much, once for all submissions
for folder in sys.argv[1:]:
    if os.fork() == 0:
        os.chdir(folder)
        sys.path.insert(0, folder)
        from course.check import serve
        serve(%r, %r, False)
        os._exit(0)
    os.wait()
"""


def failures(submissions, stages="123456", seed=7):
    """For each submission the names of the checks that do not pass. All their files can be imported."""
    checks = [name for name in check.POINTS if name[5] in stages]
    with tempfile.TemporaryDirectory() as top:
        folders = [Path(top, str(number)) for number in range(len(submissions))]
        for folder, files in zip(folders, submissions, strict=True):
            handout.write(folder, handout.files() | files)
        subprocess.run([sys.executable, "-c", SERVE % (checks, seed), *folders], check=True)
        return [{name for name in checks if (folder / f"{name}.message").read_text() != "right"} for folder in folders]


@pytest.fixture(scope="module")
def autograder(tmp_path_factory):
    """Gradescope's folder, and its zip beside it: a handout and two scripts."""
    folder = tmp_path_factory.mktemp("made") / "autograder"
    command = ["make", "-s", "-o", ".venv/dev", f"PY={sys.executable}", "autograder", f"AUTOGRADER={folder}"]
    subprocess.run(command, cwd=ROOT, check=True)
    assert zipfile.ZipFile(folder.with_suffix(".zip")).getinfo("run_autograder").external_attr >> 16 & 0o111
    return folder


def test_the_handout_holds_no_solution(autograder):
    solution = set()  # lines
    for name, text in REFERENCE.items():
        given = (autograder / name).read_text()
        solution |= {line.strip().encode() for line in set(text.splitlines()) - set(given.splitlines())}
        assert {*re.findall(r"stage \d: ([\w .]*\w)", given)} == {*handout.WRITTEN[name]}
    solution = [line for line in solution if len(line) > 30 and line not in (ROOT / "train_expert.py").read_bytes()]
    assert len(solution) > 50
    for archive in (autograder.with_suffix(".zip"), autograder / "course" / "given.zip"):
        with zipfile.ZipFile(archive) as opened:
            for name in opened.namelist():
                assert not [line for line in solution if line in opened.read(name)], name
                assert not re.search(r"(tests|results|experiments)/|hf.py|mistakes|variants|example|live_", name)


def test_the_reference_has_all_points_and_a_mistake_costs_some_in_its_own_stage_alone():
    """And the instructor's sheet marks bodies to look at: those of the reference, and one that opens a file."""
    assert sum(check.POINTS.values()) == 100 and failures([submission()], seed=0) == [set()]
    wrong = MODEL.replace("return N * (u * p)", "open(__file__)\n    return (u * p)")
    files = submission(model=wrong.replace("Routing(kept.", "Routing(logits."))
    results, notes, diff, marks = check.check_files(files, check.POINTS, seed=7)
    assert {name for name, (points, _) in results.items() if not points} == {"stage1_gates", "stage4_balance"}
    assert not notes and not diff and "load_balancing_loss uses open" in marks and "mix equals the reference's" in marks
    assert not [mark for mark in marks if "route_topk" in mark]


@pytest.mark.long
@pytest.mark.parametrize("file", VARIANTS)
def test_honest_code_keeps_all_points(file):
    submissions = {}
    for name, changes in VARIANTS[file].items():
        text = REFERENCE[file]
        for old, new in changes:
            assert not old.strip() or text.count(old) == 1
            text = text.replace(old, new) if old else new + text
        submissions[name] = submission() | {file: text.encode()}
    assert failures(submissions.values()) == [set() for _ in submissions], list(submissions)


@pytest.mark.long
@pytest.mark.parametrize("place", MISTAKES)
def test_each_mistake_is_found(place):
    """The checks of its stage fail, whatever the seed. What is right in another way passes."""
    stage, file = place.removeprefix("stage ").split(", ")
    verdicts, submissions = {}, []
    for right, others in MISTAKES[place].items():
        assert REFERENCE[file].count(right) == 1
        for other, verdict in others.items():
            verdicts[right, other] = verdict
            submissions.append(submission() | {file: REFERENCE[file].replace(right, other).encode()})
    for (case, verdict), failed in zip(verdicts.items(), failures(submissions, stage), strict=True):
        assert bool(failed) == (verdict == "wrong"), case


def test_a_sandbox_holds_what_runs_in_it(tmp_path):
    """It reads and writes nothing outside and has no network. What a check started is gone when the check ends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        probes = {  # {check: (what it does, what comes of it)}
            "read": (f"open({str(ROOT / 'model.py')!r})", "FileNotFoundError"),
            "write": (f"open({str(tmp_path / 'file')!r}, 'w')", "FileNotFoundError"),
            "connect": (f"socket.create_connection({server.getsockname()})", "ConnectionRefusedError"),
            "fill": ("bytearray(5 * 2**30)", "MemoryError"),
            "enlarge": ("open('file', 'wb').write(bytes(2**27))", "OSError"),
            "stay": ("subprocess.Popen(['sleep', '60'], start_new_session=True)", "right"),
            "look": ("assert 'sleep' not in [open(p).read()[:5] for p in glob.glob('/proc/[0-9]*/cmdline')]", "right")}
        stages = "".join(f"def {name}():\n    '-'\n    {code}\n" for name, (code, _) in probes.items())
        files = handout.files() | {"course/stages.py": f"import glob, socket, subprocess\n{stages}".encode()}
        found = check.run_checks(files, list(probes), 0, isolated=True)
    if found.pop("import") != "right":
        pytest.skip("bwrap does not work here")
    for name, message in found.items():
        assert message.strip("- \n").startswith(probes[name][1]), (name, message)


@pytest.mark.long
def test_a_class_of_odd_submissions(autograder, tmp_path):
    """Each is a row, by Gradescope's zip alone."""
    other = MODEL.replace("\n", "\r\n").replace("    ", "\t").replace("FACTOR = 1.5", "FACTOR = 3 / 2")
    broken = MODEL.replace("N * (u", "max(iter(int, 1)) * (u").replace("noise.G)", "noise.H)")  # one hangs
    everything, nothing = "30 20 10 10 20 10", "0 0 0 0 0 0"
    odd = {  # {folder: (files, points of the stages, lines that changed outside of the bodies, a note)}
        "deep/a/b": (submission(model=other), everything, 2, ""),
        "whole/handout": (handout.files() | submission(), everything, 0, ""),
        "renamed": ({"my_model (1).py": MODEL.encode()} | submission(model=None), everything, 0, "my_model (1).py"),
        "part": (submission(model=broken, mix=None), "30 0 10 0 14 0", 0, "no mix.py"),
        "utf-16": (submission() | {"model.py": MODEL.encode("utf-16")}, "0 20 6 0 6 10", 0, "model.py cannot be"),
        "exits": (submission(mix="1 / 0\n", finetune_router="exit()\n"), "30 0 4 10 14 0", 0, "ZeroDivisionError"),
        "bare": ({}, nothing, 0, "no model.py")}
    folder = tmp_path / "in"
    for name, (files, *_) in odd.items():
        handout.write(folder / name, files or {"notes.txt": b""})
    (folder / "bare" / "model.py").symlink_to(ROOT / "model.py")
    shutil.make_archive(folder / "archive", "zip", folder / "deep")
    (folder / "broken.zip").write_bytes(b"PK")
    odd |= {"archive.zip": odd["deep/a/b"], "broken.zip": odd["bare"]}
    command = [sys.executable, "-m", "course.grade", f"--out={tmp_path}", *sorted(folder.iterdir())]
    subprocess.run(command, cwd=autograder, check=True)
    texts = {path.stem: path.read_text() for path in tmp_path.glob("*.*")}
    rows = {name: row for name, *row in csv.reader(texts["grades"].splitlines(keepends=True))}
    assert len(rows) == len(odd) + 1
    for name, (_, points, changed, note) in odd.items():
        row = rows[name.split("/")[0]]  # points of six stages, their sum, changed, seed, notes
        assert row[:6] == points.split() and row[7] == str(changed) and note in row[9], row
    assert "took more than 20 s" in texts["part"] and "no attribute 'H'\\n  in model.py, route_sample" in texts["part"]
    assert "+CAPACITY_FACTOR = 3 / 2" in texts["deep"] and "stage4_balance" in texts["class"]


def test_the_accounting_is_that_of_the_model():
    for name, n_expert in (("ACCOUNTING.md", 0), ("README.md", 4)):
        model = GPT(GPTConfig(vocab_size=1024, n_embd=64, d_ff=256, tie_weights=True, n_expert=n_expert))
        for number in (model.num_params(), model.num_params(active=True), model.flops_per_token()):
            assert f"{number:,}" in (ROOT / "course" / name).read_text()


@pytest.mark.long
def test_the_tour_runs_from_top_to_bottom():
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    tour = nbformat.read(ROOT / "course" / "tour.ipynb", 4)
    for cell in tour.cells:
        assert cell.cell_type == "markdown" or cell.outputs or "import" in cell.source, "outputs are committed"
        cell.source = re.sub(r"STEPS = \d+", "STEPS = 2", cell.source)
    nbclient.NotebookClient(tour, timeout=300, resources={"metadata": {"path": ROOT / "course"}}).execute()
    text = "".join(output.get("text", "") for cell in tour.cells for output in cell.get("outputs", ()))
    assert "True" in text and "False" not in text  # what is built on the page equals model.py and mix.py
