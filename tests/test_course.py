"""The assignment: its handout holds no solution, honest code keeps its points, mistakes lose theirs."""
import ast
import csv
import json
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from cli import BadInput
from course import check, grade, handout
from model import GPT, GPTConfig

ROOT, WRITTEN = handout.ROOT, handout.WRITTEN
REFERENCE = {name: (ROOT / name).read_text() for name in WRITTEN}
GIVEN = {name: content.decode() for name, content in handout.files().items() if name in WRITTEN}
VARIANTS = json.loads((ROOT / "course" / "variants.json").read_text())  # of model.py: {name: [[old, new], ...]}
MISTAKES = []  # (stage, file, right code, other code, "wrong" or "right")
for place, changes in json.loads((ROOT / "course" / "mistakes.json").read_text()).items():
    for right, others in changes.items():
        stage, file = place.removeprefix("stage ").split(", ")
        MISTAKES += [(stage, file, right, other, verdict) for other, verdict in others.items()]


def submission(model=REFERENCE["model.py"], **texts):
    """The reference as bytes, perhaps with another model.py, mix or finetune_router."""
    texts = REFERENCE | {"model.py": model} | {f"{name}.py": text for name, text in texts.items()}
    return {name: text.encode() for name, text in texts.items() if text}


def make(target, folder):
    """Make the handout or the autograder in another folder than out/."""
    places = f"HANDOUT={folder}/handout", f"AUTOGRADER={folder}/autograder"
    subprocess.run(["make", "-s", "-o", ".venv/dev", f"PY={sys.executable}", target, *places], cwd=ROOT, check=True)


def points(files, stages="123456", seed=7):
    """{stage: points}, the messages of checks that do not pass, the notes, and the diff."""
    checks = [name for name in check.POINTS if name[5] in stages]
    results, notes, diff = check.check_files(files, checks, seed)
    sums = {stage: sum(results[name][0] for name in checks if name[5] == stage) for stage in stages}
    return sums, {name: message for name, (_, message) in results.items() if message != "right"}, notes, diff


def plant(mistake):
    """The messages of the checks of a mistake's stage."""
    stage, file, right, other, _ = mistake
    assert REFERENCE[file].count(right) == 1
    text = REFERENCE[file].replace(right, other)
    return points(submission(**{file.removesuffix(".py"): text}), stage)[1]


def solution_lines():
    """Long lines of what students write."""
    loop = REFERENCE["finetune_router.py"].split("        for xs, ys in zip(")[1]
    lines = loop.split("        done = step + 1")[0].splitlines()
    for name, text in REFERENCE.items():
        for function, f in handout.find_functions(ast.parse(text)).items():
            if function in WRITTEN[name] and function != "the loop":
                lines += text.splitlines()[f.body[0].end_lineno:f.end_lineno]
    given = (ROOT / "train_expert.py").read_text() + REFERENCE["mix.py"].split("def expert_names")[1]
    lines = {line.split("  #")[0].strip() for line in lines}
    return {line.encode() for line in lines if len(line) > 30 and line not in given}


def test_the_handout_and_the_autograder_hold_no_solution(tmp_path):
    make("handout", tmp_path)
    make("autograder", tmp_path)
    assert len(solution_lines()) > 40
    for archive in ("handout.zip", "autograder.zip", "handout/course/given.zip"):
        with zipfile.ZipFile(tmp_path / archive) as opened:
            for name in opened.namelist():
                text = opened.read(name)
                assert not [line for line in solution_lines() if line in text], (archive, name)
                assert not re.search(r"(tests|results|experiments)/|hf.py|mistakes|variants|example|live_", name)
    with zipfile.ZipFile(tmp_path / "autograder.zip") as opened:
        assert opened.getinfo("run_autograder").external_attr >> 16 & 0o111
    blanks = re.findall(r"stage \d: ([\w .]*\w)", "".join(GIVEN.values()))
    assert set(blanks) == set().union(*WRITTEN.values())


