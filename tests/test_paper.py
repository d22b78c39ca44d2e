"""What the baselines match, in a tiny `make paper`; and the arithmetic of its report, by hand."""
import json
import re
from pathlib import Path

import pytest
from conftest import make

from experiments import paper, unread
from experiments.budget import match_steps
from experiments.grid import make_cells
from experiments.paired import holm, t_test


@pytest.mark.long
def test_baselines_have_the_data_or_the_compute_of_btx(tmp_path, capsys):
    make(["paper", "PRESET=tiny", "SEEDS=10", "BEYOND_SEEDS=10", f"INTO={tmp_path}/out", f"DATA={tmp_path}/data",
          f"REPORT={tmp_path}"], capsys)
    assert (tmp_path / "README.md").read_text().count("| BTX Top-2 |") > 2
    models = paper.read_run(tmp_path / "seed10.json")["models"]
    assert models["dense_dm"]["tokens"] == models["su_dm"]["tokens"] == models["btx"]["tokens"]
    assert models["su_cm_flops"]["flops"] == pytest.approx(models["btx"]["flops"], rel=0.1)  # of whole steps
    paid, btx_paid = (models[name]["tokens"] - models["seed"]["tokens"] for name in ("su_cm_paper", "btx"))
    assert paid == pytest.approx(252 / 533 * btx_paid, rel=0.1)
    assert models["large"]["active_params"] == pytest.approx(models["btx"]["active_params"], rel=0.01)
    assert 0 == models["dense_dm"]["moe_share"] < models["btx"]["moe_share"] < models["su_dm"]["moe_share"] == 1


def test_the_registered_hypotheses_are_all_in_the_report():
    """registered.md says how many there are."""
    template = (Path(paper.__file__).parent / "paper.md").read_text()
    signs = [words.split()[1] for words in paper.Report([], template).rows("judge registered")]
    assert (signs.count(">"), signs.count("≈"), len(signs)) == (21, 4, 25)


def test_verdicts():
    p = 1 - 12**0.5 / (2 + 12) ** 0.5  # of three differences it is 1 - t / sqrt(2 + t^2), and here t = 2 sqrt(3)
    assert t_test([1.0, 2.0, 3.0]) == pytest.approx((p, 4.3027 / 3**0.5), rel=1e-3)
    assert holm([0.01, 0.025, 0.02]) == pytest.approx([0.03, 0.04, 0.04]) and holm([0.6, 0.7]) == [1.0, 1.0]
    runs = []
    for row in ((0.5, 0.4, 0.45, 0.5), (0.61, 0.5, 0.51, 0.61), (0.7, 0.6, 0.69, 0.69)):
        models = [{"accuracy": dict.fromkeys(paper.DOMAINS, s) | {"switch": 0.0},
                   "loss": dict.fromkeys(paper.DOMAINS, 1 - s)} for s in row]
        runs.append({"models": dict(zip(("btx", "su_dm", "dense_dm", "large"), models, strict=True))})
    rows = "[[judge t btx > su_dm all]]\n[[judge t btx > dense_dm all]]\n[[judge t btx ≈ large all]]"
    won, unsure, equal = paper.Report(runs, rows).fill(rows).split("\n")
    p = 2 * t_test([0.1, 0.11, 0.1])[0]  # the smaller one of two that are tested
    loss = " | ".join(["-10.33 ± 1.43"] * 3)
    assert won == f"**+10.3 ± 1.4** | +10.3 ± 1.4 | +10.3 ± 1.4 | +8.6 ± 1.2 | {loss} | 3 | {p:.3f} | yes"
    assert unsure.endswith("| open") and equal.endswith("| 3 |  | yes")
    verdicts = [paper.decide_equal(differences) for differences in ([0.1, 0.11], [0.0, 0.05], [0.0, 0.2])]
    assert verdicts == ["**no**", "open", "open"]
    assert [paper.decide_greater([d, d], p=0.0) for d in (0.001, -0.1)] == ["open", "**no**"]  # too small; wrong way
    assert paper.Report(runs[:1]).scores("btx").endswith("50.0 | 0.0 | 50.0")  # the mean is without switch
    points = [{"models": {"math": run["models"]["btx"]}} for run in runs]
    assert make_cells("math", "math", points) == "50.0 (0.500) | 61.0 (0.390) | **70.0** (0.300)"


def test_steps_of_equal_cost():
    seed, branches = {"flops": 100, "tokens": 10}, {"flops": 30, "tokens": 3}
    btx = {"flops": 20, "tokens": 1, "settings": {"steps": 5}}
    upcycled = {"flops": 90, "tokens": 4}
    ledgers = [[entry | {"seconds": 1} for entry in ledger] for ledger in ([seed, upcycled], [seed, branches], [seed])]
    assert match_steps(btx, ledgers[0], ledgers[1], "flops") == (90 - 30) / (20 / 5)  # BTX finetuned longer
    assert match_steps(btx, ledgers[0], ledgers[2], "paper") == round(4 * 252 / 533 / (1 / 5))


def test_text_of_the_read_half_tells_its_facts_and_no_unread_one(tmp_path):
    unread.write_halves(tmp_path)

    def read(name):
        return [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]

    texts = [{*re.findall(r"\w+", document["text"])} for document in read("read.jsonl")]

    def is_told(task):
        name, answer = re.findall(r"[A-Z]\w+", task["prompt"])[-1], task["answer"].strip(" .")
        return any({name, answer} <= text for text in texts)

    assert all(map(is_told, read("read.tasks.jsonl")))
    unread_tasks = read("unread.tasks.jsonl")
    assert not any(map(is_told, unread_tasks)) and len(unread_tasks) == 520 * 5 / 2
