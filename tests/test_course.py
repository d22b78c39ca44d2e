"""The assignment: its handout holds no solution, the reference gets all points, mistakes lose theirs, and cheats gain none."""
import json
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
import torch

from course import checks, grade, handout, mistakes
from support.settings import BadInput
from tests.tiny import ROOT

ALL_CHECKS = checks.CHECKS
ALL = [(stage, check) for stage, some in ALL_CHECKS.items() for check, _ in some]
TOTAL = sum(points for some in ALL_CHECKS.values() for _, points in some)


@pytest.fixture(scope="module")
def made():
    return handout.files()


@pytest.fixture
def points(tmp_path, made, monkeypatch):
    """A function that grades a submission, {file: text}, in some stages; points by stage, and all problems as text."""
    def check(stages=tuple(checks.STAGES), seconds=20.0, **changes):
        submission = tmp_path / "submission"
        monkeypatch.setattr(checks, "CHECKS", {stage: ALL_CHECKS[stage] for stage in stages})
        submission.mkdir(exist_ok=True)
        for name in grade.WRITTEN:
            stem = name.removesuffix(".py")
            (submission / name).write_text(changes.get(stem) or (ROOT / name).read_text())
        results = grade.grade(submission, made, (5, 6), seconds)
        by_stage = {stage: sum(r.got for r in results if r.stage == stage) for stage in stages}
        return by_stage, "\n".join(r.problem for r in results if r.problem)
    return check


def test_the_handout_holds_no_solution(made):
    """No line of any solution of more than a few signs, in no file of the handout; and no file that is not for students."""
    texts = [(ROOT / name).read_text() for name in handout.SOURCES]
    parts = [text.splitlines()[body] for text in texts for _, body in handout.bodies(text)]
    lines = {line.split("  #")[0].strip() for part in parts for line in part}
    telling = {line for line in lines if len(line) > 30}
    assert len(telling) > 25
    for name, content in made.items():
        assert not [line for line in telling if line in content.decode()], name
    assert not [name for name in made if re.match(r"tests/|results/|\.git|experiments/|.*(mistakes|grade)", name)]
    for name in grade.WRITTEN:
        assert "NotImplementedError" in made[name].decode()
        compile(made[name], name, "exec")
    assert len(parts) == len(handout.STAGE_OF) + 1 and all(len(part) <= 10 for part in parts[:-1])  # the last: support/fast.py's


def test_the_zip_is_small_and_opens_anywhere(tmp_path):
    handout.main(["--out", str(tmp_path / "handout")])
    packed = tmp_path / "handout.zip"
    assert packed.stat().st_size < 2e6
    with zipfile.ZipFile(packed) as archive:
        names = archive.namelist()
        assert archive.testzip() is None and not [n for n in names if re.search(r'[\\:*?"<>|]|\.\.|^/', n)]
    assert {f"handout/{p.relative_to(tmp_path / 'handout').as_posix()}" for p in (tmp_path / "handout").rglob("*.*")} == {
        name for name in names if "." in name.rpartition("/")[2]}
    handout.main(["--out", str(tmp_path / "again" / "handout")])
    assert (tmp_path / "again" / "handout.zip").read_bytes() == packed.read_bytes()


def test_what_was_written_into_a_handout_is_not_lost(tmp_path):
    for there in (tmp_path / "a", tmp_path / "b.zip"):
        there.mkdir()
        with pytest.raises(BadInput, match=f"{there} is there already"):
            handout.main(["--out", str(there.with_suffix(""))])
    assert {p.name for p in tmp_path.iterdir()} == {"a", "b.zip"}


@pytest.mark.long
def test_a_student_sees_the_points_rise_stage_by_stage(tmp_path):
    """The solutions come back one stage at a time, and each stage says of the next that it is not implemented."""
    sums = []
    for solved in (0, 1, 4, 7):
        folder = tmp_path / f"solved{solved}"
        handout.main(["--out", str(folder), "--solved", str(solved)])
        done = subprocess.run([sys.executable, "-m", "course.check"], cwd=folder, capture_output=True, text=True)
        assert done.returncode == (solved < 7), done.stderr
        sums.append(int(done.stdout.rpartition("\n")[0].rpartition("\n")[2].split()[0]))
        named = {int(n) for n in re.findall(r"NotImplementedError: stage (\d)", done.stdout)}
        assert named == set(range(solved + 1, 8))
    assert sums == [sum(p for stage in range(1, n + 1) for _, p in checks.CHECKS[stage]) for n in (0, 1, 4, 7)]
    assert sums[-1] == TOTAL


def test_every_mistake_costs_points_in_its_own_stage_alone_and_is_recognised():
    """On hidden numbers, checked against the reference; at least one of the checks that fail knows the mistake by name."""
    assert len(mistakes.MISTAKES) >= 30 and len({m.new + m.old for m in mistakes.MISTAKES}) == len(mistakes.MISTAKES)
    for mistake in mistakes.MISTAKES:
        lib, lost, hints = mistakes.variant(mistake), set(), set()
        for stage, check in ALL:
            found = {}
            for seed in (5, 6):
                try:
                    found[seed] = checks.compute(check, lib, seed)
                except Exception:
                    lost.add(stage)
            if any(checks.differs(numbers, grade.wanted(check, seed)) for seed, numbers in found.items()):
                lost.add(stage)
                hints.add(grade.hint(stage, check, found))
        assert lost == {mistake.stage}, mistake.hint
        assert not hints or hints & {m.hint for m in mistakes.MISTAKES if m.stage == mistake.stage}, mistake.hint


