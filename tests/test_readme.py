"""The README and docs are true: their commands run, their links lead somewhere, their tables are the committed ones."""
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time

import pytest

from experiments import bench, paper
from tests.tiny import ROOT, last_counts, tracked

PAGES = {path: path.read_text() for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")),
                                             *sorted(ROOT.glob("course/*.md"))]}
README = PAGES[ROOT / "README.md"]
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines() if line]
# appended to each command, where the last of two equal options counts: the same command, smaller
SMALL_RUN = "--steps 2 --batch_size 2 --block_size 32 --eval_windows 1 --device cpu"
SMALL = {"data.prepare": "--train_tokens 3000 --val_tokens 600 --tasks 4", "train_expert.py": SMALL_RUN,
         "finetune_router.py": SMALL_RUN,
         "evaluate.py": "--tasks 2 --windows 2 --device cpu",
         "sample.py": "--tokens 4 --device cpu", "mix.py": ""}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The tracked files in a folder of their own, with no virtual environment and nothing trained."""
    folder = tmp_path_factory.mktemp("clone")
    for file in tracked():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, folder / file)
    return folder


def test_every_command_runs(clone, warm):
    """In order, since each uses what those before it wrote. make itself is asked only whether it would know what to do."""
    assert len(COMMANDS) > 8
    for line in COMMANDS:
        words = shlex.split(line)
        if words[0] == "make":
            subprocess.run(["make", "-n", *words[1:]], cwd=clone, capture_output=True, check=True)
            if words[1:] == ["data"]:
                subprocess.run([*warm, "-m", "data.prepare", *SMALL["data.prepare"].split()], cwd=clone, check=True)
            continue
        assert words.pop(0) == ".venv/bin/python", words
        script = words[1] if words[0] == "-m" else words[0]
        words += SMALL[script].split()
        if script == "train_expert.py" and "--init" not in words:
            words += "--n_layer 1 --n_embd 16 --n_head 2 --d_ff 16".split()
        done = subprocess.run([*warm, *last_counts(words)], cwd=clone, capture_output=True, text=True)
        assert done.returncode == 0, (line, done.stderr[-2000:])


def test_make_redoes_only_what_is_older_than_its_inputs(clone):
    """On empty files, whose times are all that make looks at."""
    def planned():
        out = subprocess.run(["make", "-n", "OUT=o", "DATA=d"], cwd=clone, capture_output=True, text=True, check=True).stdout
        return [m for m in re.findall(r"--out (\S+)", out)]
    order = [*["d"] * 6, "o/seed.pt", "o/math.pt", "o/code.pt", "o/wiki.pt", "o/btx_mixed.pt", "o/soup.pt", "o/btx.pt", "o"]
    assert planned() == order
    data = [f"d/{domain}/meta.json" for domain in ("general", "trivia", "math", "code", "wiki", "switch")]
    made = [".venv/ready", *data, *order[5:-1], "o/report.md"]
    now = time.time()
    for age, file in enumerate(made, -len(made)):  # a second apart, all newer than the scripts
        (clone / file).parent.mkdir(parents=True, exist_ok=True)
        (clone / file).touch()
        os.utime(clone / file, (now + age + 100, now + age + 100))
    assert planned() == []
    os.utime(clone / "finetune_router.py", (now + 200, now + 200))
    assert planned() == ["o/btx.pt", "o"]
    (clone / "o/code.pt").unlink()
    assert planned() == ["o/code.pt", *order[10:]]


def test_make_refuses_an_old_python_in_one_line(clone, tmp_path):
    old = tmp_path / "python3"
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 9, 1); exec(sys.argv[2])" "$@"\n')
    old.chmod(0o755)
    done = subprocess.run(["make", "-B", ".venv/ready", f"PYTHON={old}"], cwd=clone, capture_output=True, text=True)
    assert done.returncode and not (clone / ".venv/bin").exists()
    assert f"\n{old} is Python 3.9, but 3.10 or newer is needed: name one, as in make PYTHON=python3.12\n" in "\n" + done.stderr


def test_links_lead_somewhere():
    """To a file, a heading of a page, or the line on which a function begins."""
    for page, text in PAGES.items():
        for name, link, place in re.findall(r"\[([^\]]*)\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
            target = (page.parent / link).resolve() if link else page
            assert target.exists(), (page.name, link)
            if target.suffix == ".md" and place:
                headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
                assert place in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings], (page.name, place)
            elif place:
                lines = target.read_text().splitlines()
                there = [f"L{n}" for n, line in enumerate(lines, 1) if re.match(rf"\s*def {name}\(", line)]
                assert place in there, f"{page.name}: {name} is at {link}#{there}"
    table = README.split("## From the paper to the code")[1].split("\n## ")[0]
    assert len(re.findall(r"#L\d+\)", table)) > 20
    for test in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGES[ROOT / "docs" / "promises.md"]):
        assert f"def {test[1]}" in (ROOT / test[0]).read_text(), test


def test_the_speed_table_is_the_committed_one():
    measured = bench.shown(json.loads((ROOT / "results" / "bench.json").read_text()))
    rows = re.findall(r"\| `([\w, ]+)` \| ([\d.,]+) \|", PAGES[ROOT / "docs" / "speed.md"])
    assert len(rows) > 10
    for name, value in rows:
        assert measured[name] == value, name


@pytest.mark.parametrize("run", ["text", "smol"])
def test_the_tables_of_real_text_are_of_the_committed_runs(run):
    models = json.loads((ROOT / "results" / run / "results.json").read_text())["models"]
    for model in ("btx", "dense_dm", "su_dm"):
        score = sum(models[model]["bits_per_byte"][d] for d in ("python", "german", "dictionary")) / 3
        assert all(f"{score:.3f}" in (ROOT / page).read_text() for page in ("README.md", "results/README.md"))
    rows = re.findall(r"^\| (\w.*) \|$", (ROOT / "results" / run / "README.md").read_text(), re.M)[1:]
    names = {name: paper.NAMES.get(name, f"{name} expert") for name in models}
    assert len(rows) == len(models) and {row.split(" | ")[0] for row in rows} == {*names.values()}
    for model, name in names.items():
        cells = next(row.split(" | ")[1:] for row in rows if row.startswith(f"{name} |"))
        bits, since = models[model]["bits_per_byte"], {k: models[model][k] - models["seed"][k] for k in ("flops", "elapsed")}
        three = [bits[domain] for domain in ("python", "german", "dictionary")]
        assert cells == [*(f"{x:.3f}" for x in (*three, sum(three) / 3, bits["changing"])), f"{since['flops'] / 1e12:.1f}",
                         f"{since['elapsed']:.0f}"], name


def test_the_results_table_is_of_the_committed_one():
    """Fewer rows and columns of the report's Tables 1 and 2."""
    report, committed = (ROOT / "results" / "README.md").read_text(), {}
    for part in re.findall(r"## Table [12].*?\n\n(\|.*?)\n\n", report, re.S):
        head, _, *rows = [line.strip("| ").split(" | ") for line in part.splitlines()]
        committed |= {cells[0]: dict(zip(head[:8], cells[:8], strict=True)) for cells in rows}  # the rest is the paper's
    shown = re.search(r"<!-- results:.*?-->\n(.*?)\n\n", README, re.S)[1]
    head, _, *rows = [line.strip("| ").split(" | ") for line in shown.splitlines()]
    assert len(rows) == 9
    for name, *cells in rows:
        assert dict(zip(head[1:], cells, strict=True)).items() <= committed[name].items(), name
