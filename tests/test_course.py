"""The assignment: its handout holds no solution, the reference gets all points, and mistakes lose theirs."""
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cli import digest
from course import grade, handout, mistakes, test_stages

ROOT = handout.ROOT
ONE_A_STAGE = list({mistake.stage: mistake for mistake in mistakes.MISTAKES}.values())


def read_grades(folder):
    """{submission: its row} of grades.csv."""
    rows = [line.split(",") for line in Path(folder, "grades.csv").read_text().splitlines()]
    return {row[0]: row[1:] for row in rows[1:]}


def solution_lines():
    """The lines that students write which say something."""
    lines = set()
    for name in ("model.py", "mix.py", "finetune_router.py"):
        text = (ROOT / name).read_text()
        rows = text.splitlines()
        for function, f in handout.functions(text).items():
            if function in handout.WRITTEN[name]:
                lines |= {row.split("  #")[0].strip() for row in rows[f.body[0].end_lineno:f.end_lineno]}
    text = (ROOT / "finetune_router.py").read_text()
    loop = text[text.index("        for xs, ys in zip("):text.index("        done = step + 1")]
    lines |= {row.split("  #")[0].strip() for row in loop.splitlines()}
    given = (ROOT / "train_expert.py").read_text()  # the loop of stage 1 is the students' model for theirs
    return {line for line in lines if len(line) > 31 and line not in given}


def test_the_handout_holds_no_solution(tmp_path):
    """No file has a line of a solution that says something, and no file is there that is not for students."""
    handout.main(["--out", str(tmp_path / "handout")])
    with zipfile.ZipFile(tmp_path / "handout.zip") as archive:
        content = {name.removeprefix("handout/"): archive.read(name) for name in archive.namelist() if name[-1] != "/"}
    assert sum(map(len, content.values())) < 8e6  # Gradescope and mail take more
    solutions = solution_lines() | {"--init $< --data $(EXPERT_DATA)"}
    assert len(solutions) > 40
    for name, text in content.items():
        assert (tmp_path / "handout" / name).read_bytes() == text
        assert not [line for line in solutions if line.encode() in text], name
        assert not re.match(r"tests/|results/|experiments/|.*(mistakes|grade|example|live)", name)
    assert "live" not in content["evaluate.py"].decode()
    text = "".join(content[name].decode() for name in handout.WRITTEN)
    names = [name for stages in handout.WRITTEN.values() for name in stages]
    assert sorted(re.findall(r"stage \d: ([\w .]*\w)", text)) == sorted(names)


def test_the_reference_has_all_points():
    checks = [check for name, check in vars(test_stages).items() if name.startswith("test_stage")]
    assert sum(check.pytestmark[0].args[0] for check in checks) == 100
    assert mistakes.messages() == {}


def test_a_mistake_costs_points_in_its_own_stage_alone():
    assert {mistake.stage for mistake in ONE_A_STAGE} == set(grade.STAGES)
    for mistake in ONE_A_STAGE:
        assert {int(check[10]) for check in mistakes.messages(mistake)} == {mistake.stage}, mistake.hint


@pytest.mark.long
def test_each_mistake_is_found_and_recognised():
    """The checks of its stage fail, with its hint."""
    hints = json.loads(test_stages.HINTS.read_text())
    for mistake in mistakes.MISTAKES:
        found = mistakes.messages(mistake, [mistake.stage])
        assert found, mistake.hint
        shown = [hints.get(digest(message.encode()), "") for message in found.values()]
        assert any(mistake.hint in hint for hint in shown), (mistake.hint, "run: make hints")


@pytest.mark.long
def test_grades_of_the_reference_a_mistake_and_a_bare_handout(tmp_path):
    """By Gradescope's zip and nothing else. A second call adds its row to the sheet."""
    grade.main(["--autograder", str(tmp_path / "autograder.zip")])
    with zipfile.ZipFile(tmp_path / "autograder.zip") as archive:
        assert archive.getinfo("run_autograder").external_attr >> 16 & 0o111
        archive.extractall(tmp_path / "source")
    handout.write(tmp_path / "bare", handout.files())
    deep = tmp_path / "reference" / "a" / "b"
    deep.mkdir(parents=True)
    for name in handout.WRITTEN:
        shutil.copy(ROOT / name, deep)
    shutil.copytree(deep, tmp_path / "hangs")
    hangs = (ROOT / "model.py").read_text().replace("return N * (u", "while N:\n        p = u\n    return N * (u")
    (tmp_path / "hangs" / "model.py").write_text(hangs)
    for names in (["reference", "hangs"], ["bare"]):
        command = [sys.executable, "-m", "course.grade", *(str(tmp_path / name) for name in names)]
        command += ["--seed", "7", "--seconds", "10", "--out", str(tmp_path / "out")]
        subprocess.run(command, cwd=tmp_path / "source", check=True, capture_output=True)
        rows = read_grades(tmp_path / "out")
    assert rows == {"reference": ["30", "20", "15", "10", "15", "10", "100", "7"],
                    "hangs": ["30", "20", "15", "0", "15", "10", "90", "7"], "bare": [*"0000000", "7"]}
    result = json.loads((tmp_path / "out" / "bare.json").read_text())
    assert sum(test["max_score"] for test in result["tests"]) == 100
    assert "NotImplementedError: stage 1: ff_moe" in json.dumps(result)
    assert "did not end in 10 seconds" in (tmp_path / "out" / "hangs.json").read_text()


@pytest.mark.long
def test_the_tour_runs_from_top_to_bottom():
    """With few steps; its committed outputs are those of the whole."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    tour = nbformat.read(ROOT / "course" / "tour.ipynb", 4)
    for cell in tour.cells:
        assert cell.cell_type == "markdown" or cell.outputs or "import" in cell.source, "outputs are committed"
        cell.source = re.sub(r"STEPS = \d+", "STEPS = 2", cell.source)
    nbclient.NotebookClient(tour, timeout=300, resources={"metadata": {"path": ROOT / "course"}}).execute()
    outputs = [output for cell in tour.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "".join(output.get("text", "") for output in outputs)
    assert "True" in text and "False" not in text  # what is built on the page equals model.py and mix.py