def test_what_else_was_changed_is_shown():
    """Bodies, comments and layout do not count. A helper, a changed given line and a decorator do."""
    model, given = REFERENCE["model.py"], GIVEN["model.py"].encode()
    assert not handout.changed_lines("model.py", given, model.replace("(u * p).sum()", "0").encode())
    assert not handout.changed_lines("model.py", given, model.replace("    ", "\t").replace("\n", "\r\n").encode())
    other = model.replace("FACTOR = 1.5", "FACTOR = 9.0").replace("def ff_moe", "@print\ndef ff_moe") + "\nN = 1\n"
    diff = handout.changed_lines("model.py", given, other.encode())
    assert [line for line in diff[2:] if line[0] in "+-"] == \
        ["-CAPACITY_FACTOR = 1.5", "+CAPACITY_FACTOR = 9.0", "+@print", "+N = 1"]


def test_the_reference_has_all_points_and_a_mistake_costs_some_in_its_own_stage_alone():
    assert sum(check.POINTS.values()) == 100
    sums, messages, notes, diff = points(submission(), seed=0)
    assert sum(sums.values()) == 100 and not (messages or notes or diff)
    wrong = REFERENCE["model.py"].replace("N * (u * p)", "(u * p)").replace("Routing(kept.", "Routing(logits.")
    assert points(submission(wrong))[0] == {"1": 22, "2": 20, "3": 10, "4": 0, "5": 20, "6": 10}


@pytest.mark.long
@pytest.mark.parametrize("name", VARIANTS)
def test_honest_code_keeps_all_points(name):
    model = REFERENCE["model.py"]
    for old, new in VARIANTS[name]:
        assert not old.strip() or model.count(old) == 1
        model = model.replace(old, new) if old else new + model
    sums, messages, _, _ = points(submission(model))
    assert sum(sums.values()) == 100, messages


@pytest.mark.long
def test_each_mistake_is_found():
    """The checks of its stage fail, whatever the seed. What is right in another way passes."""
    with ThreadPoolExecutor(2) as pool:  # each waits for a process of its own
        for mistake, messages in zip(MISTAKES, pool.map(plant, MISTAKES), strict=True):
            assert bool(messages) == (mistake[4] == "wrong"), mistake


def test_a_sandbox_holds_what_runs_in_it(tmp_path):
    """It reads and writes nothing outside and has no network. What a check started is gone when the check ends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        files = handout.files() | {"course/stages.py": f"""import os, socket, subprocess, sys
def read(): "-"; open({str(ROOT / "model.py")!r})
def write(): "-"; open({str(tmp_path / "file")!r}, "w")
def write_shared(): "-"; open("/dev/shm/file", "w")
def connect(): "-"; socket.create_connection({server.getsockname()})
def fill(): "-"; bytearray(5 * 2**30)
def enlarge(): "-"; open("file", "wb").write(bytes(2**27))
def stay(): "-"; subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
def look(): "-"; assert b"sleep" not in b"".join(open(f"/proc/{{n}}/cmdline", "rb").read() for n in range(2, 99)
                                                 if os.path.exists(f"/proc/{{n}}"))
