"""The two training loops: a run equals its recipe by hand; interrupted and failing runs; two ranks."""
import errno
import math
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from unittest.mock import Mock, patch

import pytest
import torch

import finetune_router
import model
import train_expert
from cli import BadInput
from data import prepare
from data.loader import first_windows, get_batch, load_domains, read_mixture
from support import fast, training
from support.checkpoint import build_model, load_checkpoint
from support.training import learning_rate, step_generator


def train(tiny, out, module=train_expert, init="seed", dies_at=None, flags=(), **changes):
    """Run 6 steps of a stage. Returns the checkpoint, or None if it died in step `dies_at`, counted from 0."""
    options = {"out": out, "init": tiny / f"{init}.pt", "data": "math=0.5,general=0.5", "data_dir": tiny / "data",
               "device": "cpu", "steps": 6, "batch_size": 4, "lr": 0.01, "save_every": 2, "eval_windows": 5} | changes

    def draw(*arguments):
        _, _, step = arguments[3]
        if step == dies_at:
            raise InterruptedError
        return get_batch(*arguments)

    with patch.object(module, "get_batch", draw), suppress(InterruptedError):
        module.main([*flags, *(f"--{name}={value}" for name, value in options.items())])
    return load_checkpoint(out) if Path(out).exists() else None


def changed(a, b):
    """The names of the tensors in which two checkpoints differ."""
    return {name for name in a["state"] if not torch.equal(a["state"][name], b["state"][name])}


@pytest.mark.parametrize("module,init,more", ids=["dense", "moe-fast"], argvalues=[
    (train_expert, "math", {"flags": ["--recompute"]}),
    (finetune_router, "sample_mixed", {"alpha": 2, "flags": ["--recompute", "--fast"]})])
def test_a_run_equals_its_recipe_by_hand(tiny, tmp_path, module, init, more):
    """Also with the options that save memory and time, which are seen at work. Some steps are clipped, some are not.

    A dense model ignores the noise, and its balance is 0. The MoE has 3 experts, and alpha is 2.
    """
    with (patch.object(training, "CLIP", 0.95), patch.object(model, "checkpoint", wraps=model.checkpoint) as recomputed,
          patch.object(fast, "ff_moe", wraps=fast.ff_moe) as fast_sum):
        made = train(tiny, tmp_path / "a.pt", module, init, data="math", seed=3, lr=0.03, eps=0.01, grad_accum=2,
                     block_size=16, **more)
    assert recomputed.called
    assert fast_sum.called == ("--fast" in more["flags"])
    *before, entry = made["ledger"]
    gpt = build_model(load_checkpoint(tiny / f"{init}.pt")).train()
    gpt.config.block_size = 16
    domains = load_domains(tiny / "data")
    texts = {name: domain.train for name, domain in domains.items()}
    groups = [{"params": [p], "weight_decay": 0.1 if p.ndim > 1 else 0.0} for p in gpt.parameters()]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=0.01)
    for step in range(6):
        generator = step_generator("cpu", 3, 1, step, 0)  # seed 3; one earlier run has read math
        x, y = get_batch(texts, read_mixture("math"), (4, 16), (3, 1, step))
        halves = []
        for half in (slice(0, 2), slice(2, 4)):
            noise = model.gumbel(gpt.config, 2 * 16, max(0.5, math.exp(-4 * step / 6)), generator)
            halves.append(gpt(x[half], y[half], noise=noise))
        loss = (halves[0][1] + halves[1][1]) / 2
        layers = [*zip(halves[0][2], halves[1][2], strict=True)]  # the two Routings of each layer
        loads = [sum(r.dense_gates().mean(0) for r in pair) / 2 for pair in layers]
        probs = [sum(r.probs.mean(0) for r in pair) / 2 for pair in layers]
        balance = sum(3 * (u * p).sum() for u, p in zip(loads, probs, strict=True))
        (loss + 2 * balance).backward()
        torch.nn.utils.clip_grad_norm_(gpt.parameters(), 0.95)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, 6, 0.03)
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(made["state"], gpt.state_dict(), rtol=1e-4, atol=1e-5)
    rows, log = first_windows(domains["code"].val, 16, 5), made["log"][-1]  # rows: (5, T + 1)
    _, loss, _ = gpt.eval()(rows[:, :-1], rows[:, 1:])
    assert log["val_loss"]["code"] == pytest.approx(loss.item(), rel=1e-4)
    assert log["lr"] == learning_rate(5, 6, 0.03)
    assert log["train_loss"] == pytest.approx(halves[1][1].item(), rel=1e-4)
    assert log.get("balance", 0) == pytest.approx(torch.as_tensor(balance).item() / gpt.config.n_layer, rel=1e-3)
    if loads:
        assert [*log["load"].values()] == pytest.approx((sum(loads) / len(loads)).tolist(), rel=1e-3)
    assert entry["parents"] == [before[-1]["id"]]
    assert entry["action"] == ("train" if module is train_expert else "finetune")
    assert entry["tokens"] == log["tokens"] == 6 * 4 * 16
    first_pass = entry["tokens"] * gpt.flops_per_token() // 3 if loads else 0  # an MoE measures the load of a batch
    assert entry["flops"] == entry["tokens"] * gpt.flops_per_token() + first_pass


