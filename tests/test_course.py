"""The assignment: its handout holds no solution, only a student's functions run, and mistakes lose their points."""
import ast
import json
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from cli import BadInput
from course import check, grade, handout, mistakes, splice
from model import GPT, GPTConfig

ROOT = handout.ROOT
REFERENCE = {name: (ROOT / name).read_text() for name in splice.WRITTEN}
CHEATS = (  # what a submission writes for the body of ff_moe, and below its model.py
    ("import os\n    os._exit(0)", ""), ("return x.__class__.__base__", ""), ("return getattr(x, 'tolist')", ""),
    ("from course.stages import swiglu", ""), ("import functools", ""), ("return torch.os", ""), ("t = torch", ""),
    ("from torch import hub", ""), ("import copy as torch", ""), ("return torch.load('x')", ""), ("global x", ""),
    ("from numpy import fromfile", ""), ("return nn.modules.module", ""), ("return (i for i in x).gi_frame", ""),
    ("return Exception().__traceback__.tb_frame", ""), ("torch.equal = print", ""), ("x.tolist = print", ""),
    ("for torch.equal in [print]:\n        pass", ""), ("class C(torch.Tensor):\n        pass", ""),
    ("return type('C', (), {})", ""), ("match x:\n        case object(__class__=c):\n            return c", ""),
    ("return x * N", "N = print('at import')"), ("return f()", "def f(x=print('at import')): pass"),
    ("return f()", "@print\ndef f(): pass"), ("return f()", "def f():\n    return open('x')"),
    ("return C()", "class C:\n    print('at import')"), ("return h.x", "import torch.hub as h"))


def handed_out(name):
    return check.given_files()[name].decode()


def write_submission(folder, model=REFERENCE["model.py"], names=tuple(splice.WRITTEN)):
    """Files of the reference, perhaps with another model.py, as text or bytes."""
    folder.mkdir(parents=True)
    for name in names:
        text = model if name == "model.py" else REFERENCE[name]
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def solution_lines():
    """Long lines of what students write."""
    lines = set()
    for name, text in REFERENCE.items():
        for function, f in splice.definitions(ast.parse(text)).items():
            if function in splice.WRITTEN[name]:
                lines |= set(text.splitlines()[f.body[0].end_lineno:f.end_lineno])
    loop = text[text.index("        for xs, ys in zip("):text.index("        done = step + 1")]  # the last text's
    lines = {line.split("  #")[0].strip() for line in [*lines, *loop.splitlines()]}
    given = (ROOT / "train_expert.py").read_text() + REFERENCE["mix.py"].split("def expert_names")[1]
    return {line.encode() for line in lines if len(line) > 30 and line not in given}


def test_the_handout_and_the_autograder_hold_no_solution(tmp_path):
    handout.main(["--out", str(tmp_path / "handout")])
    grade.main(["--autograder", str(tmp_path / "autograder.zip")])
    solutions = solution_lines()
    assert len(solutions) > 40 and (tmp_path / "handout.zip").stat().st_size < 8e6  # Gradescope and mail take more
    for archive, beginning in (("handout.zip", "handout/"), ("autograder.zip", ""), ("handout/course/given.zip", "")):
        with zipfile.ZipFile(tmp_path / archive) as opened:
            for name in opened.namelist():
                text = opened.read(name)
                assert not [line for line in solutions if line in text], (archive, name)
                assert not re.match(beginning + r"(tests|results|experiments|hf)\b|.*(mistakes|example|live_)", name)
    text = "".join(handed_out(name) for name in splice.WRITTEN)
    assert sorted(re.findall(r"stage \d: ([\w .]*\w)", text)) == sorted(sum(map(list, splice.WRITTEN.values()), []))


def test_a_submission_gives_its_functions_and_what_they_use():
    model = REFERENCE["model.py"].replace("return N * (u * p).sum()", "return halve(N) * (u * p).sum()  # override, ä")
    model = "import copy\n" + model.replace("CAPACITY_FACTOR = 1.5", "CAPACITY_FACTOR = 9.0") + \
        "\nHALF, UNUSED = 0.5, print\ndef halve(x: print('at import')):\n    import re\n    import numpy as np\n" \
        "    model.eval()\n    return copy.copy(x) / TWO\nTWO = 1 / 0.5\n"
    for content in (model.encode(), model.replace("\n", "\r\n").encode("utf-16"), model.encode("utf-8-sig"),
                    model.encode("latin-1", "replace")):
        text, notes = splice.splice("model.py", handed_out("model.py"), splice.decode(content))
        names = splice.definitions(ast.parse(text)).keys()
        assert {"halve", "TWO", "copy"} <= names and not {"HALF", "UNUSED"} & names and len(notes) == 1
        assert "CAPACITY_FACTOR = 1.5" in text and "+CAPACITY_FACTOR = 9.0" in notes[0]


