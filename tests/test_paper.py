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

from experiments import budget, grid, paper, regimes
from support import checkpoint as ckpt
from support import ledger
from support.settings import BadInput

ROOT = Path(__file__).parent.parent


LONG = pytest.mark.long  # for what needs the whole of it


@pytest.fixture(scope="module")
def tiny_paper(tmp_path_factory, warm):
    """The folder of a whole `make -j2 paper` of one seed, killed once and started again; results/ in it. Only read it."""
    folder = tmp_path_factory.mktemp("paper")
    command = ["make", "-j2", "-o", ".venv/ready", "paper", "SEEDS=1", "PRESET=tiny", f"PY={shlex.join(warm)}",
               f"INTO={folder}/out", f"DATA={folder}/data", f"REPORT={folder}/results"]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while not list(folder.glob("out/seed0/*.state")) and not (folder / "out/seed0/seed.pt").exists():
        assert first.poll() is None
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
        if not link.startswith(("http", "..", "grid", "regimes", "registered", "text/", "smol/")):
            assert (folder / link).exists(), link
    assert (folder / "table6.html").read_text().count('"gates":') == 5


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
    paid = [models[m]["tokens"] - models["seed"]["tokens"] for m in ("su_cm_paper", "btx")]
    assert paid[0] == pytest.approx(252 / 533 * paid[1], rel=0.1)
    assert 0 < models["btx"]["moe_share"] < 1 and models["dense_dm"]["moe_share"] == 0
    assert models["large"]["active_params"] == pytest.approx(models["btx"]["active_params"], rel=0.01)


def test_budget_by_hand(tmp_path, capsys, monkeypatch):
    entry = ledger.entry
    seed = [entry("train", "seed", [], flops=100, seconds=10.0)]
    branches = [entry("train", name, [seed[0]["id"]], flops=f, seconds=s) for name, f, s in (("a", 40, 6.0), ("b", 10, 3.0))]
    other = seed + branches + [entry("finetune", "c", [e["id"] for e in branches], flops=25, seconds=3.0)]
    model = seed + [entry("finetune", "d", [], flops=30, seconds=4.0, ranks=2, settings={"steps": 10})]
    monkeypatch.setattr(ckpt, "load", lambda path: {"lineage": {"seed.pt": seed, "other.pt": other, "model.pt": model}[path]})
    for by, want in (("flops", 25), ("time", 30), ("elapsed", 45)):  # 75 / 30, 12 / 4 and 9 / 2 times ten steps
        budget.main(["model.pt", "--like", "other.pt", "--since", "seed.pt", "--by", by])
        assert capsys.readouterr().out == f"{want}\n"


def fake_runs(**scores):
    """Runs in which a model's accuracy is the same in all domains, and another on switch."""
    n = len(next(iter(scores.values())))
    return paper.Results([{"models": {m: {"accuracy": dict.fromkeys(paper.DOMAINS, v[i]) | {"switch": 0.0},
                                          "loss": dict.fromkeys(paper.COLUMNS, 1 - v[i])}
                                      for m, v in scores.items() if v[i] is not None}}
                          for i in range(n)])


