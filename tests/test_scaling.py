"""docs/scaling.md's numbers follow from its formulas, and the formulas are the model's."""
import re
from pathlib import Path

import pytest
import torch

from model import GPT, GPTConfig

TEXT = (Path(__file__).parent.parent / "docs" / "scaling.md").read_text()
PROSE = " ".join(TEXT.split())  # whatever its lines
LLAMA = dict(vocab_size=32000, block_size=4096, n_layer=32, n_head=32, n_embd=4096, d_ff=11008)


def model(**changes):
    with torch.device("meta"):
        return GPT(GPTConfig(**LLAMA | changes))


def row(start):
    return re.search(rf"^\| {re.escape(start)}.*$", TEXT, re.M)[0]


def test_parameters():
    dense, moe, soft = model(), model(n_expert=4, top_k=2), model(n_expert=4, routing="soft")
    P, F = dense.num_params(), 3 * 32 * 4096 * 11008
    router = 4 * 4096 * 32
    assert moe.num_params() == P + 3 * F + router and moe.num_params(active=True) == P + F + router
    for start, count in (("dense parameters", P), ("MoE parameters", moe.num_params()),
                         ("active for a token, Top-k", moe.num_params(True)), ("active for a token, all", soft.num_params(True))):
        assert f"{count / 1e9:.2f} B" in row(start), start
    large = model(n_expert=64)
    assert f"{large.num_params() / 1e9:.0f} B" in PROSE and f"{large.num_params(True) / 1e9:.2f} B" in PROSE


def test_the_share_of_compute_in_moe_training_is_the_papers():
    experts, finetuning = 6 * 453e9 * model().num_params(), 6 * 80e9 * model(n_expert=4).num_params(True)
    share = finetuning / (experts + finetuning)
    assert share == pytest.approx(0.23, abs=0.01)  # Table 3
    assert f"| {experts:.2e} | {1 - share:.1%}".replace("e+", "e").replace("%", " %") in row("math, code and wiki")
    assert f"| {finetuning:.2e} | {share:.1%}".replace("e+", "e").replace("%", " %") in row("MoE finetuning | 80")


def test_the_plan():
    dense, moe, speed = model().flops_per_token(), model(n_expert=4).flops_per_token(), 8 * 0.4 * 989e12
    assert f"{dense / 1e9:.0f} GFLOP dense" in PROSE and f"{moe / 1e9:.0f} GFLOP as Top-2" in PROSE
    assert f"{3 * 10e9 * dense / speed / 86400:.1f} days" in row("the same, one after")
    assert f"{10e9 * dense / (speed / 4) / 86400:.1f} days" in row("three experts")
    assert f"{2e9 * moe / speed / 3600:.0f} hours" in row("MoE finetuning | 8, sharded")
    assert f"{453e9 * dense / speed / 86400:.0f} + {80e9 * moe / speed / 86400:.0f} days" in row("the paper's tokens")
