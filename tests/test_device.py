"""Tensors are made on the device of their inputs, and a Mac's GPU is taken only where it is asked for."""
import re
from unittest.mock import Mock, patch

import pytest
import torch

from experiments import bench
from model import ROUTERS, gumbel, load_balancing_loss, mean_gates_and_probs
from support import fast, ranks
from support.btm import BTM, METHODS
from support.device import pick_device
from support.generation import generate
from tests.test_model import new_model, random_tokens

TOKENS = random_tokens()
# A program waits for a GPU where it must know the size or the value of a result. A boolean index calls nonzero. (On a
# CPU the grouped product calls item; on a GPU it does not.)
WAITS = [f"aten::{name}" for name in ("nonzero", "bincount", "masked_select", "_unique2", "item")]


def test_auto_leaves_the_gpu_of_a_mac_alone(monkeypatch):
    for backend in (torch.accelerator, torch.backends.mps):
        monkeypatch.setattr(backend, "is_available", lambda: True)
    assert pick_device("auto").type == "cpu"


def test_each_rank_takes_its_gpu_and_averages_gradients_with_the_others(monkeypatch):
    monkeypatch.setenv("RANK", "7")
    monkeypatch.setenv("LOCAL_RANK", "3")
    with (patch.object(torch, "cuda") as cuda, patch.object(ranks, "pick_device"),
          patch.object(ranks, "dist"), patch.object(ranks, "DistributedDataParallel") as ddp):
        device, _, _ = ranks.join_ranks("cuda")
        assert ranks.wrap(Mock(), device, is_sharded=False) is ddp.return_value
    cuda.set_device.assert_called_once_with(3)


def test_the_benchmark_compares_all_models(capsys):
    bench.main(["--n_embd", "16", "--rounds", "1", "--device", "cpu"])
    shares = re.findall(r"\| ([\w-]+) +\|.*\| +(\d\.\d+) \|", capsys.readouterr().out)
    assert [name for name, _ in shares[:3]] == ["readable", "--fast", "dense"]
    assert all(0 < float(share) < 1 for _, share in shares)


# A tensor that is made without device= comes on torch's default device. Here that is meta, and the inputs are on the
# CPU: to compute with both is an error, as it would be with a GPU and the CPU.


@pytest.mark.parametrize("is_fast", [False, True], ids=["readable", "fast"])
@pytest.mark.parametrize("method", ROUTERS)
def test_a_training_step_and_generation_make_no_tensor_elsewhere(method, is_fast):
    model = new_model(n_expert=4, routing=method).float().train()
    if is_fast:
        fast.install(model)
    generator = torch.Generator()
    with torch.device("meta"), torch.profiler.profile() as profile:
        noise = gumbel(model.config, TOKENS.numel(), 0.7, generator) if method == "sample" else None
        _, nll, routing = model(TOKENS, TOKENS, noise=noise, recompute=True)
        (nll + load_balancing_loss(*mean_gates_and_probs(routing))).backward()
    # the readable loop waits for each of 4 experts in 2 layers, and again where it recomputes
    events = [event for event in profile.events() if getattr(event.cpu_parent, "name", "") != "aten::_grouped_mm"]
    waits = [event.name for event in events if event.name in WAITS]
    assert waits == ["aten::nonzero"] * (0 if is_fast else 4 * 2 * 2)
    with torch.device("meta"):
        generate(model.eval(), TOKENS, 20, end=3, temperature=1.0, generator=generator)


@pytest.mark.parametrize("method", METHODS)
def test_branch_train_merge_makes_no_tensor_elsewhere(method):
    merged = BTM([new_model(seed).float() for seed in range(2)], method, 1, [TOKENS] * 2)
    with torch.device("meta"):
        generate(merged, TOKENS, 4)