def test_verdicts_by_hand():
    """The mean leaves switch out; a difference must be significant after Holm's correction, and large enough to count."""
    r = fake_runs(btx=[0.5, 0.61, 0.7], su_dm=[0.4, 0.5, 0.6], dense_dm=[0.5, 0.7, 0.6], large=[0.4999, 0.6099, 0.6999])
    assert r.of("btx", "all") == pytest.approx([0.5, 0.61, 0.7])
    assert r.of("btx", "switch") == pytest.approx([0.5 * 5 / 6, 0.61 * 5 / 6, 0.7 * 5 / 6])
    (su, dense, large), = [list(r.verdicts([("btx", ">", m, "all") for m in ("su_dm", "dense_dm", "large")]))]
    assert su[0] == "BTX Top-2 > sparse upcycling (DM)" and su[1] == "**+10.3 ± 1.4**" and su[2] == "+10.3 ± 1.4"
    t = 0.31 / 3 / (0.01 / 3**0.5 / 3**0.5)  # mean over error; its p by the closed form for two degrees of freedom
    p = 2 * 1 - 2 * (0.5 + t / (2 * 2**0.5 * (1 + t * t / 2) ** 0.5))
    assert su[5] == "3" and float(su[6]) == pytest.approx(2 * p, abs=6e-4) and su[7] == "yes"
    assert dense[7] == "open" and large[7] == "open", "not significant; too small to count"
    back, = r.verdicts([("su_dm", ">", "btx", "all")])
    assert back[7] == "**no**"
    level = r.verdicts([("btx", "~", m, "all") for m in ("su_dm", "dense_dm", "large")])
    assert [row[7] for row in level] == ["**no**", "open", "yes"]
    partly, = fake_runs(btx=[0.5, 0.5], su_dm=[0.25, None]).verdicts([("btx", ">", "su_dm", "all"), ("btx", ">", "large", "all")])
    assert partly[1] == "**+25.0**" and partly[5] == "1", "in the runs that have both; and no row for what no run has"
    one, = fake_runs(btx=[0.5], su_dm=[0.9]).verdicts([("btx", ">", "su_dm", "all")])
    assert one[1] == "**-40.0**" and one[7] == "one seed"
    assert paper.full("top2_short") == "Top-2 (short)" and paper.full("btx") == "BTX Top-2"


def write_results(folder, **scores):
    """A grid/results.json in which each model's accuracy is the same in all domains."""
    models = {m: {"accuracy": dict.fromkeys(paper.DOMAINS, v), "loss": dict.fromkeys(paper.DOMAINS, 1 - v), "tokens": 4e6,
                  "flops": 1e9} for m, v in scores.items()}
    (folder / "grid").mkdir(parents=True)
    machine = {"cores": 2, "cpu": "abacus", "torch": "2", "commit": "0"}
    (folder / "grid" / "results.json").write_text(json.dumps({"models": models, "machine": machine}))
    return str(folder)


def test_the_grid_marks_the_best_rate_of_each_model(tmp_path):
    folders = [write_results(tmp_path / "1e-3", btx=0.5, dense_dm=0.25), write_results(tmp_path / "4e-3", btx=0.25, dense_dm=0.5),
               write_results(tmp_path / "branch-1e-3", math=0.5), write_results(tmp_path / "large-5e-3", large=0.5)]
    grid.main([*folders, "--out", str(tmp_path / "out")])
    text = (tmp_path / "out" / "grid.md").read_text()
    assert "| BTX Top-2 | **50.0** (0.500) | 25.0 (0.750) |" in text
    assert "| Dense (DM) | 25.0 (0.750) | **50.0** (0.500) |" in text
    assert "| math expert | **50.0** (0.500) |" in text and "| larger dense model, from scratch | **50.0** (0.500) |" in text


def test_regimes_by_hand(tmp_path):
    same = {"seed": 0.5, "btx_mixed": 0.25, "su_dm": 0.75}
    folders = [write_results(tmp_path / name, soup=soup, btx=btx, **same) for name, soup, btx in (
        ("2000_1e-3_0", 0.5, 0.75), ("2000_1e-3_1", 0.25, 0.5), ("8000_1e-3_0", 0.25, 0.5))]
    recipe = tmp_path / "2000_1e-3_1" / "grid" / "results.json"
    regimes.main([*folders, "--out", str(tmp_path / "out"), "--recipe", str(recipe), "--recipe_cell", "9000_1e-3"])
    text = (tmp_path / "out" / "regimes.md").read_text()
    cells = "50.0 ± 0.0 | 37.5 ± 17.7 | 25.0 ± 0.0 | 75.0 ± 0.0 | 62.5 ± 17.7 | -12.5 ± 17.7 | -12.5 ± 17.7"
    assert f"| 2000 | 1e-3 | 2 | {cells} |" in text
    assert "| 9000 | 1e-3 | 1 | 50.0 | 25.0 | 25.0 | 75.0 | 50.0 | -25.0 | -25.0 |" in text
    assert "over all runs: 1.00." in text
    assert (tmp_path / "out" / "figures" / "regimes.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "regimes.json").write_bytes(recipe.read_bytes())
    with pytest.raises(BadInput, match="is an input, too"):
        regimes.main(["--out", str(tmp_path), "--recipe", str(tmp_path / "regimes.json"), "--recipe_cell", "9000_1e-3"])
