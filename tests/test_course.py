"""The assignment: the handout has no solution, honest code keeps its points, and a mistake costs those of its stage."""
import csv
import json
import re
import shutil
import socket
import subprocess
import sys
import zipfile

import pytest
import torch

import finetune_router
import mix
import train_expert
from cli import BadInput
from course import check, grade, handout, mutants, stages, table, variants
from data.task import DOMAINS
from model import GPT, GPTConfig

ROOT = handout.ROOT
REFERENCE = {name: (ROOT / name).read_text() for name in handout.WRITTEN}
CHECKS = (ROOT / "course" / "checks.py").read_text()
VERSIONS = handout.versions()
MODEL = REFERENCE["model.py"]
MISTAKES = json.loads((ROOT / "course" / "mistakes.json").read_text())  # {stages and file: {right: {other: verdict}}}


def submission(**texts):
    """The reference as bytes. Files can be given another text, or None to leave one out."""
    files = REFERENCE | {"checks.py": CHECKS} | {f"{name}.py": text for name, text in texts.items()}
    return {name: text.encode() for name, text in files.items() if text}


@pytest.fixture(scope="module")
def autograder(tmp_path_factory):
    """A folder like Gradescope's, with the autograder's zip beside it: a handout and two scripts."""
    folder = tmp_path_factory.mktemp("made") / "autograder"
    command = ["make", "-s", "-o", ".venv/dev", f"PY={sys.executable}", "autograder", f"AUTOGRADER={folder}"]
    subprocess.run(command, cwd=ROOT, check=True)
    assert zipfile.ZipFile(folder.with_suffix(".zip")).getinfo("run_autograder").external_attr >> 16 & 0o111
    return folder


def test_the_handout_holds_no_solution(autograder):
    solution = set()  # lines
    for name, text in REFERENCE.items():
        given = (autograder / name).read_text()
        solution |= {line.strip().encode() for line in text.splitlines() if line.strip() not in given}
        assert {*re.findall(r"stage \d: ([\w .]*\w)", given)} == {*handout.WRITTEN[name]}
    solution = [line for line in solution if len(line) > 30 and line not in (ROOT / "train_expert.py").read_bytes()]
    assert len(solution) > 50
    for archive in (autograder.with_suffix(".zip"), autograder / "course" / "given.zip"):
        with zipfile.ZipFile(archive) as opened:
            for name in opened.namelist():
                assert not [line for line in solution if line in opened.read(name)], name
                assert not re.search(r"(tests|results|experiments)/|hf.py|mistakes|checks.py|example|live_", name)
            if opened.filename.endswith("given.zip"):  # a body can read it while it is graded
                assert "course/versions.xz" not in opened.namelist()


def test_the_reference_has_all_points():
    """Each check compares functions of the core with an independent computation."""
    result = check.check_files(submission(), check.POINTS, VERSIONS[:4], seed=0)
    *tests, last = [test["output"] for test in result["tests"]]
    assert tests == ["right"] * len(tests) and not re.search("counts nothing|costs 2 points", last), last
    assert result["score"] == sum(check.POINTS.values()) == 100
    for wrong in ([1.0, 2.001], [2.0, 1.0]):
        with pytest.raises(AssertionError):
            stages.same("two numbers", torch.tensor(wrong), [1.0, 2.0])


@pytest.mark.long
@pytest.mark.parametrize("place", [place for place in MISTAKES if place != "stage 6, mix.py"])
def test_each_mistake_is_found(place):
    """The checks of its stage fail, whatever the seed. Code that is right in another way passes the checks."""
    stages, file = place.removeprefix("stage ").split(", ")
    names = [name for name in check.POINTS if name[5] in stages and name != mutants.NAME]
    files, cases = handout.files(), []
    given = files.copy()
    for right, others in MISTAKES[place].items():
        assert REFERENCE[file].count(right) == 1
        for other, verdict in others.items():
            changed = REFERENCE[file].replace(right, other).encode()
            if verdict != "wrong":
                assert not re.search("uses", str(handout.compare(given, given | {file: changed})[1])), other
            compile(changed, file, "exec")  # a mistake in the method, not in Python
            for name in names:  # a case is all in one process, whose `ask` starts no other ones
                case = f"ask = lambda function: function()\nexec({changed}, vars({file[:-3]}))\n{name}()"
                body = f"'-'\n    ask(lambda: exec({case!r}, globals()))\n"
                files["course/stages.py"] += f"def case{len(cases)}_{name}():\n    {body}".encode()
            cases.append((other, verdict))
    checks = [f"case{i}_{name}" for i in range(len(cases)) for name in names]
    messages = check.run_checks(files, submission(), checks, 7, "")
    for i, (other, verdict) in enumerate(cases):
        failed = [name for name in names if messages[f"case{i}_{name}"] != "right"]
        assert bool(failed) == (verdict == "wrong"), (other, failed)


