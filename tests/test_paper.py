"""What the baselines match in a tiny `make paper`, the arithmetic of the tables by hand, and the written pages."""
import json
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from conftest import make
from PIL import Image

from experiments import tables
from experiments.budget import match_steps
from experiments.runs import points, pooled_interval
from support.report import spread

ROOT = Path(__file__).parent.parent


def read_rows(text):
    """The rows of all tables in a text, each as a tuple of its cells."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [tuple(cell.strip() for cell in row.strip("| ").split("|")) for row in rows]


@pytest.mark.long
def test_baselines_have_the_data_or_the_compute_of_btx(tmp_path):
    make("paper", "PRESET=tiny", "SEEDS=10", f"INTO={tmp_path}/out", f"DATA={tmp_path}/data", f"REPORT={tmp_path}")
    names = [row[0] for row in read_rows((tmp_path / "tables.md").read_text())]
    assert names.count("BTX Top-2") == 4
    models = json.loads((tmp_path / "runs/seed10.json").read_text())["models"]
    assert models["dense_dm"]["tokens"] == models["su_dm"]["tokens"] == models["btx"]["tokens"]
    assert models["su_cm_flops"]["flops"] == pytest.approx(models["btx"]["flops"], rel=0.1)  # of whole steps
    paid, btx_paid = (models[name]["tokens"] - models["seed"]["tokens"] for name in ("su_cm_paper", "btx"))
    assert paid == pytest.approx(252 / 533 * btx_paid, rel=0.1)
    assert models["large"]["active_params"] == pytest.approx(models["btx"]["active_params"], rel=0.01)
    assert 0 == models["dense_dm"]["moe_share"] < models["btx"]["moe_share"] < models["su_dm"]["moe_share"] == 1


def test_means_with_their_spread_and_differences_with_their_interval():
    assert spread([0.5, 0.61, 0.7], 100) == "60.3 ± 10.0" and points([0.5]) == "+50.0"
    assert points([0.01, 0.02, 0.03]) == f"+2.0 ± {4.3027 / 3**0.5:.1f}"
    assert pooled_interval([[0, 2] * 20, [5] * 40]) == pytest.approx(2.0227 / 39**0.5, rel=1e-5)  # as paired
    assert points([0.0, 0.02] * 5) == f"+1.0 ± {2.2622 * (10 / 9) ** 0.5 / 10**0.5:.1f}"


def test_steps_of_equal_cost():
    seed, branches = {"flops": 100, "tokens": 10}, {"flops": 30, "tokens": 3}
    btx = {"flops": 20, "tokens": 1, "settings": {"steps": 5}}
    upcycled = {"flops": 90, "tokens": 4}
    ledgers = [[entry | {"seconds": 1} for entry in ledger] for ledger in ([seed, upcycled], [seed, branches], [seed])]
    assert match_steps(btx, ledgers[0], ledgers[1], "flops") == (90 - 30) / (20 / 5)  # BTX finetuned longer
    assert match_steps(btx, ledgers[0], ledgers[2], "paper") == round(4 * 252 / 533 / (1 / 5))
    tree = [{"id": 0, "parents": [], "flops": 100}, {"id": 1, "parents": [0], "flops": 30},
            {"id": 2, "parents": [0], "flops": 52}]  # of two branches, the longer one counts
    assert match_steps(btx, tree, tree[:1], "chain") == 52 / (20 / 5)


@pytest.mark.parametrize("name", ["paper", "pretrained", "untrained", "one_or_all"])
def test_tables_are_what_the_code_makes_of_the_runs(name):
    folder = ROOT / "experiments" / name
    assert tables.make_page(folder, tables.read_pools(folder)) == (folder / "tables.md").read_text()


@pytest.mark.parametrize("name", ["paper", "pretrained", "untrained", "one_or_all", "when"])
def test_pictures_are_what_the_code_draws(name, tmp_path):
    """Nearly all pixels are the same, if the installed matplotlib is the one that has drawn the committed files."""
    folder = ROOT / "experiments" / name
    import_module(f"experiments.{name}.figures").draw(tables.read_pools(folder), tmp_path)
    again = {path.name for path in tmp_path.glob("*.png")}
    assert {path.name for path in folder.glob("*.png")} - {"levels.png"} == again  # its runs are not in this commit
    for path in map(folder.joinpath, again):
        with Image.open(path) as committed, Image.open(tmp_path / path.name) as drawn:
            if committed.text["Software"] != drawn.text["Software"]:
                pytest.skip(f"{path.name} is of {committed.text['Software']}")
            assert committed.size == drawn.size
            far = abs(np.array(committed, int) - np.array(drawn, int)).max(-1) > 25
        assert far.sum() <= 10, (path.name, far.sum())


def test_intervals_of_the_written_pages_stand_in_the_tables():
    """So do the rows that the page's picture draws."""
    paper = (ROOT / "experiments/paper/tables.md").read_text()
    every = "".join(path.read_text() for path in ROOT.glob("experiments/*/tables.md"))
    page = (ROOT / "page" / "index.html").read_text()
    pages = [ROOT / "README.md", *ROOT.glob("experiments/*/README.md"), ROOT / "experiments/one_or_all/pretrained.md"]
    written = [page, *(path.read_text() for path in pages)]
    intervals = r"\d+\.\d+ ± \d+\.\d+"
    for text in written:
        said = {*re.findall(intervals, " ".join(text.split()))}
        assert said <= {*re.findall(intervals, every)}
    drawn = json.loads(re.search(r'(?s)id="results">(.*?)</script>', page)[1])
    for _, chain, weights, one, changing in drawn:
        row = (f"{one[0]} ± {one[1]}", f"{changing[0]} ± {changing[1]}", f"{chain:.1f}", f"{weights:.2f}")
        assert row in [(*other[1:3], *other[4:6]) for other in read_rows(paper)]
