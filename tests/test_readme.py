"""The README is true: its commands run, its links lead somewhere, its table is the committed one."""
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import bench

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
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
    for file in subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True).splitlines():
        if (ROOT / file).is_file():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, folder / file)
    return folder


# what `python WORDS` does, for each list of words in a list, in one process: importing torch takes longer than such a command
RUN_ALL = """
import json, runpy, sys
for words in json.loads(sys.argv[1]):
    print(*words, file=sys.stderr)
    run = runpy.run_path if words[0].endswith(".py") else runpy.run_module
    sys.argv = words if words[0] != "-m" else words[1:]
    run(sys.argv[0], run_name="__main__")
"""


def test_every_command_runs(clone):
    """In order, since each uses what those before it wrote. make itself is asked only whether it would know what to do."""
    commands = [shlex.split(line) for line in COMMANDS]
    assert len(commands) > 8
    for words in commands:
        if words[0] == "make":
            subprocess.run(["make", "-n", *words[1:]], cwd=clone, capture_output=True, check=True)
            continue
        del words[:words.index("||") + 1 if "||" in words else 0]  # "test -e file || command": the clone has no file
        assert words.pop(0) == ".venv/bin/python", words
        script = words[1] if words[0] == "-m" else words[0]
        words += SMALL[script].split()
        if script == "train_expert.py" and "--init" not in words:
            words += "--n_layer 1 --n_embd 16 --n_head 2 --d_ff 16".split()
    scripts = json.dumps([words for words in commands if words[0] != "make"])
    done = subprocess.run([sys.executable, "-c", RUN_ALL, scripts], cwd=clone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_make_redoes_only_what_is_older_than_its_inputs(clone):
    """On empty files, whose times are all that make looks at."""
    def planned():
        out = subprocess.run(["make", "-n", "OUT=o", "DATA=d"], cwd=clone, capture_output=True, text=True, check=True).stdout
        return [m for m in re.findall(r"--out (\S+)", out)]
    order = ["d", "o/seed.pt", "o/math.pt", "o/code.pt", "o/wiki.pt", "o/soup.pt", "o/btx_mixed.pt", "o/btx.pt", "o"]
    assert planned() == order
    made = [".venv/ready", "d/switch/meta.json", *order[1:-1], "o/report.md"]
    now = time.time()
    for age, file in enumerate(made, -len(made)):  # a second apart, all newer than the scripts
        (clone / file).parent.mkdir(parents=True, exist_ok=True)
        (clone / file).touch()
        os.utime(clone / file, (now + age + 100, now + age + 100))
    assert planned() == []
    os.utime(clone / "finetune_router.py", (now + 200, now + 200))
    assert planned() == ["o/btx.pt", "o"]
    (clone / "o/code.pt").unlink()
    assert planned() == ["o/code.pt", *order[5:]]


def test_links_lead_somewhere():
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    for test in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", README):
        assert f"def {test[1]}" in (ROOT / test[0]).read_text(), test


def test_names_of_functions_exist():
    """Those that the table from the paper to the code mentions, in the file it names or in model.py."""
    table = README.split("## From the paper to the code")[1].split("##")[0]
    sources = "".join(p.read_text() for p in ROOT.glob("*.py"))
    names = re.findall(r"`([a-z_]+\d?)`", table)
    assert len(names) > 10
    for name in names:
        assert f"def {name}(" in sources, name


def test_the_speed_table_is_the_committed_one():
    one, two = (bench.shown(json.loads((ROOT / "results" / file).read_text())) for file in ("bench.json", "bench_zen4.json"))
    rows = re.findall(r"\| `([\w, ]+)` \| ([\d.,]+) \| ([\d.,]+) \|", README.split("## Speed")[1].split("\n## ")[0])
    assert len(rows) > 10
    for name, *values in rows:
        assert [one[name], two[name]] == values, name


def test_the_results_table_is_the_committed_one():
    committed = (ROOT / "results" / "demo" / "README.md").read_text()
    shown = re.search(r"<!-- results:.*?-->\n(.*?)\n\n", README, re.S)[1]
    assert len(shown.splitlines()) == 10 and shown in committed