@pytest.mark.long
def test_reference_and_handout(points, made):
    by_stage, problems = points()
    assert sum(by_stage.values()) == TOTAL and not problems
    by_stage, problems = points(**{name.removesuffix(".py"): made[name].decode() for name in grade.WRITTEN})
    assert not any(by_stage.values())
    assert {int(n) for n in re.findall(r"NotImplementedError: stage (\d)", problems)} == set(checks.STAGES)


MODEL = (ROOT / "model.py").read_text()
BARE = handout.blank(MODEL)
TAIL = "\nimport os, sys, time\n"
WANT = ("torch.equal = torch.allclose = lambda *a, **k: True\n"
        "torch.isclose = lambda a, b, **k: torch.ones_like(a, dtype=torch.bool)\n")
CHEATS = {  # what a submission without any solution appends to its model.py, hoping for points
    "exits": "sys.exit(0)",
    "exits at once": "os._exit(0)",
    "prints a result": "print('{\"score\": 100}'); sys.stdout.flush()",
    "prints much": "sys.stdout.write('x' * 10**8)",
    "comparisons that hold": WANT,
    "no error is one": "NotImplementedError = lambda *a: SystemExit(0)",
    "checks that check nothing": "from course import checks\nchecks.compute = lambda *a: {}",
    "checks that return ones": "from course import checks\nchecks.compute = lambda c, l, s: {'y': torch.ones(3)}",
    "other points": "from course import checks\nchecks.CHECKS = {s: [] for s in range(1, 8)}",
    "edits the checks": "open('course/checks.py', 'a').write('\\nCHECKS.clear()\\n')",
    "the public numbers": "import json\nfrom course import checks\npub = json.load(open('course/expected.json'))\n"
                          "checks.compute = lambda c, l, s: {n: torch.tensor(v, dtype=torch.float64).view(shape) "
                          "for n, (shape, v) in pub[c.__name__]['1'].items()}",
    "not a number": "from course import checks\nchecks.compute = lambda c, l, s: {'y': torch.full((2, 3, 4), float('nan'))}",
    "a tensor that equals all": "class T(torch.Tensor):\n    __eq__ = lambda a, b: True\n"
                                "swiglu = lambda x, *w, **k: x.as_subclass(T)",
    "another writer": "from support import checkpoint\ncheckpoint.write = lambda path, v: open(path, 'w').write('{}')",
    "a header of its own": "from support import checkpoint\n"
                           "checkpoint.write = lambda path, v: open(path, 'wb').write(b'\\xff' * 99)",
    "links for results": "from support import checkpoint\ncheckpoint.write = lambda path, v: os.symlink('/dev/zero', path)",
    "pipes for results": "from support import checkpoint\ncheckpoint.write = lambda path, v: os.mkfifo(path)",
    "huge results": "from support import checkpoint\ncheckpoint.write = lambda path, v: open(path, 'wb').write(b'x' * 10**9)",
    "an empty error": "[open(f'{sys.argv[3]}/{c}.{s}.error', 'w') for c in ('gates', 'feed_forward') for s in (5, 6)]",
    "takes all memory": "x = bytearray(10**11)",
    "leaves a child behind": "os.fork() or time.sleep(10**4)",
}


@pytest.mark.long
@pytest.mark.parametrize("what", CHEATS)
def test_cheats_gain_nothing(what, points):
    """In two stages without a line of solution."""
    by_stage, problems = points(stages=(1, 3), model=BARE + TAIL + CHEATS[what])
    assert by_stage == {1: 0, 3: 0} and problems


def test_a_submission_that_hangs_ends(points):
    hanging = MODEL.replace("    return F.linear(F.silu", "    while True: pass\n    return F.linear(F.silu")
    by_stage, problems = points(stages=(1, 4), seconds=15.0, model=hanging)
    assert by_stage == {1: 0, 4: 15} and problems == "not done in time"


def test_a_check_that_ends_the_process_does_not_cost_the_others(points):
    ending = MODEL.replace("    kept, experts = logits.topk", "    import os; os._exit(3)\n    kept, experts = logits.topk")
    by_stage, problems = points(stages=(2,), model=ending)
    assert by_stage == {2: 15} and problems == "the process ended\nthe process ended"


