"""What the README and the docs say is true."""
import json
import os
import re
import shlex
import shutil
import subprocess
import time
from importlib import import_module
from pathlib import Path

import pytest
from conftest import make

import mix
import sample
from support.report import over_domains

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_every_command_runs(tmp_path, monkeypatch):
    """They run in order, since each reads what earlier ones wrote. Options added at the end make them smaller."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "data/start", "out/seed0")  # the part of the results of `make` that the commands need
    mix.main([f"out/seed0/{name}.pt" for name in ("seed", "math", "code", "wiki")] + ["--out=out/seed0/btx_mixed.pt"])
    steps = "--steps 2 --batch_size 2 --block_size 128 --eval_windows 1 --device cpu"
    smaller = {"data.prepare": "--train_tokens 3000 --val_tokens 600 --tasks 4", "train_expert": steps, "mix": "",
               "finetune_router": steps, "evaluate": "--tasks 2 --windows 2 --no_figures", "sample": "--tokens 4"}
    blocks = "".join(re.findall(r"```bash\n(.*?)```", README, re.S)).replace("\\\n", "")
    for line in re.findall(r"^(?:make|\.venv/bin/python) .*", blocks, re.M):
        script, *argv = shlex.split(line.removeprefix(".venv/bin/python ").removeprefix("-m "), comments=True)
        if script == "make":  # is only asked whether it would know what to do
            subprocess.run(["make", "-n", *argv], cwd=ROOT, capture_output=True, check=True)
            script, argv = "data.prepare", []
        script = script.removesuffix(".py")
        import_module(script).main([*argv, *smaller[script].split()])


def test_make_redoes_only_what_is_older_than_its_inputs(tmp_path):
    def planned():
        make = ["make", "-n", "SEED=1", f"OUT={tmp_path}/o", f"DATA={tmp_path}/d"]  # SEED=0 copies its seed
        out = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return [Path(name).name for name in re.findall(r"--out (\S+)", out)]

    order = ["seed.pt", "math.pt", "code.pt", "wiki.pt", "average.pt", "btx_mixed.pt", "btx.pt"]
    assert sorted(planned()) == sorted(["d", *order, "o"])
    for age, name in enumerate(["d/ready", *(f"o/{name}" for name in order), "o/report.md"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() + age, time.time() + age))
    assert planned() == []
    (tmp_path / "o" / "code.pt").unlink()
    assert sorted(planned()) == ["average.pt", "btx.pt", "btx_mixed.pt", "code.pt", "o"]


@pytest.mark.long
def test_the_outputs_that_pages_show_are_those_of_the_code(tmp_path, capsys):
    """The scores and answers of `make` in README.md, and the score of `make demo` in the assignment.

    The branches are those of data/start, which `make` trains again to the bit on the processor that made them.
    """
    out, data = tmp_path / "seed0", f"DATA={tmp_path}/data"
    make("data", data)
    out.mkdir()
    for name in ("seed", "math", "code", "wiki"):
        shutil.copyfile(ROOT / f"data/start/{name}.pt", out / f"{name}.pt")
    make(data, f"OUT={out}")
    make("demo", data, f"DEMO={tmp_path}/demo")
    full, demo = [json.loads((tmp_path / name / "results.json").read_text())["models"] for name in ("seed0", "demo")]
    said = re.search(r"`btx` should solve about (\d+) %, and the seed (\d+) %", README)
    for name, percent in zip(("btx", "seed"), said.groups(), strict=True):
        assert 100 * over_domains(full[name]["accuracy"]) == pytest.approx(int(percent), abs=2)
    assignment = (ROOT / "course/ASSIGNMENT.md").read_text()
    percent, loss = re.search(r"Our run has (.*) % and (.*)\. Five", assignment).groups()
    assert 100 * over_domains(demo["btx"]["accuracy"]) == pytest.approx(float(percent), abs=3)
    assert over_domains(demo["btx"]["loss"]) == pytest.approx(float(loss), abs=0.01)
    answers = re.findall(r'sample.py out/seed0/(\w+).pt \\\n +--prompt "(.*)"\n(.*)\n', README)
    assert len(answers) == 2
    for name, prompt, answer in answers:
        sample.main([f"{out}/{name}.pt", "--device", "cpu", "--prompt", prompt])
        assert capsys.readouterr().out.strip() == answer


def places(target):
    """The anchors of a page's headings."""
    headings = [line.lstrip("# ").lower() for line in target.read_text().splitlines() if line.startswith("#")]
    return [re.sub(r"[^\w -]", "", heading).replace(" ", "-") for heading in headings]


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *ROOT.glob("[!.o]*/**/*.md")]:
        for link, place in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
            target = (page.parent / link).resolve() if link else page
            assert target.exists(), (page.name, link)
            assert not place or place in places(target), (page.name, place, places(target))
        for name in re.findall(r"`((?!out/)(?:[a-z_]+/)*[a-z_]+\.(?:py|md|mk))`", page.read_text()):
            assert (ROOT / name).exists() or (page.parent / name).exists(), (page.name, name)


def test_the_method_is_quoted_as_it_stands():
    """It is compared line by line, in the order of the code."""
    code = "".join((ROOT / name).read_text() for name in ("model.py", "finetune_router.py"))
    quoted = re.search(r"```python\n(.*?)```", README, re.S)[1].splitlines()
    assert len(quoted) >= 12
    for line in [line.strip() for line in quoted if not line.startswith("#")]:
        assert line in code, line
        code = code.split(line, 1)[1]


def test_several_models_answer_after_words_of_another_domain(capsys):
    """A few words must not decide for the whole text who writes it."""
    models = [f"{ROOT}/data/start/{name}.pt" for name in ("seed", "math", "code", "wiki")]
    prompt = "Tom has 12 apples. Tom buys What was the trade of Lornen?"
    sample.main([*models, "--device", "cpu", "--prompt", prompt])
    assert capsys.readouterr().out.strip() == f"{prompt} printer."
