"""The assignment: its handout holds no solution, only a student's functions run, and mistakes lose their points."""
import ast
import json
import re
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from cli import BadInput
from course import check, grade, handout, mistakes, splice
from model import GPT, GPTConfig

ROOT = handout.ROOT
REFERENCE = {name: (ROOT / name).read_text() for name in splice.WRITTEN}
GIVEN = {name: content.decode() for name, content in handout.files().items() if name in splice.WRITTEN}
CHEATS = (  # what a submission writes for the body of ff_moe
    "import os\n    os._exit(0)", "from course.stages import swiglu", "return torch.os", "t = torch", "return type(x)",
    "from torch import hub", "import copy as torch", "torch.get_device_module()", "return getattr(x, 'tolist')",
    "return (i for i in x).gi_frame", "return x.__class__", "torch.equal = print", "from numpy import fromfile",
    "return Exception().__traceback__", "class C(torch.Tensor):\n        pass", "for torch.equal in x:\n        pass",
    "match x:\n        case object(__class__=c):\n            return c", "'{0.x}'.format(x)", "return x.obj",
    "make_parser('')", "torch.compile(x, backend=x)")
HELPERS = ("N = print('at import')", "def N(x=print('at import')): pass", "@print\ndef N(): pass",  # and uses
           "def N():\n    return open('x')", "class N:\n    print('at import')")


def write_submission(folder, model=REFERENCE["model.py"], names=tuple(splice.WRITTEN)):
    """Files of the reference, perhaps with another model.py, as text or bytes."""
    for name, text in (REFERENCE | {"model.py": model}).items():
        if name in names:
            check.write(folder, {name: text if isinstance(text, bytes) else text.encode()})


def solution_lines():
    """Long lines of what students write."""
    loop = REFERENCE["finetune_router.py"].split("        for xs, ys in zip(")[1]
    lines = loop.split("        done = step + 1")[0].splitlines()
    for name, text in REFERENCE.items():
        for function, f in splice.definitions(ast.parse(text)).items():
            if function in splice.WRITTEN[name]:
                lines += text.splitlines()[f.body[0].end_lineno:f.end_lineno]
    given = (ROOT / "train_expert.py").read_text() + REFERENCE["mix.py"].split("def expert_names")[1]
    lines = {line.split("  #")[0].strip() for line in lines}
    return {line.encode() for line in lines if len(line) > 30 and line not in given}


def test_the_handout_and_the_autograder_hold_no_solution(tmp_path):
    handout.main(["--out", str(tmp_path / "handout")])
    grade.main(["--autograder", str(tmp_path / "autograder.zip")])
    assert len(solution_lines()) > 40
    for archive in ("handout.zip", "autograder.zip", "handout/course/given.zip"):
        with zipfile.ZipFile(tmp_path / archive) as opened:
            for name in opened.namelist():
                text = opened.read(name)
                assert not [line for line in solution_lines() if line in text], (archive, name)
                assert not re.search(r"(tests|results|experiments)/|hf.py|mistakes|example|live_", name)
    blanks = re.findall(r"stage \d: ([\w .]*\w)", "".join(GIVEN.values()))
    assert set(blanks) == set().union(*splice.WRITTEN.values())


def test_a_submission_gives_its_functions_and_what_they_use():
    model = REFERENCE["model.py"].replace("return N * (u * p).sum()", "return halve(N) * (u * p).sum()  # override, ä")
    model = "import copy\n" + model.replace("CAPACITY_FACTOR = 1.5", "CAPACITY_FACTOR = 9.0") + \
        "\nHALF, UNUSED = 0.5, print\ndef halve(x: print('at import')):\n    import re\n    import numpy as np\n" \
        "    model.eval()\n    return copy.copy(x) / TWO\nTWO = 1 / 0.5\n"
    for content in (model.encode(), model.replace("\n", "\r\n").encode("utf-16"), model.encode("utf-8-sig"),
                    model.encode("latin-1", "replace")):
        text, notes = splice.splice("model.py", GIVEN["model.py"], splice.decode(content))
        names = splice.definitions(ast.parse(text)).keys()
        assert {"halve", "TWO", "copy"} <= names and not {"HALF", "UNUSED"} & names and len(notes) == 1
        assert "CAPACITY_FACTOR = 1.5" in text and "+CAPACITY_FACTOR = 9.0" in notes[0]


