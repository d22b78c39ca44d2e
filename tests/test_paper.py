"""What the baselines match in a tiny `make paper`, the arithmetic of the tables by hand, and the written pages."""
import json
import re
from importlib import import_module
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
from conftest import make
from PIL import Image

from experiments import tables
from experiments.budget import match_steps
from experiments.runs import critical_t, having, holm, p_value, points, pooled_interval, read_runs, scores
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


def test_p_values_and_their_correction():
    """Student's t by the tables; of four p-values the smallest counts four times."""
    for degrees, t in {1: 12.706, 2: 4.303, 4: 2.776, 9: 2.262, 30: 2.042}.items():
        assert critical_t(degrees) == pytest.approx(t, abs=6e-4)
    assert p_value(-4.604, 4) == pytest.approx(0.01, abs=1e-5) and p_value(63.657, 1) == pytest.approx(0.01, abs=1e-5)
    assert holm([0.04, 0.01, 0.03, 0.6]) == pytest.approx([0.09, 0.04, 0.09, 0.6])


def test_steps_of_equal_cost():
    seed, branches = {"flops": 100, "tokens": 10}, {"flops": 30, "tokens": 3}
    btx = {"flops": 20, "tokens": 1, "settings": {"steps": 5}}
    upcycled = {"flops": 90, "tokens": 4}
    ledgers = [[entry | {"seconds": 1} for entry in ledger] for ledger in ([seed, upcycled], [seed, branches], [seed])]
    assert match_steps(btx, ledgers[0], ledgers[1], "flops") == (90 - 30) / (20 / 5)  # BTX finetuned longer
    assert match_steps(btx, ledgers[0], ledgers[2], "paper") == round(4 * 252 / 533 / (1 / 5))


@pytest.mark.parametrize("inequalities, holds", [
    (["1/random_48 1/random_192 > 2/random_48"], True), (["1/random_192 > 2/random_48"], False),
    (["1/random_48 > 2/random_48", "2/random_48 > 1/random_48 1/random_192"], False)])
def test_an_ordering_holds_if_all_its_inequalities_do(inequalities, holds):
    """BTX − average is 5 points after 48 steps and 3 after 192 with longer branches, and 4 with shorter ones."""
    models = {}
    for name, gap in {"1/random_48": 0.05, "1/random_192": 0.03, "2/random_48": 0.04}.items():
        for method, score in ((name, 0.5 + gap), (name.replace("random", "average"), 0.5)):
            models[method] = {"accuracy": dict.fromkeys(tables.DOMAINS, score)}
    run = {"models": models}
    assert tables.ordering_cells([run], "all", *inequalities) == (["yes", "1 of 1"] if holds else ["**no**", "0 of 1"])


@pytest.mark.parametrize("name", ["paper", "pretrained", "when"])
def test_tables_are_what_the_code_makes_of_the_runs(name):
    folder = ROOT / "experiments" / name
    assert tables.make_page(folder, tables.read_pools(folder)) == (folder / "tables.md").read_text()


@pytest.mark.parametrize("name", ["paper", "pretrained", "when"])
def test_pictures_are_what_the_code_draws(name, tmp_path):
    """Nearly all pixels are the same, if the installed matplotlib is the one that has drawn the committed files."""
    folder = ROOT / "experiments" / name
    import_module(f"experiments.{name}.figures").draw(tables.read_pools(folder), tmp_path)
    assert {path.name for path in folder.glob("*.png")} == {path.name for path in tmp_path.glob("*.png")}
    for path in folder.glob("*.png"):
        with Image.open(path) as committed, Image.open(tmp_path / path.name) as drawn:
            if committed.text["Software"] != drawn.text["Software"]:
                pytest.skip(f"{path.name} is of {committed.text['Software']}")
            assert committed.size == drawn.size
            far = abs(np.array(committed, int) - np.array(drawn, int)).max(-1) > 25
        assert far.sum() <= 10, (path.name, far.sum())


