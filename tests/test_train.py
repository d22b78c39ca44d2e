"""The two training loops: a run equals its recipe by hand; interrupted, repeated and failing runs."""
import shutil
from contextlib import suppress
from unittest.mock import patch

import pytest
import torch

import finetune_router
import model
import train_expert
from cli import BadInput
from data.loader import first_windows, get_batch, load_domains
from support import checkpoint, fast
from support.training import learning_rate, step_generator


def train(tiny, out, module=train_expert, init="seed", dies_at=None, flags=(), **changes):
    """Run 6 steps of a stage. Returns the checkpoint, or None if it died in step `dies_at`, counted from 0."""
    options = {"out": out, "init": tiny / f"{init}.pt", "data": "math=0.5,general=0.5", "data_dir": tiny / "data",
               "device": "cpu", "steps": 6, "batch_size": 4, "lr": 0.01, "save_every": 2, "eval_windows": 5} | changes

    def draw(*arguments):
        if arguments[6] == dies_at:
            raise InterruptedError
        return get_batch(*arguments)
    with patch.object(module, "get_batch", draw), suppress(InterruptedError):
        module.main([*flags, *(f"--{name}={value}" for name, value in options.items())])
        return checkpoint.load(out)


def changed(a, b):
    """The names of the tensors in which two checkpoints differ."""
    return {name for name in a["model"] if not torch.equal(a["model"][name], b["model"][name])}


@pytest.mark.parametrize("module,init,more", [(train_expert, "math", {"eps": 0.01}),
                                              (finetune_router, "sample_mixed", {"alpha": 2})])
def test_a_run_equals_its_recipe_by_hand(tiny, tmp_path, module, init, more):
    """The model has not read this mixture before. So the stage, as part of a batch's key, is 0."""
    made = train(tiny, tmp_path / "a.pt", module, init, seed=3, warmup=0.4, clip=0.8, grad_accum=2, **more)
    *before, entry = made["ledger"]
    gpt = checkpoint.build(checkpoint.load(tiny / f"{init}.pt")).train()
    domains = load_domains(tiny / "data")
    texts = {name: domain.train for name, domain in domains.items()}
    groups = [{"params": [p], "weight_decay": 0.1 if p.ndim > 1 else 0.0} for p in gpt.parameters()]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=more.get("eps", 1e-5))
    for step in range(6):
        generator = step_generator("cpu", 3, 0, step, 0)
        x, y = get_batch(texts, {"general": 0.5, "math": 0.5}, 32, 4, 3, 0, step)
        for half in (slice(0, 2), slice(2, 4)):
            noise = model.gumbel(gpt.config, 2 * 32, finetune_router.temperature(step / 6), generator)
            _, loss, routing = gpt(x[half], y[half], noise=noise)
            balance = sum(3 * (r.dense_gates().mean(0) * r.probs.mean(0)).sum() for r in routing)
            ((loss + 2 * balance) / 2).backward()
        torch.nn.utils.clip_grad_norm_(gpt.parameters(), 0.8)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, 6, 0.01, 0.4)
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(made["model"], gpt.state_dict(), rtol=1e-4, atol=1e-5)
    rows = first_windows(domains["code"].val, 32, 5)  # (5, T + 1)
    _, loss, _ = gpt.eval()(rows[:, :-1], rows[:, 1:])
    assert made["log"][-1]["val_loss"]["code"] == pytest.approx(loss.item(), rel=1e-4)
    assert entry["parents"] == [before[-1]["id"]] and entry["tokens"] == made["log"][-1]["tokens"] == 6 * 4 * 32
    assert entry["flops"] == entry["tokens"] * gpt.flops_per_token()


@pytest.mark.parametrize("module,init,changes,trains", [
    (train_expert, "seed", {}, lambda name: True),
    (train_expert, "seed", {"train": "feed-forwards", "grad_accum": 2}, lambda name: ".ff." in name),
    (finetune_router, "btx_mixed", {"train": "router", "dtype": "bfloat16"}, lambda name: name.endswith(".router")),
    (finetune_router, "btx_mixed", {"train": "all-but-experts"}, lambda name: ".ff.w_" not in name),
    (finetune_router, "sample_mixed", {"flags": ["--recompute", "--fast"]}, lambda name: True)])
def test_resumed_equals_uninterrupted_bit_for_bit(tiny, tmp_path, module, init, changes, trains):
    want = train(tiny, tmp_path / "a.pt", module, init, **changes)
    assert train(tiny, tmp_path / "b.pt", module, init, dies_at=5, **changes) is None
    got = train(tiny, tmp_path / "b.pt", module, init, dies_at=3, **changes)  # step 3 is not done again
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "b.pt"] and not changed(got, want)
    assert changed(checkpoint.load(tiny / f"{init}.pt"), got) == set(filter(trains, got["model"]))
    assert [line | {"seconds": 0} for line in got["log"]] == [line | {"seconds": 0} for line in want["log"]]
    assert [line["step"] for line in want["log"]] == [1, 2, 3, 4, 5, 6]