@pytest.mark.parametrize("module,init,changes,trains", [
    (train_expert, "seed", {}, lambda name: True),
    (finetune_router, "btx_mixed", {"train": "router", "dtype": "bfloat16"}, lambda name: name.endswith(".router")),
    (finetune_router, "btx_mixed", {"train": "all-but-experts"}, lambda name: ".ff.w_" not in name),
    (finetune_router, "sample_mixed", {}, lambda name: True)])
def test_resumed_equals_uninterrupted_bit_for_bit(tiny, tmp_path, module, init, changes, trains):
    want = train(tiny, tmp_path / "a.pt", module, init, **changes)
    assert train(tiny, tmp_path / "b.pt", module, init, dies_at=5, **changes) is None
    for pid in (1, 10**8):  # a process that runs, and one that was killed while it saved
        (tmp_path / f".b.progress.{pid}.part").touch()
    progress = torch.load(tmp_path / "b.progress", weights_only=True)
    torch.save(progress | {"seconds": 1000 + progress["seconds"]}, tmp_path / "b.progress")
    got = train(tiny, tmp_path / "b.pt", module, init, dies_at=3, **changes)  # step 3 is not done again
    seconds = [line["seconds"] for line in got["log"]]
    assert got["ledger"][-1]["seconds"] > seconds[5] > seconds[4] > 1000 + seconds[3]  # 4 steps were saved
    assert {path.name for path in tmp_path.iterdir()} == {".b.progress.1.part", "a.pt", "b.pt"}
    assert not changed(got, want)
    assert all(got["ledger"][-1][cost] == want["ledger"][-1][cost] for cost in ("tokens", "flops"))
    assert changed(load_checkpoint(tiny / f"{init}.pt"), got) == set(filter(trains, got["state"]))
    assert [line | {"seconds": 0} for line in got["log"]] == [line | {"seconds": 0} for line in want["log"]]
    assert [line["step"] for line in want["log"]] == [1, 2, 3, 4, 5, 6]


def test_ranks_draw_noise_of_their_own(tiny, tmp_path):
    seeds = []
    for rank in (0, 1):
        with (patch.object(finetune_router, "join_ranks", return_value=(torch.device("cpu"), rank, 2)),
              patch.object(finetune_router, "gumbel", wraps=model.gumbel) as gumbel):
            made = train(tiny, tmp_path / "a.pt", finetune_router, "sample_mixed", steps=1, grad_accum=2)
        assert made["ledger"][-1]["seconds"] > 2 * made["log"][-1]["seconds"]  # those of both ranks
        seeds.append({call.args[3].initial_seed() for call in gumbel.call_args_list})
    assert len(seeds[0]) == len(seeds[1]) == 1 and seeds[0] != seeds[1]  # the same in both passes over a batch


def test_a_run_does_not_go_on_with_other_settings_or_data(tiny, tmp_path):
    run = (shutil.copytree(tiny, tmp_path / "tiny"), tmp_path / "b.pt")
    want = train(tiny, tmp_path / "a.pt")
    train(*run, dies_at=5)
    for name, value in {"lr": 0.02, "steps": 7, "seed": 1, "data": "math", "grad_accum": 2, "block_size": 16,
                        "eps": 1.0}.items():
        with pytest.raises(BadInput, match=rf"b\.progress is of a run with {name} = .*delete"):
            train(*run, **{name: value})
    shutil.copy(tiny / "math.pt", tmp_path / "tiny" / "seed.pt")
    with pytest.raises(BadInput, match="init_ledger"):
        train(*run)
    options = "--domains math --seed 1 --train_tokens 3000 --val_tokens 600 --tasks 6"
    prepare.main([*options.split(), "--out", f"{tmp_path}/tiny/data"])
    with pytest.raises(BadInput, match="b.progress is of a run on other data: math/train.bin, math/val.bin; delete"):
        train(*run)
    shutil.copytree(tiny, tmp_path / "tiny", dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "tiny/data/code")  # which the run does not read
    assert not changed(train(*run, flags=["--recompute"], save_every=1), want)


def save_half(value, part):
    part.write_bytes(b"half of a checkpoint")
    raise RuntimeError("disk full")


@pytest.mark.parametrize("save,changes,reason", [
    (save_half, {"steps": 1}, "a.pt: cannot be written .perhaps the disk is full.*make room, and run it again"),
    (Mock(side_effect=OSError(errno.EDQUOT, "no quota")), {"steps": 1}, "a.pt: cannot be written .no quota.; make"),
    (torch.save, {"lr": 1e20}, "the loss is not finite any more"),
    (torch.save, {"lr": 1e39, "save_every": 1}, "the weights are not finite any more, and are not saved; lower --lr")])
def test_a_run_that_fails_leaves_the_last_checkpoint(tiny, tmp_path, save, changes, reason):
    old = shutil.copy(tiny / "math.pt", tmp_path / "a.pt")
    with patch.object(torch, "save", save), pytest.raises(BadInput, match=reason):
        train(tiny, old, **{"eval_every": 6, "save_every": 6, **changes})
    assert list(tmp_path.iterdir()) == [old] and old.read_bytes() == (tiny / "math.pt").read_bytes()