def test_a_submission_cannot_leave_its_functions():
    given, blank = GIVEN["model.py"], 'raise NotImplementedError("stage 1: ff_moe")'
    for body, below in [(body, "") for body in CHEATS] + [("return N", below) for below in HELPERS]:
        text, notes = splice.splice("model.py", given, given.replace(blank, f"{body}\n{below}"))
        assert len(notes) == 1 and "at import" not in text, body
    for word, node in splice.definitions(ast.parse(GIVEN["finetune_router.py"])).items():  # modules are known
        if isinstance(node, ast.Import) or getattr(node, "module", "") == "support":
            assert word in [*splice.MODULES, "time"] or splice.NAMES.fullmatch(word)


def test_the_reference_has_all_points_and_a_mistake_costs_some_in_its_own_stage_alone():
    assert sum(check.POINTS.values()) == 100 and mistakes.messages() == {}
    for stage in "14":
        mistake = next(mistake for mistake in mistakes.MISTAKES if mistake[0] == stage and mistake[4] != "fine")
        assert {name[5] for name in mistakes.messages(mistake)} == {stage}, mistake


@pytest.mark.long
def test_each_mistake_is_found_and_recognised():
    """The checks of its stage fail, with its hint, whatever the seed. What is right in another way has no message."""
    assert len(set(json.loads((ROOT / "course" / "hints.json").read_text()).values())) <= 40
    with ThreadPoolExecutor(2) as pool:  # each waits for a process of its own
        messages = pool.map(lambda mistake: mistakes.messages(mistake, mistake[0], seed=7), mistakes.MISTAKES)
    for (_, file, right, wrong, hint), of_checks in zip(mistakes.MISTAKES, messages, strict=True):
        found = "".join(of_checks.values())
        assert REFERENCE[file].count(right) == 1 and bool(found) == (hint != "fine"), wrong
        assert hint in ("", "fine") or f"perhaps: {hint}" in found, (wrong, "make hints?")


@pytest.mark.long
def test_a_class_of_odd_submissions(tmp_path):
    """Each is a row, by Gradescope's zip alone."""
    grade.main(["--autograder", str(tmp_path / "autograder.zip")])
    with zipfile.ZipFile(tmp_path / "autograder.zip") as archive:
        assert archive.getinfo("run_autograder").external_attr >> 16 & 0o111
        archive.extractall(tmp_path / "source")
    model, odd = REFERENCE["model.py"], tmp_path / "in"
    write_submission(odd / "deep" / "a" / "b", model.replace("\n", "\r\n").encode("utf-16"))
    shutil.make_archive(odd / "deep", "zip", odd / "deep")
    write_submission(odd / "hangs", model.replace("return N * (u", "while N:\n        p = u\n    return N * (u"))
    write_submission(odd / "part", model.replace("noise.G)", "noise.H)"), ["model.py", "finetune_router.py"])
    write_submission(odd / "bare", GIVEN["model.py"], ["model.py"])
    handout.write_handout(odd / "whole" / "handout")  # with given.zip, in which nothing is written
    write_submission(odd / "whole" / "handout")
    (odd / "folders" / "model.py").mkdir(parents=True)
    (odd / "broken.zip").write_bytes((odd / "deep.zip").read_bytes()[:-99])
    (odd / "link").symlink_to(odd / "deep")
    subprocess.run([sys.executable, "-m", "course.grade", "--out=../out", "--each=../in"], cwd=tmp_path / "source")
    lines = (tmp_path / "out" / "grades.csv").read_text().splitlines()[1:]
    rows = {name: points for name, *points, total, seed in (line.split(",") for line in lines)}
    assert rows.pop("hangs") == "30 20 10 0 20 10".split() and rows.pop("part") == "30 0 10 10 14 0".split()
    assert rows.pop("deep") == rows.pop("deep_2") == rows.pop("whole") == "30 20 10 10 20 10".split()
    assert rows == dict.fromkeys(("bare", "broken", "folders", "link"), 6 * ["0"])
    texts = {path.stem: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert "another submission has this name" in texts["deep_2"] and "broken.zip: this zip cannot" in texts["broken"]
    assert texts["bare"].count("not written yet") == len(check.POINTS) and "did not end in 60 s" in texts["hangs"]
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