@pytest.mark.parametrize("code, mark", [
    ("import torch as t", "torch as"), ("t.allclose = max", "t.allclose ="), ("x, t.allclose = 1, 2", "t.allclose ="),
    ("torch.__setattr__('allclose', max)", "__setattr__"), ("vars(torch)['allclose'] = max", "vars"),
    ("torch._C._DisableTorchDispatch()", "_C")])
def test_a_body_that_changes_torch_is_marked(code, mark):
    given = handout.files()
    changed = MODEL.replace("    return N * (u", f"    {code}\n    return N * (u")
    _, marks = handout.compare(given, given | submission(model=changed))
    assert f"load_balancing_loss uses {mark}" in marks


def test_checks_of_students_are_judged_by_right_and_wrong_versions():
    """None gains by failing always, by ending or stopping its process, or by telling the versions apart."""
    text = """
import torch

def check_nothing(mix):
    pass

def check_always(mix):
    raise SystemExit

def check_forever(mix):
    while True:
        pass

def check_average(mix):
    assert torch.equal(mix.average([torch.zeros(3), torch.ones(3)]), torch.ones(3) / 2), mix.average

def check_again(mix):
    check_average(mix)
"""
    right, *others = VERSIONS
    versions = [right, *(version for version in others if version[1] == "average")]
    judged = mutants.grade(text.encode(), 15, versions, 0, "")
    n_wrong = len([version for version in versions[1:] if version[-1]])
    found, nothing, always, forever, average, again, left = judged["output"].splitlines()
    assert "finds 0" in nothing and "costs 2 points: line 8, SystemExit" in always and "counts nothing" in forever
    n_found = int(average.split()[2].strip(","))
    assert 1 < n_found < n_wrong and "0 of them as the first" in again and found.startswith(f"{n_found} of {n_wrong} ")
    assert left.endswith("breaks average: The mean of N tensors of one shape, in float32.")
    assert judged["score"] == int(15 * min(1, n_found / n_wrong / mutants.FULL)) - mutants.ALARM


@pytest.mark.parametrize("code, refused", [
    ("import os", "os"), ("import torch.sys", ".sys"), ("from torch import _C", "._C"),
    ("from random import _os", "._os"),
    ("torch.os", ".os"), ("model.f.__code__", ".__code__"), ("'{0.x}'.format(model)", ".format"),
    ("getattr", "getattr"),
    ("match model:\n  case object(__code__=x): pass", ".__code__"), ("open('x')", "open"), ("torch.load", ".load"),
    ("(x for x in ()).gi_frame", ".gi_frame"), ("model.ｉnspect", ".inspect")])
def test_a_check_cannot_look_into_python(code, refused):
    with pytest.raises(ValueError, match=f"may not use .*{refused}"):
        mutants.read_checks(code)


@pytest.mark.long
def test_the_solution_of_stage_6_has_all_points():
    """It finds enough wrong versions, and fails for no right one."""
    [test] = check.check_files({"checks.py": CHECKS.encode()}, [mutants.NAME], mutants.choose(VERSIONS, 1), 1)["tests"]
    assert test["score"] == 15 and not re.search("counts nothing|costs 2 points", test["output"]), test["output"]