def test_new_weights_are_of_their_seed():
    args = [train_expert.parse(["--data", "math", "--out", "a.pt", "--seed", seed]) for seed in "001"]
    first, again, other = ([*train_expert.new_model(arg, {"vocab_size": 512}).parameters()] for arg in args)
    assert all(map(torch.equal, first, again)) and not torch.equal(first[0], other[0])


def test_learning_rate_rises_linearly_and_falls_as_a_cosine_to_a_tenth():
    rates = [learning_rate(step, steps=100, peak=2.0) for step in range(100)]  # 5 steps warm up
    assert rates[:6] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0, 2.0])
    assert rates[52] == pytest.approx(2.0 * 0.55) and rates[-1] == pytest.approx(2.0 * 0.1)
    assert learning_rate(1, steps=2, peak=2.0) == 2.0


@pytest.mark.parametrize("module,init,flag", ids=["compile", "fast"], argvalues=[
    (train_expert, "math", "--compile"), (finetune_router, "btx_mixed", "--fast")])
def test_bfloat16_changes_nothing_but_rounding(tiny, tmp_path, module, init, flag):
    """With one graph for the whole dense model; this backend needs no C++ compiler."""
    one = train(tiny, tmp_path / "a.pt", module, init, steps=2, lr=1e-3)["state"]
    whole = partial(torch.compile, backend="aot_eager", fullgraph=True)
    with patch.object(torch, "compile", side_effect=whole) as compiled:
        two = train(tiny, tmp_path / "a.pt", module, init, steps=2, lr=1e-3, dtype="bfloat16", flags=[flag])["state"]
    assert compiled.called == (flag == "--compile")
    assert 0 < max((one[name] - two[name]).abs().max() for name in one) < 0.01
    losses = []  # after a step that changes no weight
    for dtype in ("float32", "bfloat16"):
        log = train(tiny, tmp_path / "a.pt", module, init, steps=1, lr=0, dtype=dtype)["log"]
        losses.append(log[0]["val_loss"]["math"])
    assert 0 < abs(losses[0] - losses[1]) < 0.01  # validation rounds, too


def train_on_two_ranks(tiny, out, module, **more):
    """As `train`, on two CPU ranks."""
    code = (f"import {module.__name__} as module; from tests import test_train; "
            f"test_train.train(test_train.Path({str(tiny)!r}), {str(out)!r}, module, **{more!r})")
    torchrun = "-m torch.distributed.run --nproc_per_node=2 --standalone --no-python".split()
    subprocess.run([sys.executable, *torchrun, sys.executable, "-c", code], cwd=Path(__file__).parent.parent,
                   env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
    return load_checkpoint(out) if out.exists() else None


@pytest.mark.long
@pytest.mark.parametrize("module,init,more", ids=["dense", "moe", "router"], argvalues=[
    (train_expert, "seed", {"grad_accum": 2}), (finetune_router, "btx_mixed", {"alpha": 0, "flags": ["--recompute"]}),
    (finetune_router, "btx_mixed", {"alpha": 0, "train": "router"})])
def test_two_ranks_train_as_one_does(tiny, tmp_path, module, init, more):
    """By DDP they go on from the progress of one; a sharded run goes on on two ranks, or on one."""
    more = {"init": init, "eps": 0.01, "lr": 0.03, **more}  # with a small epsilon, AdamW would amplify rounding
    one = train(tiny, tmp_path / "one.pt", module, **more)
    train(tiny, tmp_path / "ddp.pt", module, dies_at=3, **more)
    runs = [train_on_two_ranks(tiny, tmp_path / "ddp.pt", module, **more)]
    sharded = more | {"flags": ["--shard", *more.get("flags", [])]}
    assert train_on_two_ranks(tiny, tmp_path / "two.pt", module, dies_at=3, **sharded) is None
    copy = shutil.copytree(tmp_path, tmp_path / "copy")
    runs.append(train_on_two_ranks(tiny, tmp_path / "two.pt", module, **sharded))
    shutil.copytree(copy, tmp_path, dirs_exist_ok=True)
    runs.append(train(tiny, tmp_path / "two.pt", module, **more))
    assert sorted(path.name for path in tmp_path.glob("*.*")) == ["ddp.pt", "one.pt", "two.pt"]
    assert [run["ledger"][-1]["ranks"] for run in runs] == [2, 2, 1]
    for run in runs:
        for name, weight in one["state"].items():
            torch.testing.assert_close(run["state"][name], weight, rtol=0, atol=2e-6)
        for line, other in zip(one["log"], run["log"], strict=True):
            assert line["val_loss"] == pytest.approx(other["val_loss"], abs=2e-6)
        assert one["ledger"][-1]["flops"] == run["ledger"][-1]["flops"]
    start = load_checkpoint(tiny / f"{init}.pt")
    assert max((one["state"][name] - start["state"][name]).abs().max() for name in start["state"]) > 0.01
