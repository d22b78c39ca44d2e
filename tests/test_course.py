"""The assignment: its handout holds no solution, the reference gets all points, and mistakes lose theirs."""
import json
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from cli import digest
from course import grade, handout, mistakes, test_stages
from course.conftest import problem_of

ROOT = handout.ROOT
CHEATS = {  # what a submission adds to its model.py
    "imports": "from course.test_stages import load_of as expert_load",
    "patches": "def patch(t):\n    t.equal = lambda *a: True\npatch(torch)",
    "replaces": "from cli import sys\nsys.modules['course.test_stages'].same = print",
    "frames": "f = Exception().with_traceback(None).tb_frame", "leaves": "import os\nos.execlp('true', 'true')",
    "matches": "def f(x):\n    match x:\n        case object(f_back=y):\n            return y",
    "skips": "f = torch.testing._internal.common_utils.unittest.SkipTest", "exits": "import atexit", "syntax": "f(:"}


def solution_lines():
    """The lines that students write which say something."""
    lines = set()
    for name in ("model.py", "mix.py", "finetune_router.py"):
        text = (ROOT / name).read_text()
        rows = text.splitlines()
        for function, f in handout.functions(text).items():
            if function in handout.WRITTEN[name]:
                lines |= {row.split("  #")[0].strip() for row in rows[f.body[0].end_lineno:f.end_lineno]}
    loop = text[text.index("        for xs, ys in zip("):text.index("        done = step + 1")]  # the last text's
    lines |= {row.split("  #")[0].strip() for row in loop.splitlines()}
    given = (ROOT / "train_expert.py").read_text()  # its loop is the students' model for theirs
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
    assert sorted(re.findall(r"stage \d: ([\w .]*\w)", text)) == sorted(sum(map(list, handout.WRITTEN.values()), []))


def test_the_reference_has_all_points():
    checks = [check for name, check in vars(test_stages).items() if name.startswith("test_stage")]
    assert sum(check.pytestmark[0].args[0] for check in checks) == 100 and problem_of(ROOT) is None
    assert mistakes.messages() == {}


def test_a_mistake_costs_points_in_its_own_stage_alone():
    for stage, mistake in {mistake.stage: mistake for mistake in mistakes.MISTAKES}.items():
        assert {int(check[10]) for check in mistakes.messages(mistake)} == {stage}, mistake.hint


@pytest.mark.long
def test_each_mistake_is_found_and_recognised():
    """The checks of its stage fail, with its hint, whatever the seed. What is right in another way has no message."""
    hints = json.loads(test_stages.HINTS.read_text())
    for solution in [*mistakes.FINE, *mistakes.MISTAKES]:
        found = mistakes.messages(solution, [solution.stage], seed=7).values()
        shown = [test_stages.cipher(m, bytes.fromhex(hints.get(digest(m.encode()), ""))).decode() for m in found]
        assert any(solution.hint in hint for hint in shown) if solution.hint else not found, (solution, "make hints?")


def submit(folder, model=None, names=tuple(handout.WRITTEN)):
    """Write a submission: files of the reference, perhaps with another model.py."""
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(model if model and name == "model.py" else (ROOT / name).read_text())


@pytest.mark.long
def test_grades_of_the_reference_a_mistake_cheats_and_a_bare_handout(tmp_path):
    """By Gradescope's zip and nothing else. A second call adds its row to the sheet, and keeps the columns by hand."""
    grade.main(["--autograder", str(tmp_path / "autograder.zip")])
    with zipfile.ZipFile(tmp_path / "autograder.zip") as archive:
        assert archive.getinfo("run_autograder").external_attr >> 16 & 0o111
        archive.extractall(tmp_path / "source")
    model = (ROOT / "model.py").read_text()
    handout.write(tmp_path / "bare", handout.files())
    submit(tmp_path / "deep" / "a" / "b")
    shutil.make_archive(tmp_path / "zipped" / "work", "zip", tmp_path / "deep")
    submit(tmp_path / "hangs", model.replace("return N * (u", "while N:\n        p = u\n    return N * (u"))
    submit(tmp_path / "part", model.replace("noise.G)", "noise.H)"), ["model.py", "finetune_router.py"])
    for name, trick in CHEATS.items():
        submit(tmp_path / name, f"{model}\n{trick}\n")
    def graded(*names):
        command = [sys.executable, "-m", "course.grade", "--seconds=10", "--out=../out", *(tmp_path / n for n in names)]
        subprocess.run(command, cwd=tmp_path / "source", check=True, capture_output=True)
        sheet = grade.read_sheet(tmp_path / "out")
        return {name: [row[stage] for stage in grade.STAGES] for name, row in sheet.items()}
    assert graded("deep", "hangs") == {"deep": "30 20 10 10 20 10".split(), "hangs": "30 20 10 0 20 10".split()}
    sheet = tmp_path / "out" / "grades.csv"
    sheet.write_text(sheet.read_text().replace(",100,,,,,,,,", ",100,9,9,6,11,5,5,,"))
    rows = graded("zipped", "part", "bare", *CHEATS)
    assert rows["zipped"] == rows["deep"] and rows["part"] == "30 0 10 10 14 0".split()
    assert all(set(rows[name]) == {"0"} for name in ["bare", *CHEATS])
    rows = grade.read_sheet(tmp_path / "out")
    assert rows["deep"]["grade"] == "95.0" and len({row["seed"] for row in rows.values()}) == 1
    names = "bare.json", "hangs.json", "part.json", "class.md"
    bare, hangs, part, view = ((tmp_path / "out" / name).read_text() for name in names)
    assert sum(test["max_score"] for test in json.loads(bare)["tests"]) == 100
    assert "NotImplementedError: stage 1: ff_moe" in bare and "did not end in 10 seconds" in hangs
    assert re.search(r"has no attribute 'H'\\n  at model.py:\d+", part) and "stage4_balance     | 3 of 14" in view


@pytest.mark.long
def test_the_tour_runs_from_top_to_bottom():
    """With few steps; its committed outputs are those of the whole."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    tour = nbformat.read(ROOT / "course" / "tour.ipynb", 4)
    for cell in tour.cells:
        assert cell.cell_type == "markdown" or cell.outputs or "import" in cell.source, "outputs are committed"
        cell.source = re.sub(r"STEPS = \d+", "STEPS = 2", cell.source)
    nbclient.NotebookClient(tour, timeout=300, resources={"metadata": {"path": ROOT / "course"}}).execute()
    text = "".join(output.get("text", "") for cell in tour.cells for output in cell.get("outputs", ()))
    assert "True" in text and "False" not in text  # what is built on the page equals model.py and mix.py