def test_a_sandbox_holds_what_runs_in_it(tmp_path):
    """It reads and writes nothing outside, and has no network. Processes that it starts end with it. A function
    does not find what its check expects, and cannot write the verdict.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        probes = {  # {check: (what it asks for, what comes of it)}
            "read": (f"open({str(ROOT / 'model.py')!r})", "FileNotFoundError"),
            "write": (f"open({str(tmp_path / 'file')!r}, 'w')", "FileNotFoundError"),
            "connect": (f"socket.create_connection({server.getsockname()})", "ConnectionRefusedError"),
            "fill": ("bytearray(5 * 2**30)", "MemoryError"),
            "enlarge": ("open('file', 'wb').write(bytes(2**27))", "OSError"),
            "stay": ("not subprocess.Popen(['sleep', '98765'], start_new_session=True)", "right"),
            "peek": ("[frame.frame.f_locals['want'] for frame in inspect.stack()]", "KeyError"),
            "forge": ("open(f'/proc/{os.getppid()}/fd/3', 'w')", "PermissionError")}
        stages = "import inspect, os, socket, subprocess\n"
        for name, (code, _) in probes.items():
            stages += f"def {name}():\n    '-'\n    want = 1\n    ask(lambda: {code})\n"
        files = handout.files()
        files["course/stages.py"] += stages.encode()
        found = check.run_checks(files, {}, list(probes), 0, "bwrap")
    if {*found.values()} == {"the process of the checks was ended"}:
        pytest.skip("bwrap does not work here")
    for name, (_, message) in probes.items():
        assert found[name].strip("- \n").startswith(message), (name, found[name])
    assert subprocess.run(["pgrep", "-f", "sleep 98765"]).returncode == 1


@pytest.mark.parametrize("works, reason", [(None, "no check starts"), ("", "submissions would be root")])
def test_the_grader_stops_when_it_cannot_judge(tmp_path, monkeypatch, works, reason):
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(check, "run_checks", lambda *args: {"mix.py": "right" if args[-1] == works else "ended"})
    with pytest.raises(BadInput, match=reason):
        grade.main([str(ROOT), f"--out={tmp_path}"])
    assert not [*tmp_path.iterdir()]


@pytest.mark.long
def test_a_class_of_odd_submissions(autograder, tmp_path):
    """Gradescope's zip alone gives each a row. A mistake costs points in its stage, and marks name suspect bodies."""
    other = MODEL.replace("\n", "\r\n").replace("    ", "\t").replace("FACTOR = 1.5", "FACTOR = 3 / 2")
    hanging = MODEL.replace("return N * (u", "import os\n    return max(iter(int, 1)) * (u")
    hanging_and_broken = hanging.replace("noise.G)", "noise.H)")
    everything = "30 20 10 10 15 0"  # without checks.py
    odd = {  # {folder: (files, points of the stages, lines that changed outside of the bodies, notes)}
        "deep/a/b": (submission(model=other, checks=None), everything, 2),
        "part": (submission(model=hanging_and_broken, mix=None, checks=None), "30 0 10 0 8 0", 0, "no mix.py"),
        "exits": (submission(mix="1 / 0\n", finetune_router="exit()\n", checks=None),
                  "30 0 4 10 15 0", 0, "ZeroDivisionError"),
        "packed": ({"a.rar": b"Rar!", "b.zip": b"PK"}, "0 0 0 0 0 0", 0, "a.rar: unpack it first",
                   "b.zip: unpack it first", "no model.py")}
    folder = tmp_path / "in"
    for name, (files, *_) in odd.items():
        handout.write(folder / name, files)
    (folder / "=1\nx").mkdir()
    shutil.make_archive(folder / "archive", "zip", folder / "deep")
    canvas = {f"doe_12345_101_{name.replace('l.py', 'l-1.py')}": text for name, text in submission(checks=None).items()}
    handout.write(folder, canvas)
    odd |= {"archive.zip": odd["deep/a/b"], "doe_12345": (canvas, everything, 0, "model.py is doe_12345/model-1.py")}
    command = [sys.executable, "-m", "course.grade", f"--out={tmp_path}", *sorted(folder.iterdir())]
    done = subprocess.run(command, cwd=autograder, stderr=subprocess.PIPE, text=True)
    if "useradd student" in done.stderr:
        pytest.skip(done.stderr)
    texts = {path.stem: path.read_text() for path in tmp_path.glob("*.*")}
    rows = {name: row for name, *row in csv.reader(texts["grades"].splitlines(keepends=True))}
    assert len(rows) == len(odd) + 2 and "'=1; x" in rows
    for name, (_, points, changed, *notes) in odd.items():
        row = rows[name.split("/")[0]]  # points of six stages, their sum, changed, seed, look, notes
        assert row[:6] == points.split() and row[7] == str(changed), row
        assert all(note in row[10] for note in notes), row
    assert rows["part"][9].startswith("route_switch equals the reference; ff_moe equals")
    assert "load_balancing_loss uses os" in rows["part"][9]
    assert "took more than 20 s" in texts["part"] and "no attribute 'H'\\n  in model.py, route_sample" in texts["part"]
    assert "+CAPACITY_FACTOR = 3 / 2" in texts["deep"]


def test_the_accounting_is_that_of_the_model():
    for name, n_expert in (("ACCOUNTING.md", 0), ("README.md", 4)):
        model = GPT(GPTConfig(vocab_size=1024, n_embd=64, d_ff=256, tie_weights=True, n_expert=n_expert))
        for number in (model.num_params(), model.num_params(active=True), model.flops_per_token()):
            assert f"{number:,}" in (ROOT / "course" / name).read_text()


def outputs(cells):
    """What the cells of a notebook print, one string for each: text, and the text and the numbers of tables."""
    texts = []
    for cell in cells:
        parts = [output.get("text", "") + output.get("data", {}).get("text/html", "") for output in cell.outputs]
        texts.append(re.sub(r"<[^>]*>", " ", "".join(parts)))
    return texts