def test_numbers_of_the_written_pages_stand_in_the_tables():
    """So do the rows that the page's picture draws."""
    page = (ROOT / "page" / "index.html").read_text()
    readme, paper, pretrained, when = ((ROOT / "experiments" / name).read_text() for name in (
        "paper/README.md", "paper/tables.md", "pretrained/tables.md", "when/tables.md"))
    number = r"\d+\.\d+ ± \d+\.\d+"
    for text in (" ".join(text.split()) for text in (readme, (ROOT / "README.md").read_text(), page)):
        for kind in (number, "[+-]" + number):  # with a sign, it is a difference
            said = {*re.findall(kind, text)}
            assert said and said <= {*re.findall(kind, paper + pretrained + when)}, said
    drawn = json.loads(re.search(r'(?s)id="results">(.*?)</script>', page)[1])
    for _, chain, weights, one, changing in drawn:
        row = (f"{one[0]} ± {one[1]}", f"{changing[0]} ± {changing[1]}", f"{chain:.1f}", f"{weights:.2f}")
        assert row in [(*other[1:3], *other[4:]) for other in read_rows(paper)]


@pytest.mark.parametrize("name, elsewhere", [
    ("pretrained", {"95", "100"}),  # an interval's level, and a branch's steps
    ("when", {*"95 100 400 24 26".split()})])  # a level, steps, and two counts
def test_numbers_of_a_page_stand_in_its_tables(name, elsewhere):
    page, table = ((ROOT / "experiments" / name / file).read_text() for file in ("README.md", "tables.md"))
    number = r"(?<![\w.])\d+(?:\.\d+)?(?:e-\d)?(?: ± \d+\.\d+)?\b"
    known = {*re.findall(number, "".join(re.findall(r"(?m)^\|.*", table)))}
    known |= {cell.split(" ±")[0] for cell in known}  # a mean without its spread
    page = " ".join(re.sub(r"\]\(.*?\)|`.*?`|(?m:^\d\.)", "", page).split())
    said = {*re.findall(number, page)} - elsewhere
    assert len(said) >= 25 and said <= known, said - known
    signed = r"(?<![\w.])[+-]\d+\.\d+ ± \d+\.\d+"
    assert {*re.findall(signed, page)} <= {*re.findall(signed, table)}


def test_counts_and_means_that_pages_say():
    folder = ROOT / "experiments" / "pretrained"
    assert (folder / "tables.md").read_text().count(" yes |\n") == 8  # "Eight of fourteen hold"
    parts = (ROOT / "experiments/when/tables.md").read_text().split("\n## ")
    held = {part.split("\n")[0]: part.count(" yes |\n") for part in parts}
    assert held["Predictions"] == 26  # "Of thirty, 26 hold"
    assert held["A control: four copies of the average in place of the branches"] == 4
    assert held["BTX at the average's rate, 1540 steps, random routers"] == 6
    when = read_runs(ROOT / "experiments/when/runs")
    assert held["Pretrained seed: predictions"] == 11  # of twelve
    seed_14 = having(when, "400/average")[1]["models"]
    assert [seed_14[f"{n}/math"]["accuracy"]["math"] for n in (100, 400)] == [0.74, 0.745]  # tables.md says so
    grid = having(when, "1100/average_770")
    copied = read_runs(ROOT / "experiments/paper/equal_flops")  # its finetuned averages are the grid's
    for name, of_grid in {"average_chain": "1100/average_770", "average_twice": "1100/average_1540"}.items():
        assert [run["models"][name] for run in copied] == [run["models"][of_grid] for run in grid]
    for models in (run["models"] for run in grid):
        btx, average = models["1100/random_770"], models["1100/average_770"]
        assert round(btx["params"] / average["params"], 1) == 2.8  # when/README.md says so, and 1.5 times the steps
        tokens = [model["tokens"] - models["1100/average"]["tokens"] for model in (btx, average)]
        assert round(tokens[1] / tokens[0], 1) == 1.5
        assert btx["chain_flops"] == pytest.approx(average["chain_flops"], rel=1e-3)
    registered = tables.read_predictions((folder / "predictions.md").read_text(), "predictions")
    template = (folder / "tables.template").read_text()
    assert template.count("**{points") == len(registered)  # bold
    for row in registered:
        cell = f"{{points: {row['pair']}, {row['column']}}}"
        assert cell not in template or f"**{cell}**" in template
    runs = read_runs(folder / "runs")
    for column in ("home", "capital"):
        a, b, c = (100 * mean(scores(runs, name, column)) for name in ("btx", "btx_53", "btx_120"))
        assert f"{a:.0f}, {b:.0f} and {c:.0f} %" in (folder / "README.md").read_text()