def test_a_run_does_not_go_on_with_other_settings_or_data(tiny, tmp_path):
    run = (shutil.copytree(tiny, tmp_path / "tiny"), tmp_path / "b.pt")
    want = train(tiny, tmp_path / "a.pt")
    train(*run, dies_at=5)
    for name, value in {"lr": 0.02, "steps": 7, "seed": 1, "data": "math", "grad_accum": 2, "block_size": 16}.items():
        with pytest.raises(BadInput, match=rf"b\.state is of a run with {name} = .*delete"):
            train(*run, **{name: value})
    shutil.copy(tiny / "math.pt", tmp_path / "tiny" / "seed.pt")
    with pytest.raises(BadInput, match="stages of --init"):
        train(*run)
    meta = tmp_path / "tiny/data/math/meta.json"
    meta.write_text(meta.read_text().replace('"val.bin": "', '"val.bin": "0'))
    with pytest.raises(BadInput, match="b.state is of a run on other data: math/val.bin; delete"):
        train(*run)
    shutil.copytree(tiny, tmp_path / "tiny", dirs_exist_ok=True)
    with patch.object(model, "checkpoint", wraps=model.checkpoint) as recomputed:
        assert not changed(train(*run, flags=["--recompute"], save_every=1), want) and recomputed.called


def test_models_read_the_same_rows_of_a_mixture_and_new_rows_when_they_read_it_again(tiny, tmp_path):
    rows = []

    def keep(*arguments):
        rows.append(get_batch(*arguments)[0])
        return get_batch(*arguments)
    for module, init, out in ((train_expert, tiny / "seed", "a"), (finetune_router, tiny / "btx_mixed", "b"),
                              (train_expert, tmp_path / "a", "c")):
        with patch.object(module, "get_batch", keep):
            module.main(["--init", f"{init}.pt", "--out", f"{tmp_path}/{out}.pt", "--data", "math=0.5,general=0.5",
                         "--data_dir", f"{tiny}/data", *"--device cpu --steps 2 --batch_size 4".split()])
    dense, moe, again = rows[:2], rows[2:4], rows[4:]
    assert all(map(torch.equal, dense, moe)) and not any(map(torch.equal, dense, again))


def half(value, part):
    part.write_bytes(b"half of a checkpoint")
    raise RuntimeError("disk full")


@pytest.mark.parametrize("save,changes,reason", [
    (half, {"steps": 1}, "a.pt: cannot be written .disk full"), (torch.save, {"steps": 1, "lr": 1e39}, "after step 1"),
    (torch.save, {"lr": 1e20, "save_every": 9}, "1e.20.*after step 3"),
    (torch.save, {"lr": 1e39, "save_every": 1}, "the weights are not finite any more, and are not saved")])
def test_a_run_that_fails_leaves_the_last_checkpoint(tiny, tmp_path, save, changes, reason):
    old = shutil.copy(tiny / "math.pt", tmp_path / "a.pt")
    with patch.object(torch, "save", save), pytest.raises(BadInput, match=reason):
        train(tiny, old, eval_every=6, **changes)
    assert list(tmp_path.iterdir()) == [old] and old.read_bytes() == (tiny / "math.pt").read_bytes()


def test_new_weights_are_of_their_seed():
    args = [train_expert.parse(["--out", "a.pt", "--seed", seed]) for seed in "001"]
    a, b, c = (train_expert.new_model(arg, {"vocab_size": 512}).embed.weight for arg in args)
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("module,init,changes,most", [
    (train_expert, "seed", {"grad_accum": 4}, 1e-5), (finetune_router, "btx_mixed", {"flags": ["--fast"]}, 1e-5),
    (finetune_router, "btx_mixed", {"dtype": "bfloat16"}, 0.01), (train_expert, "math", {"dtype": "bfloat16"}, 0.01)])
def test_micro_batches_and_other_arithmetic_change_nothing_but_rounding(tiny, tmp_path, module, init, changes, most):
    """--fast may give the same bits, so it has to be seen at work."""
    one = train(tiny, tmp_path / "a.pt", module, init, steps=2, lr=1e-3)
    with patch.object(fast, "ff_moe", wraps=fast.ff_moe) as at_work:
        two = train(tiny, tmp_path / "a.pt", module, init, steps=2, lr=1e-3, **changes)
    largest = max((one["model"][name] - two["model"][name]).abs().max() for name in one["model"])
    assert largest < most and (largest > 0 or at_work.called)