def test_a_submission_cannot_leave_its_functions():
    blank, given = '    raise NotImplementedError("stage 1: ff_moe")', handed_out("model.py")
    for body, below in CHEATS:
        text, notes = splice.splice("model.py", given, given.replace(blank, f"    {body}\n{below}"))
        assert len(notes) == 1 and "at import" not in text, body
    for name in splice.WRITTEN:  # a name of the handout that stands for a module must be known as one, or be refused
        for word, node in splice.definitions(ast.parse(handed_out(name))).items():
            path = ROOT / f"{getattr(node, 'module', '')}".replace(".", "/") / f"{word}.py"
            if isinstance(node, ast.Import) or isinstance(node, ast.ImportFrom) and path.exists():
                assert word in splice.MODULES or splice.NAMES.fullmatch(word) or word == "time"


def test_the_reference_has_all_points_and_a_mistake_costs_some_in_its_own_stage_alone():
    assert sum(check.POINTS.values()) == 100 and mistakes.messages() == {}
    for stage in "1245":
        mistake = next(mistake for mistake in mistakes.MISTAKES if mistake[0] == stage and mistake[4] != "fine")
        assert {name[5] for name in mistakes.messages(mistake)} == {stage}, mistake


@pytest.mark.long
def test_each_mistake_is_found_and_recognised():
    """The checks of its stage fail, with its hint, whatever the seed. What is right in another way has no message."""
    hints = json.loads((ROOT / "course" / "hints.json").read_text()).values()
    assert len(set(hints)) <= 40 and {mistake[4] for mistake in mistakes.MISTAKES} <= {"", "fine", *hints}
    for mistake in mistakes.MISTAKES:
        assert REFERENCE[mistake[1]].count(mistake[2]) == 1, mistake
        assert bool(mistakes.messages(mistake, mistake[0], seed=7)) == (mistake[4] != "fine"), mistake


@pytest.mark.long
def test_a_class_of_odd_submissions(tmp_path):
    """Each is a row, by Gradescope's zip alone. A second call adds its row."""
    grade.main(["--autograder", str(tmp_path / "autograder.zip")])
    with zipfile.ZipFile(tmp_path / "autograder.zip") as archive:
        assert archive.getinfo("run_autograder").external_attr >> 16 & 0o111
        archive.extractall(tmp_path / "source")
    model, odd = REFERENCE["model.py"], tmp_path / "in"
    write_submission(odd / "deep" / "a" / "b", model.replace("\n", "\r\n").encode("utf-16"))
    shutil.make_archive(odd / "deep", "zip", odd / "deep")
    write_submission(odd / "hangs", model.replace("return N * (u", "while N:\n        p = u\n    return N * (u"))
    write_submission(odd / "part", model.replace("noise.G)", "noise.H)"), ["model.py", "finetune_router.py"])
    write_submission(odd / "bare", handed_out("model.py"), ["model.py"])
    (odd / "folders" / "model.py").mkdir(parents=True)
    (odd / "broken.zip").write_bytes((odd / "deep.zip").read_bytes()[:-99])
    (odd / "link").symlink_to(odd / "deep")
    command = [sys.executable, "-m", "course.grade", "--out=../out", "--each", odd]
    subprocess.run(command, cwd=tmp_path / "source", check=True, capture_output=True)
    grade.main([str(odd / "folders"), "--out", str(tmp_path / "out")])
    lines = (tmp_path / "out" / "grades.csv").read_text().splitlines()[1:]
    rows = {name: points for name, *points, total, seed in (line.split(",") for line in lines)}
    assert rows.pop("hangs") == "30 20 10 0 20 10".split() and rows.pop("part") == "30 0 10 10 14 0".split()
    assert rows.pop("deep") == rows.pop("deep_2") == "30 20 10 10 20 10".split()
    assert rows.keys() == {"bare", "folders", "broken", "link"} and all({*row} == {"0"} for row in rows.values())
    texts = {path.stem: path.read_text() for path in (tmp_path / "out").glob("*.json")}
    assert "another submission has this name" in texts["deep_2"] and "broken.zip: this zip cannot" in texts["broken"]
    assert texts["bare"].count('"output": "not written yet') == len(check.POINTS)
    assert "did not end in 60 seconds" in texts["hangs"]
    assert "has no attribute 'H'\\n  in model.py, route_sample" in texts["part"]
    assert "stage4_balance" in (tmp_path / "out" / "class.md").read_text()
    with pytest.raises(BadInput, match="there is no .'typo'"):
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