@pytest.mark.long
def test_the_tour_prints_what_is_committed():
    """After a change, run `.venv/bin/jupyter-execute --inplace course/tour.ipynb`. Processors round differently, so
    numbers from finetuned models may differ a little, and so may their words.
    """
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    tour = nbformat.read(ROOT / "course" / "tour.ipynb", 4)
    cells = [cell for cell in tour.cells if cell.cell_type == "code"]
    committed = outputs(cells)
    assert all(cell.outputs or "import" in cell.source for cell in cells), "outputs are committed"
    nbclient.NotebookClient(tour, timeout=900, resources={"metadata": {"path": ROOT / "course"}}).execute()
    n_untrained = next(i for i, cell in enumerate(cells) if "finetune(btx" in cell.source)
    for i, (now, before) in enumerate(zip(outputs(cells), committed, strict=True)):
        if not before:
            continue  # the first cell, which prepares the data in a new clone
        if "answer(" in cells[i].source:  # the models that were not finetuned answer the same
            now, before = [re.sub(r".*(average|BTX).*", "", text) for text in (now, before)]
        number = r"\d+\.\d+|\d+(?= %)|(?<= )\d+(?= )"
        assert re.sub(number, "", now) == re.sub(number, "", before), cells[i].source
        spread = 6 if i >= n_untrained else 0  # in percent; losses stand with two or more decimals
        for x, y in zip(re.findall(number, now), re.findall(number, before), strict=True):
            assert float(x) == pytest.approx(float(y), abs=0.011 if "." in x else spread), cells[i].source
    assert "True" in "".join(committed) and "False" not in "".join(committed)


def test_the_class_table_has_shares_even_if_gates_sum_to_less_than_one(tiny, tmp_path, capsys):
    """As those of Switch do. A router that gives code three times as much as math, in every domain."""
    scores = dict.fromkeys(DOMAINS, 0.5)
    routing = {"experts": ["math", "code"], "share": {domain: [[0.1, 0.3], [0.2, 0.6]] for domain in DOMAINS}}
    row = table.measure({"accuracy": scores, "loss": scores, "answer_loss": scores}, routing)
    assert row["largest"] == pytest.approx(75) and row["own"] == pytest.approx((25 + 75) / 2)
    models = {name: {"accuracy": scores, "loss": scores, "answer_loss": scores} for name in ("btx_mixed", "soft_mixed")}
    for name in models:
        (tmp_path / f"{name}.pt").symlink_to(tiny / f"{name}.pt")
    (tmp_path / "results.json").write_text(json.dumps({"models": models, "routing": {}}))
    table.main([f"{tmp_path}/results.json"])
    costs = [line.split("|")[-2].strip() for line in capsys.readouterr().out.splitlines()]
    assert costs == ["GFLOP", "------:", "0.0", "0.0"]  # without those of the branches, which both share


def test_the_sheet_has_the_points_of_each_stage(tmp_path):
    tests = [{"name": f"stage{stage}_x", "score": 2**stage} for stage in (1, 2, 2, 6)]
    more = {"changed": 0, "seed": 0, "look": []}
    grade.write_sheet(tmp_path / "a.csv", {"doe": {"tests": tests, "score": 74, "extra_data": more, "output": ""}})
    [row] = csv.DictReader((tmp_path / "a.csv").read_text().splitlines())
    assert [row[name] for name in ("stage 2", "stage 6", "code")] == ["8", "64", "74"]


@pytest.mark.parametrize("experiment", [1, 2, 3, 4])
def test_the_scripts_accept_the_cell_of_every_student(experiment, capsys):
    tables = set()
    for student in range(1, 49):
        variants.main([str(experiment), str(student)])
        comment, *lines = capsys.readouterr().out.splitlines()
        tables.add("".join(lines))
        for line in lines:
            _, mixed, finetuned = [part.split() for part in line.split("|")]
            mix.plan(mix.parse([*mixed, "--out=a.pt"]), GPTConfig())
            script = train_expert if "--average" in mixed else finetune_router
            script.parse([*finetuned, "--init=a.pt", "--out=b.pt"])
    assert len(tables) >= 12


def test_an_experiment_gives_each_seed_to_both_scripts_and_makes_only_what_has_changed(tmp_path):
    """Python is replaced by a script that notes its arguments and makes an empty file, the last of them."""
    python, line, said = tmp_path / "python", tmp_path / "line.txt", tmp_path / "said"
    python.write_text(f'#!/bin/bash\necho "$*" >> {said}\nmkdir -p "$(dirname "${{@: -1}}")"\ntouch "${{@: -1}}"\n')
    python.chmod(0o755)
    mixed, finetuned = [[(script, seed) for seed in "12"] for script in ("mix", "finetune_router")]
    for steps, made in ((1, finetuned + mixed), (1, []), (2, finetuned)):
        line.write_text(f"a | --top_k 2 | --steps {steps}")
        said.write_text("")
        subprocess.run(["bash", "course/experiment.sh", python, "data", tmp_path / "out", "1", "1 2", line], cwd=ROOT,
                       capture_output=True, check=True)
        assert sorted(re.findall(r"(mix|finetune_router)\.py .*--seed (\d)", said.read_text())) == made