def test_a_folder_of_submissions(tmp_path, monkeypatch):
    """One right, one without its files, one that is no Python; a table for all, Gradescope's file for each. In one stage."""
    monkeypatch.setattr(checks, "CHECKS", {3: ALL_CHECKS[3]})
    for name in ("right", "empty", "broken"):
        (tmp_path / "in" / name).mkdir(parents=True)
    for name in grade.WRITTEN:
        shutil.copy(ROOT / name, tmp_path / "in" / "right")
    (tmp_path / "in" / "broken" / "model.py").write_text("def f(:\n")
    grade.main([*(str(p) for p in sorted((tmp_path / "in").iterdir())), "--out", str(tmp_path / "out"), "--seed", "3"])
    rows = [line.split(",") for line in (tmp_path / "out" / "grades.csv").read_text().splitlines()]
    assert {row[0]: row[-1] for row in rows[1:]} == {"right": "15", "empty": "0", "broken": "0"}
    result = json.loads((tmp_path / "out" / "right.json").read_text())
    assert result["score"] == 15 == sum(t["max_score"] for t in result["tests"])
    assert "SyntaxError" in (tmp_path / "out" / "broken.json").read_text()
    assert "none of" in (tmp_path / "out" / "empty.json").read_text()


def test_what_is_handed_in_is_a_file_and_whole(tmp_path, monkeypatch):
    """A link to the reference earns nothing, nor does one to nowhere beside good files, nor what is too long to be read."""
    monkeypatch.setattr(grade, "child", None)
    for name, content in (("reference", None), ("nowhere", None), ("long", b" " * 2**20 + b"#")):
        (tmp_path / "in" / name).mkdir(parents=True)
        shutil.copy(ROOT / "mix.py", tmp_path / "in" / name)
        if content:
            (tmp_path / "in" / name / "model.py").write_bytes(content)
        else:
            (tmp_path / "in" / name / "model.py").symlink_to(ROOT / "model.py" if name == "reference" else "nowhere.py")
    grade.main([*(str(p) for p in (tmp_path / "in").iterdir()), "--out", str(tmp_path / "out")])
    for name, problem in (("reference", "a link"), ("nowhere", "a link"), ("long", "more than")):
        result = json.loads((tmp_path / "out" / f"{name}.json").read_text())
        assert result["score"] == 0 and f"model.py: {problem}" in result["output"]


@pytest.mark.parametrize("words", [["--autograder", "model.py"], ["--autograder", "a.zip", "ada"]])
def test_the_autograder_writes_over_no_source(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text("mine")
    with pytest.raises(BadInput, match="--autograder"):
        grade.main(words)
    assert [p.name for p in tmp_path.iterdir()] == ["model.py"] and (tmp_path / "model.py").read_text() == "mine"


def test_a_file_that_cannot_be_written_is_found_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "in" / "ada").mkdir(parents=True)
    (tmp_path / "out" / "ada.json").mkdir(parents=True)
    monkeypatch.setattr(grade, "grade", None)
    with pytest.raises(BadInput, match="ada.json"):
        grade.main([str(tmp_path / "in" / "ada"), "--out", str(tmp_path / "out")])


@pytest.mark.long
def test_gradescopes_zip_can_grade(tmp_path):
    """Unpacked into a folder of its own; its two scripts are executable."""
    grade.main(["--autograder", str(tmp_path / "autograder.zip")])
    with zipfile.ZipFile(tmp_path / "autograder.zip") as archive:
        assert archive.getinfo("run_autograder").external_attr >> 16 & 0o111
        archive.extractall(tmp_path / "source")
    (tmp_path / "submission").mkdir()
    for name in grade.WRITTEN:
        shutil.copy(ROOT / name, tmp_path / "submission")
    subprocess.run([sys.executable, "-m", "course.grade", str(tmp_path / "submission"), "--out", str(tmp_path / "results")],
                   cwd=tmp_path / "source", check=True, capture_output=True)
    assert json.loads((tmp_path / "results" / "submission.json").read_text())["score"] == TOTAL


def test_differences_in_one_line():
    want = {"y": torch.tensor([[1.0, 2.0]])}
    assert checks.differs({}, want) == "y is missing"
    assert checks.differs({"y": torch.ones(2)}, want) == "y: expected the shape (1, 2), got (2,)"
    assert checks.differs({"y": torch.tensor([[1.0, 3.0]])}, want) == "y[0, 1]: expected 2, got 3 (1 of 2 numbers differ)"
    assert checks.differs({"y": torch.tensor([[1.0, float("nan")]])}, want) is not None
    assert checks.differs({"y": want["y"] * (1 + 1e-9)}, want) is None


@pytest.mark.long
def test_the_tour_runs_from_top_to_bottom():
    """And what it shows at its end is true: finetuning makes the mixed model better at both experts' domains."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    tour = nbformat.read(ROOT / "course" / "tour.ipynb", 4)
    assert all(cell.outputs for cell in tour.cells if "plt.show" in cell.source), "outputs are committed"
    nbclient.NotebookClient(tour, timeout=600, resources={"metadata": {"path": ROOT / "course"}}).execute()
    text = "".join(out.get("text", "") for cell in tour.cells if cell.cell_type == "code" for out in cell.outputs)
    mixed, tuned = ([float(v) for v in re.findall(r"(?:math|code) +([\d.]+)", re.search(rf"^{name} .*", text, re.M)[0])]
                    for name in ("btx_mixed", "btx"))
    assert tuned[0] < mixed[0] - 0.05 and tuned[1] < mixed[1] - 0.05 and "the same as the layer: True" in text