def write_here(): "-"; open("file", "w").write("its own folder")
""".encode()}
        names = re.findall(r"def (\w+)", files["course/stages.py"].decode())
        found = check.run_checks(files, names, 0, isolated=True)
    if found["import"] != "right":
        pytest.skip("bwrap does not work here")
    errors = {name: message.strip("- \n").split(":")[0] for name, message in found.items()}
    assert errors == dict.fromkeys(("import", "stay", "look", "write_here"), "right") | {
        "read": "FileNotFoundError", "write": "FileNotFoundError", "write_shared": "OSError",
        "connect": "ConnectionRefusedError", "fill": "MemoryError", "enlarge": "OSError"}


@pytest.mark.long
def test_a_class_of_odd_submissions(tmp_path):
    """Each is a row, by Gradescope's zip alone."""
    make("autograder", tmp_path)
    model, all_points, none = REFERENCE["model.py"], "30 20 10 10 20 10", "0 0 0 0 0 0"
    helpers = "".join(f"\ndef f{i}(x):\n    return x\n" for i in range(4000))
    terms = " + ".join(500 * ["(u * p).sum() / 500"])
    without_mix = submission(model.replace("noise.G)", "noise.H)"))
    del without_mix["mix.py"]
    odd = {  # {folder: (files, points of the stages, lines of given code that changed, a note)}
        "deep/a/b": (submission(model.replace("\n", "\r\n")), all_points, 0, ""),
        "whole/handout": (handout.files() | submission(), all_points, 0, ""),
        "renamed": ({"my_model (1).py": model.encode()} | submission(None), all_points, 0, "my_model (1).py"),
        "x" * 252: (submission(), all_points, 0, ""),
        "helpers": (submission(model + helpers), all_points, 8000, ""),
        "sum": (submission(model.replace("(u * p).sum()", terms)), all_points, 0, ""),
        "hangs": (submission(model.replace("N * (u", "N * max(iter(int, 1)) * (u")), "30 20 10 0 20 10", 0, ""),
        "part": (without_mix, "30 0 10 10 14 0", 0, "no mix.py"),
        "syntax": (submission("def f(:\n" + model), "0 20 6 0 6 10", 0, "model.py cannot be imported"),
        "utf-16": (submission() | {"model.py": model.encode("utf-16")}, "0 20 6 0 6 10", 0, "null bytes"),
        "exits": (submission(mix="1 / 0\n", finetune_router="exit()\n"), "30 0 4 10 14 0", 0, "ZeroDivisionError"),
        "bare": ({"model.py": GIVEN["model.py"].encode()}, none, 0, "no finetune_router.py")}
    for name, (files, *_) in odd.items():
        handout.write(tmp_path / "in" / name, files)
    shutil.make_archive(tmp_path / "in" / "zip", "zip", tmp_path / "in" / "deep")
    (tmp_path / "in" / "broken.zip").write_bytes((tmp_path / "in" / "zip.zip").read_bytes()[:-99])
    (tmp_path / "in" / "link").mkdir()
    (tmp_path / "in" / "link" / "model.py").symlink_to(ROOT / "model.py")
    with zipfile.ZipFile(tmp_path / "in" / "thousand.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(1000):
            archive.writestr(f"{i}/model.py", bytes(10**6))
    odd |= {"zip": odd["deep/a/b"], "broken": (0, none, 0, "no model.py"), "link": (0, none, 0, "no model.py"),
            "thousand": (0, none, 0, "one of 1000")}

    command = [sys.executable, "-m", "course.grade", "--out=../out", *sorted((tmp_path / "in").iterdir())]
    subprocess.run(command, cwd=tmp_path / "autograder", check=True)
    with open(tmp_path / "out" / "grades.csv", newline="") as file:
        rows = {row["submission"]: row for row in csv.DictReader(file)}
    assert len(rows) == len(odd)
    for name, (_, stages, changed, note) in odd.items():
        row = rows[name.split("/")[0][:200]]
        assert (" ".join(row[f"stage {stage}"] for stage in "123456"), row["changed"]) == (stages, str(changed)), name
        assert note in row["notes"]
    texts = {path.stem: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert texts["bare"].count("not written yet") == len(check.POINTS) and "did not end in 25 s" in texts["hangs"]
    assert "no attribute 'H'\\n  in model.py, route_sample" in texts["part"] and "stage4_balance" in texts["class"]
    with pytest.raises(BadInput, match="there is no typo"):
        grade.main(["typo"])


def test_the_accounting_is_that_of_the_model():
    shape = {"vocab_size": 1024, "n_embd": 64, "d_ff": 256, "tie_weights": True}
    for name, n_expert in (("ACCOUNTING.md", 0), ("README.md", 4)):
        model, text = GPT(GPTConfig(**shape, n_expert=n_expert)), (ROOT / "course" / name).read_text()
        for number in (model.num_params(), model.num_params(active=True), model.flops_per_token()):
            assert f"{number:,}" in text


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
