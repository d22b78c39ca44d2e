"""`make paper` from end to end at a tiny size, and the arithmetic of its report."""
import json
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from experiments import budget, paper, regimes
from support import checkpoint as ckpt

ROOT = Path(__file__).parent.parent


LONG = pytest.mark.long  # for what needs the whole of it


@pytest.fixture(scope="module")
def tiny_paper(tmp_path_factory, warm):
    """The folder of a whole `make -j2 paper` of one seed, killed once and started again; results/ in it. Only read it."""
    folder = tmp_path_factory.mktemp("paper")
    command = ["make", "-j2", "-o", ".venv/ready", "paper", "SEEDS=1", "SIZE=tiny", f"PY={shlex.join(warm)}",
               f"PAPER={folder}/out",
               f"PAPER_DATA={folder}/data", f"REPORT={folder}/results"]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while not list(folder.glob("out/seed0/*.state")) and not (folder / "out/seed0/seed.pt").exists():
        time.sleep(0.1)
    time.sleep(2)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (folder / "results").exists()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, command


@LONG
def test_the_report_is_whole(tiny_paper):
    folder = tiny_paper[0] / "results"
    text = (folder / "README.md").read_text()
    assert "[[" not in text and "{" not in text and text.count("| BTX Top-2 |") >= 2
    numbers = json.loads((folder / "seed0.json").read_text())
    assert len(numbers["models"]) >= 30 and set(numbers["hard"]) == {"btx_sample"}
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        if not link.startswith(("http", "..", "grid", "demo", "regimes")):
            assert (folder / link).exists(), link
    assert (folder / "table6.html").read_text().count('"gates":') == 4


@LONG
def test_a_second_make_does_nothing_but_the_report(tiny_paper):
    planned = subprocess.run([*tiny_paper[1], "-n"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not re.search(r"train_expert|finetune_router|mix\.py|evaluate|data\.prepare", planned) \
        and "experiments.paper" in planned


@LONG
def test_baselines_have_the_data_or_the_compute_of_btx(tiny_paper):
    models = json.loads((tiny_paper[0] / "results" / "seed0.json").read_text())["models"]
    assert models["dense_dm"]["tokens"] == models["su_dm"]["tokens"] == models["btx"]["tokens"]
    assert models["su_cm_flops"]["flops"] == pytest.approx(models["btx"]["flops"], rel=0.1)  # of whole steps
    assert models["su_cm_flops"]["moe_share"] == models["su_dm"]["moe_share"] == 1.0
    assert 0 < models["btx"]["moe_share"] < 1 and models["dense_dm"]["moe_share"] == 0
    assert models["large"]["active_params"] == pytest.approx(models["btx"]["active_params"], rel=0.01)


def test_budget_by_hand(tmp_path, capsys, monkeypatch):
    entry = ckpt.ledger_entry
    seed = [entry("train", "seed", [], flops=100, seconds=10.0)]
    branches = [entry("train", name, [seed[0]["id"]], flops=f, seconds=s) for name, f, s in (("a", 40, 6.0), ("b", 10, 3.0))]
    other = seed + branches + [entry("finetune", "c", [e["id"] for e in branches], flops=25, seconds=3.0)]
    model = seed + [entry("finetune", "d", [], flops=30, seconds=4.0, ranks=2, settings={"steps": 10})]
    monkeypatch.setattr(ckpt, "load", lambda path: {"lineage": {"seed.pt": seed, "other.pt": other, "model.pt": model}[path]})
    for by, want in (("flops", 25), ("time", 30), ("elapsed", 45)):  # 75 / 30, 12 / 4 and 9 / 2 times ten steps
        budget.main(["model.pt", "--like", "other.pt", "--since", "seed.pt", "--by", by])
        assert capsys.readouterr().out == f"{want}\n"


def fake_runs(**scores):
    """Runs in which a model's accuracy is the same in all domains."""
    n = len(next(iter(scores.values())))
    return paper.Results([{"models": {m: {"accuracy": dict.fromkeys(paper.DOMAINS, v[i]),
                                          "loss": dict.fromkeys(paper.DOMAINS, 1 - v[i])} for m, v in scores.items()}}
                          for i in range(n)])


def test_verdicts_by_hand():
    r = fake_runs(btx=[0.5, 0.6, 0.7], su_dm=[0.4, 0.5, 0.6], dense_dm=[0.5, 0.7, 0.6])
    assert r.difference("btx", "su_dm") == pytest.approx((0.1, 0.0))
    assert r.difference("btx", "dense_dm") == pytest.approx((0.0, 0.1 / 3**0.5))
    assert r.verdict("btx", ">", "su_dm")[1:] == ["+10.0 ± 0.0", "+0.100", "yes"]
    assert r.verdict("btx", ">", "dense_dm")[3] == "not clearly" and r.verdict("su_dm", ">", "btx")[3] == "**no**"
    assert r.verdict("btx", "~", "su_dm")[3] == "**no**" and r.verdict("btx", "~", "dense_dm")[3] == "yes"
    one = fake_runs(btx=[0.5], su_dm=[0.9])
    assert one.verdict("btx", ">", "su_dm")[3] == "**no**" and one.verdict("su_dm", ">", "btx")[3] == "yes"
    assert paper.full("top2_short") == "Top-2 (short)" and paper.full("btx") == "BTX Top-2"


def write_results(folder, **scores):
    """A some/results.json in which each model's accuracy is the same in all domains."""
    models = {m: {"accuracy": dict.fromkeys(paper.DOMAINS, v), "loss": dict.fromkeys(paper.DOMAINS, 1 - v), "tokens": 4e6,
                  "params": 1000} for m, v in scores.items()}
    (folder / "some").mkdir(parents=True)
    machine = {"cores": 2, "cpu": "abacus", "torch": "2", "commit": "0"}
    (folder / "some" / "results.json").write_text(json.dumps({"models": models, "machine": machine}))
    return str(folder)


def test_the_grid_marks_the_best_rate_of_each_model(tmp_path):
    folders = [write_results(tmp_path / "1e-3", btx=0.5, dense_dm=0.25), write_results(tmp_path / "4e-3", btx=0.25, dense_dm=0.5),
               write_results(tmp_path / "branch-1e-3", math=0.5)]
    paper.main(["--grid", *folders, "--out", str(tmp_path / "out")])
    text = (tmp_path / "out" / "grid.md").read_text()
    assert "| BTX Top-2 | **50.0** (0.500) | 25.0 (0.750) |" in text
    assert "| Dense (DM) | 25.0 (0.750) | **50.0** (0.500) |" in text
    assert "| math expert | **50.0** (0.500) |" in text


def test_regimes_by_hand(tmp_path):
    scores = {"seed": 0.1, "math": 0.3, "code": 0.6, "wiki": 0.9, "top2_mixed": 0.2, "dense_dm": 0.5, "su_dm": 0.75, "btx": 0.625}
    folders = [write_results(tmp_path / name, **scores) for name in ("100-1000_1e-3", "100-4000_1e-3", "400-1000_1e-3")]
    regimes.main([*folders, "--out", str(tmp_path / "out")])
    text = (tmp_path / "out" / "regimes.md").read_text()
    assert "| 400 | 2400 | 4.0 | 1e-3 | 10.0 | 60.0 | 20.0 | 50.0 | 75.0 | 62.5 |" in text
    assert (tmp_path / "out" / "figures" / "regimes.png").read_bytes().startswith(b"\x89PNG")
