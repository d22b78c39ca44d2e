"""The assignment: its handout holds no solution, the reference gets all points, and mistakes lose theirs."""
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from course import checks, grade, handout, mistakes
from course.check import WRITTEN, attempt, first_problem

ROOT = handout.ROOT
ALL = [(stage, check) for stage, stage_checks in checks.CHECKS.items() for check, _ in stage_checks]


def lost_stages(mistake):
    """The stages in which some check is wrong."""
    lib, lost = mistakes.variant(mistake), set()
    for stage, check in ALL:
        if first_problem({5: attempt(check, lib, 5)}, {5: grade.reference(check, 5)}):
            lost.add(stage)
    return lost


def read_grades(folder):
    """{submission: total points} of a grades.csv."""
    rows = [line.split(",") for line in Path(folder, "grades.csv").read_text().splitlines()]
    return {row[0]: int(row[-1]) for row in rows[1:]}


def test_the_handout_holds_no_solution(tmp_path):
    """No file has a line of a solution that says something, and no file is there that is not for students."""
    handout.main(["--out", str(tmp_path / "handout")])
    solutions = set()
    for name in handout.SOURCES:
        text = (ROOT / name).read_text()
        for _, body in handout.bodies(text):
            solutions |= {line.split("  #")[0].strip() for line in text.splitlines()[body]}
    solutions = {line for line in solutions if len(line) > 30}
    assert len(solutions) > 20
    with zipfile.ZipFile(tmp_path / "handout.zip") as archive:
        content = {name.removeprefix("handout/"): archive.read(name) for name in archive.namelist()}
    assert sum(map(len, content.values())) < 2e6
    for name, text in content.items():
        assert (tmp_path / "handout" / name).read_bytes() == text
        assert not [line for line in solutions if line.encode() in text], name
        assert not re.match(r"tests/|results/|experiments/|.*(mistakes|grade)", name)
    found = re.findall(r'NotImplementedError\("stage \d: (\w+)', "".join(content[name].decode() for name in WRITTEN))
    assert sorted(found) == sorted(handout.STAGE_OF)


ONE_A_STAGE = list({mistake.stage: mistake for mistake in mistakes.MISTAKES}.values())


@pytest.mark.parametrize("some", [ONE_A_STAGE, pytest.param(mistakes.MISTAKES, marks=pytest.mark.long)])
def test_a_mistake_costs_points_in_its_own_stage_alone(some):
    assert {mistake.stage for mistake in some} == checks.STAGES.keys()
    for mistake in some:
        assert lost_stages(mistake) == {mistake.stage}, mistake.hint


def test_a_mistake_is_recognised():
    for mistake in mistakes.MISTAKES[:5]:
        found = {seed: attempt(checks.feed_forward, mistakes.variant(mistake), seed) for seed in (5, 6)}
        assert grade.judge(1, checks.feed_forward, found).endswith(mistake.hint)


def test_differences_in_one_line():
    want = {"y": torch.tensor([[1.0, 2.0]])}
    assert checks.difference({"y": None}, want) == "y: expected a Tensor, got a NoneType"
    assert checks.difference({"y": torch.ones(2)}, want) == "y: expected the shape (1, 2), got (2,)"
    wrong = {"y": torch.tensor([[1.0, 3.0]])}
    assert checks.difference(wrong, want) == "y[0, 1]: expected 2, got 3 (1 of 2 numbers differ)"
    assert checks.difference({"y": torch.tensor([[1.0, float("nan")]])}, want) is not None
    assert checks.difference({"y": want["y"].double()}, want) == "y: expected torch.float32, got torch.float64"
    assert checks.difference({"y": want["y"] * (1 + 1e-6)}, want) is None
    assert checks.difference({"dtype": "a"}, {"dtype": "b"}) == "dtype: expected b, got a"


@pytest.mark.long
def test_a_student_sees_the_points_of_what_is_solved(tmp_path):
    handout.main(["--out", str(tmp_path / "handout"), "--solved", "3"])
    command = [sys.executable, "-m", "course.check"]
    done = subprocess.run(command, cwd=tmp_path / "handout", capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout.endswith("\n55 points\n"), done.stdout + done.stderr
    assert set(re.findall(r"NotImplementedError: stage (\d)", done.stdout)) == {"4", "5", "6"}


@pytest.mark.long
def test_gradescopes_zip_grades_the_reference_and_an_empty_handout(tmp_path):
    """100 and 0, graded by what is in the zip and nothing else."""
    grade.main(["--autograder", str(tmp_path / "autograder.zip")])
    with zipfile.ZipFile(tmp_path / "autograder.zip") as archive:
        assert archive.getinfo("run_autograder").external_attr >> 16 & 0o111
        archive.extractall(tmp_path / "source")
    handout.write(tmp_path / "empty", handout.files())
    (tmp_path / "reference").mkdir()
    for name in WRITTEN:
        shutil.copy(ROOT / name, tmp_path / "reference")
    command = [sys.executable, "-m", "course.grade", str(tmp_path / "reference"), str(tmp_path / "empty")]
    subprocess.run([*command, "--out", str(tmp_path / "out")], cwd=tmp_path / "source", check=True, capture_output=True)
    assert read_grades(tmp_path / "out") == {"reference": 100, "empty": 0}
    result = json.loads((tmp_path / "out" / "reference.json").read_text())
    assert result["score"] == 100 == sum(test["max_score"] for test in result["tests"])
    assert "NotImplementedError: stage 2: ff_moe" in (tmp_path / "out" / "empty.json").read_text()


@pytest.mark.long
def test_a_folder_of_submissions(tmp_path, monkeypatch, capsys):
    """One ends the process in stage 1, one has no files, one is no Python; each says why it loses points."""
    monkeypatch.setattr(checks, "CHECKS", {1: checks.CHECKS[1], 3: checks.CHECKS[3]})
    ends = (ROOT / "model.py").read_bytes().replace(b"return F.linear(F.silu", b"exit() or F.linear(F.silu")
    handout.write(tmp_path, {"ends/model.py": ends, "broken/model.py": b"def f(:\n", "none/a.py": b""})
    grade.main([*(str(tmp_path / name) for name in ("ends", "broken", "none")), "--out", str(tmp_path), "--seed", "3"])
    assert read_grades(tmp_path) == {"ends": 20, "broken": 0, "none": 0}
    assert "the process ended early" in (tmp_path / "ends.json").read_text()
    assert "SyntaxError" in (tmp_path / "broken.json").read_text()
    assert "none holds none of model.py" in capsys.readouterr().err


def test_a_submission_that_hangs_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "CHECKS", {1: checks.CHECKS[1]})
    handout.write(tmp_path, {"course/run.py": b"while True: pass\n"})
    assert grade.run_checks(tmp_path, seed=3, seconds=1) == {}


@pytest.mark.long
def test_the_tour_runs_from_top_to_bottom(tmp_path):
    """With few steps on little data; its committed outputs are those of the whole."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    tour = nbformat.read(ROOT / "course" / "tour.ipynb", 4)
    for cell in tour.cells:
        assert cell.cell_type == "markdown" or cell.outputs or "import" in cell.source, "outputs are committed"
        cell.source = re.sub(r'"--steps", \d+', '"--steps", 3', cell.source).replace("300_000", "3_000")
    nbclient.NotebookClient(tour, timeout=300, resources={"metadata": {"path": ROOT / "course"}}).execute()
    outputs = [output for cell in tour.cells if cell.cell_type == "code" for output in cell.outputs]
    assert "the same as the layer: True" in "".join(output.get("text", "") for output in outputs)
