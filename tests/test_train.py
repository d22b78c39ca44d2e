"""The training loop: its parts by hand, and that an interruption changes nothing."""
import math
import os
import shutil
import signal

import pytest
import torch
from tiny import forge

import finetune_router
import train_expert
from data import prepare
from model import GPT, GPTConfig
from support import checkpoint as ckpt
from support import files
from support.settings import BadInput, Diverged, Stopped
from support.settings import run as settings_run
from train_expert import learning_rate, make_optimizer, training_step


def test_learning_rate_by_hand():
    rates = [learning_rate(s, 101, 1.0, 0.1) for s in range(101)]  # 11 steps up, 90 down
    assert rates[0] == pytest.approx(1 / 11) and rates[10] == 1.0 == max(rates)
    assert rates[11] == pytest.approx(1.0) and rates[100] == pytest.approx(0.1)
    assert rates[11:] == sorted(rates[11:], reverse=True)


def test_weight_decay_is_for_matrices_only():
    model = GPT(GPTConfig(n_layer=1, n_embd=16, n_head=2, d_ff=16, n_expert=2))
    decayed, rest = make_optimizer(model, train_expert.TrainSettings()).param_groups
    assert all(p.ndim >= 2 for p in decayed["params"]) and all(p.ndim == 1 for p in rest["params"])
    assert len(decayed["params"]) + len(rest["params"]) == len(list(model.parameters()))
    assert decayed["weight_decay"] == 0.1 and rest["weight_decay"] == 0 and decayed["betas"] == (0.9, 0.95)


@pytest.mark.parametrize("module,init,stage", [(train_expert, "seed", 1), (finetune_router, "sample_mixed", 4)])
def test_each_step_has_its_rate_temperature_and_rows(tiny, tmp_path, monkeypatch, module, init, stage):
    """What the loop hands on: rates by learning_rate, tau by Jang et al.'s formula, rows by the number of stages before this."""
    real_step, real_batch, seen, stages = train_expert.training_step, train_expert.get_batch, [], set()

    def step(forward, optimizer, x, y, settings, autocast, noise):
        seen.append(({group["lr"] for group in optimizer.param_groups}, noise and noise(x.numel())[0][1].item()))
        return real_step(forward, optimizer, x, y, settings, autocast, noise)

    def batch(*arguments):
        stages.add(arguments[-1])
        return real_batch(*arguments)
    monkeypatch.setattr(train_expert, "training_step", step)
    monkeypatch.setattr(train_expert, "get_batch", batch)
    made = run(tiny, tmp_path / "a.pt", module, init=tiny / f"{init}.pt", warmup=0.4)
    assert [rates for rates, _ in seen] == [{learning_rate(s, 6, 0.01, 0.4)} for s in range(6)]
    assert [tau for _, tau in seen] == ([None] * 6 if stage == 1 else pytest.approx([max(0.5, math.exp(-4 * s / 6))
                                                                                     for s in range(6)]))
    assert len({tau for _, tau in seen}) == (3 if stage > 1 else 1)
    assert stages == {stage} and len(made["lineage"]) == stage + 1


def test_a_step_is_clipped_and_under_autocast():
    model, idx, seen = GPT(GPTConfig(n_layer=1, n_embd=16, n_head=2, d_ff=16)), torch.arange(40).view(2, 20), []

    def forward(*arguments, **options):
        seen.append(torch.is_autocast_enabled("cpu"))
        return model(*arguments, **options)
    for clip, autocast in ((1e-3, True), (0.0, False)):
        before = [p.detach().clone() for p in model.parameters()]
        training_step(forward, torch.optim.SGD(model.parameters(), lr=1.0, fused=True), idx, idx,
                      train_expert.TrainSettings(clip=clip), torch.autocast("cpu", torch.bfloat16, enabled=autocast))
        moved = sum((p - old).square().sum() for p, old in zip(model.parameters(), before, strict=True)).sqrt().item()
        assert moved == pytest.approx(clip, rel=1e-2) if clip else moved > 0.1
    assert seen == [True, False]


def run(tiny, out, module=train_expert, **changes):
    options = {"data": "math=0.5,general=0.5", "steps": 6, "batch_size": 4, "save_every": 2, "eval_windows": 2, "lr": 0.01,
               "dtype": "float32", "device": "cpu", "data_dir": tiny / "data", "out": out} | changes
    module.main([part for k, v in options.items() for part in ((f"--{k}",) if v is True else (f"--{k}", str(v)))])
    return ckpt.load(out)


def at_step(monkeypatch, step, act):
    """Call act() in the middle of a step."""
    real = train_expert.get_batch

    def get_batch(*arguments):
        if arguments[5] == step:
            act()
        return real(*arguments)
    monkeypatch.setattr(train_expert, "get_batch", get_batch)


def stop_at(monkeypatch, step):
    """Let the run die in the middle of a step."""
    def die():
        raise InterruptedError
    at_step(monkeypatch, step, die)


@pytest.mark.parametrize("module,init,changes", [(train_expert, "seed", {}), (train_expert, "seed", {"grad_accum": 2}),
                                                 (finetune_router, "btx_mixed", {}), (finetune_router, "sample_mixed", {}),
                                                 (finetune_router, "sample_mixed", {"recompute": True, "fast": True}),
                                                 (finetune_router, "btx_mixed", {"dtype": "bfloat16", "batch_size": 16})])
def test_resume_equals_no_interruption_bit_for_bit(tiny, tmp_path, monkeypatch, module, init, changes):
    changes = {"init": tiny / f"{init}.pt"} | changes
    want = run(tiny, tmp_path / "a.pt", module, **changes)
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        with pytest.raises(InterruptedError):
            run(tiny, tmp_path / "b.pt", module, **changes)
    assert (tmp_path / "b.state").exists() and not (tmp_path / "b.pt").exists()
    with monkeypatch.context() as patch:
        stop_at(patch, 3)  # the state is of step 4: what came before is not done again
        got = run(tiny, tmp_path / "b.pt", module, resume=True, **changes)
    assert all(torch.equal(got["model"][name], p) for name, p in want["model"].items())
    assert not (tmp_path / "b.state").exists()
    assert [e["val_loss"] for e in got["log"]] == [e["val_loss"] for e in want["log"]] and len(got["log"]) == 6


def test_resume_with_other_settings_is_refused(tiny, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(InterruptedError):
            run(tiny, tmp_path / "a.pt")
    with pytest.raises(BadInput, match="--lr 0.01"):
        run(tiny, tmp_path / "a.pt", resume=True, lr=0.02)


M, E, W = "0.exp_avg", "embed.weight", torch.zeros(1024, 16)  # the embedding's
STATES = [  # what is in it: what the message says of it
    *(("moments", {M: t}, "the shape") for t in (torch.ones(2), W.T)), ("moments", {M: W / 0}, "not finite"),
    ("moments", {M: W.double()}, "be torch.float32"), ("moments", {"x": W}, "x is unknown"),
    ("moments", {"0.step": torch.ones(())}, "0.step is unknown"),
    ("model", {E: W.T}, "the shape"), ("model", {E: W / 0}, "not finite"), ("model", {E: W.half()}, "be torch.float32"),
    ("model", {"x": W}, "x is unknown"), ("step", True, "not the state"), ("step", "1", "not the state"),
    *(("step", n, "belong together") for n in (6, -1, 10**600)),
    *(("seconds", n, "belong together") for n in (-1.0, 1e300)), ("seconds", [], "not the state"),
    ("lineage", [1], "not the state"),
    *(("settings", {name: value}, f"with (--)?{name}") for name, value in {
        "lr": 0.02, "n_layer": 3, "config": {}, "torch": "1.0",
        "device": "cuda", "dtype": "bfloat16", "math/val.bin": "0", "3": 4, "new": 1}.items()),
    ("settings", [], "not the state")]


@pytest.mark.parametrize("key,value,reason", STATES, ids=range(len(STATES)))
def test_a_state_that_does_not_fit_is_refused(tiny, tmp_path, monkeypatch, key, value, reason):
    seed = tiny / "seed.pt"
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(InterruptedError):
            run(tiny, tmp_path / "a.pt", init=seed)
    state = ckpt.read(tmp_path / "a.state")
    forge(tmp_path / "a.state", state | {key: state[key] | value if isinstance(value, dict) else value})
    with pytest.raises(BadInput, match=f"a.state.*{reason}") as error:
        run(tiny, tmp_path / "a.pt", init=seed, resume=True)
    assert "delete the file" in str(error.value)


def test_a_run_does_not_go_on_from_another_seed(tiny, tmp_path, monkeypatch):
    shutil.copy(tiny / "seed.pt", tmp_path / "seed.pt")
    stop_at(monkeypatch, 3)
    with pytest.raises(InterruptedError):
        run(tiny, tmp_path / "a.pt", init=tmp_path / "seed.pt")
    shutil.copy(tiny / "math.pt", tmp_path / "seed.pt")
    with pytest.raises(BadInput, match="a.state was written with stages of --init"):
        run(tiny, tmp_path / "a.pt", init=tmp_path / "seed.pt", resume=True)


def test_gradient_accumulation_changes_nothing_but_rounding(tiny, tmp_path):
    one, four = (run(tiny, tmp_path / f"{n}.pt", init=tiny / "seed.pt", grad_accum=n, steps=2) for n in (1, 4))
    for name, p in one["model"].items():
        torch.testing.assert_close(four["model"][name], p, rtol=1e-3, atol=1e-4)


def test_training_lowers_the_loss_and_fills_the_ledger(tiny, tmp_path):
    made = run(tiny, tmp_path / "a.pt", steps=40, eval_every=20, data="math", init=tiny / "seed.pt")
    before = ckpt.load(tiny / "seed.pt")["log"][-1]
    assert made["log"][-1]["val_loss"]["math"] < before["val_loss"]["math"] - 0.5
    seed, branch = made["lineage"]
    assert branch["tokens"] == 40 * 4 * 32 and branch["parents"] == [seed["id"]] and branch["seconds"] > 0
    assert branch["flops"] == branch["tokens"] * ckpt.build(made).flops_per_token()


@pytest.mark.parametrize("what", ["router", "all-but-experts"])
def test_only_the_chosen_parameters_train(tiny, tmp_path, what):
    before = ckpt.load(tiny / "btx_mixed.pt")["model"]
    after = run(tiny, tmp_path / "a.pt", finetune_router, init=tiny / "btx_mixed.pt", train=what, steps=2)["model"]
    changed = {name for name, p in before.items() if not torch.equal(p, after[name])}
    experts = {name for name in before if ".ff.w_" in name}
    routers = {name for name in before if name.endswith(".router")}
    assert changed == (routers if what == "router" else set(before) - experts)


def test_load_balancing_evens_the_experts_out(tiny, tmp_path):
    """alpha = 0 leaves the loss out; a large alpha brings the loads together."""
    spread = {}
    for alpha in (0.0, 1.0):
        made = run(tiny, tmp_path / "a.pt", finetune_router, init=tiny / "btx_mixed.pt", alpha=alpha, steps=30, eval_every=30)
        spread[alpha] = made["log"][-1]["balance"]
    assert abs(spread[1.0] - 1) < abs(spread[0.0] - 1)


def test_same_seed_same_bytes(tiny, tmp_path):
    a, b, c = (run(tiny, tmp_path / f"{i}.pt", steps=2, seed=s) for i, s in enumerate((0, 0, 1)))
    assert all(torch.equal(a["model"][n], b["model"][n]) for n in a["model"])
    assert not torch.equal(a["model"]["head.weight"], c["model"]["head.weight"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("module,init", [(train_expert, "seed"), (finetune_router, "sample_mixed")])
def test_a_signal_saves_and_the_run_goes_on_as_if_nothing_had_been(tiny, tmp_path, monkeypatch, module, init, number):
    changes = {"init": tiny / f"{init}.pt", "save_every": 100}
    want = run(tiny, tmp_path / "a.pt", module, **changes)
    before = signal.getsignal(number)
    with monkeypatch.context() as patch, pytest.raises(Stopped, match="step 4;.*--resume") as stopped:
        at_step(patch, 3, lambda: os.kill(os.getpid(), number))
        run(tiny, tmp_path / "b.pt", module, **changes)
    assert stopped.value.number == number and signal.getsignal(number) == before
    assert ckpt.read(tmp_path / "b.state")["step"] == 4 and not (tmp_path / "b.pt").exists()
    got = run(tiny, tmp_path / "b.pt", module, resume=True, **changes)
    assert all(torch.equal(got["model"][name], p) for name, p in want["model"].items())


def test_exit_codes(capsys):
    def fail(error):
        raise error
    for error, code in ((BadInput("x"), 2), (Diverged("x"), 3), (Stopped(15, "x"), 143), (Stopped(2, "x"), 130)):
        with pytest.raises(SystemExit) as exit:
            settings_run(lambda error=error: fail(error))
        assert exit.value.code == code and capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("save_every", [1, 500])
def test_divergence_ends_the_run_and_nothing_is_written_of_it(tiny, tmp_path, save_every):
    """The first step makes the weights huge, and no loss after it is finite. A state of before is left alone."""
    with pytest.raises(Diverged, match="the loss is not finite.*lower --lr"):
        run(tiny, tmp_path / "a.pt", init=tiny / "seed.pt", lr=1e18, save_every=save_every, steps=30, eval_every=30)
    left = [p.name for p in tmp_path.iterdir()]
    assert left == ["a.state"] * (save_every == 1)
    assert not left or ckpt.read(tmp_path / "a.state")["step"] == 1


def test_a_run_whose_last_step_diverges_writes_no_checkpoint(tiny, tmp_path):
    with pytest.raises(Diverged, match="not finite"):
        run(tiny, tmp_path / "a.pt", init=tiny / "seed.pt", lr=9e18, steps=2)
    assert not (tmp_path / "a.pt").exists()


@pytest.mark.parametrize("save_every", [1, 500])
def test_what_could_not_be_read_is_not_written(tiny, tmp_path, monkeypatch, save_every):
    """Weights that are not finite after a step of finite loss and gradient: neither a state nor a checkpoint of them."""
    real = torch.optim.AdamW.step

    def step(self):
        real(self)
        self.param_groups[1]["params"][0].data.fill_(math.inf)
    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    monkeypatch.setattr(train_expert, "validate", lambda *a: 1.0)
    with pytest.raises(Diverged, match="is not written: .* not finite"):
        run(tiny, tmp_path / "a.pt", init=tiny / "seed.pt", steps=1 if save_every == 500 else 2, save_every=save_every)
    assert not list(tmp_path.iterdir())
    good = ckpt.load(tiny / "seed.pt")
    for part, limit, error in (({"experts": ["a"]}, 2e7, Diverged), ({}, 1000, BadInput)):
        monkeypatch.setattr(files, "LIMIT", limit)
        with pytest.raises(error):
            ckpt.save(tmp_path / "a.pt", good | part)
    assert not list(tmp_path.iterdir())


def test_float64_beyond_float32_is_not_mixed(tiny, tmp_path):
    """The average of the models would be infinite: refused where it is read, not written where it is mixed."""
    c = ckpt.load(tiny / "math.pt")
    c["model"]["embed.weight"] = c["model"]["embed.weight"].double().fill_(1e300)
    forge(tmp_path / "a.pt", c)
    with pytest.raises(BadInput, match="not finite"):
        ckpt.load(tmp_path / "a.pt")
    c["lineage"].append(c["lineage"][0])
    c["model"]["embed.weight"].fill_(1.0)
    forge(tmp_path / "a.pt", c)
    with pytest.raises(BadInput, match="lineage"):  # an entry twice would make a cycle
        ckpt.load(tmp_path / "a.pt")


def test_a_log_that_would_be_too_large_to_read_is_refused_at_the_start(tiny, tmp_path):
    with pytest.raises(BadInput, match="--eval_every 1"):
        run(tiny, tmp_path / "a.pt", steps=50_000, eval_every=1)
    assert not list(tmp_path.iterdir())


def test_two_branches_do_not_replay_the_same_rows(tiny, tmp_path, monkeypatch):
    """What each reads of the domain that both have; the same branch reads the same."""
    real, rows = train_expert.get_batch, {}

    def get_batch(*arguments):
        x, y = real(*arguments)
        rows.setdefault(name, []).extend(tuple(row) for row in x.tolist())
        return x, y
    monkeypatch.setattr(train_expert, "get_batch", get_batch)
    for name, data in (("math", "math=0.5,general=0.5"), ("code", "code=0.5,general=0.5"), ("again", "general=0.5,math=0.5")):
        run(tiny, tmp_path / f"{name}.pt", data=data, init=tiny / "seed.pt")
    assert set(rows["math"]) == set(rows["again"]) and not set(rows["math"]) & set(rows["code"])


def test_a_ledger_knows_its_data(tiny, tmp_path):
    """Seeds of the same name, from data prepared with another seed, are two seeds."""
    size = ["--train_tokens", "3000", "--val_tokens", "600", "--tasks", "6"]
    prepare.main(["--out", str(tmp_path / "data"), "--seed", "7", *size])
    (tmp_path / "other").mkdir()
    a, b = run(tiny, tmp_path / "a.pt", steps=1), run(tiny, tmp_path / "other" / "a.pt", steps=1, data_dir=tmp_path / "data")
    assert a["lineage"][0]["id"] != b["lineage"][0]["id"]
    settings = a["lineage"][0]["settings"]
    assert settings["tokenizer"] == a["tokenizer"]["fingerprint"]
    assert settings["dtype"] == "float32" and settings["torch"] == torch.__version__ and settings["device"] == "cpu"
    assert {"math/train.bin", "general/train.bin", "math/val.bin", "switch/val.bin"} <= settings.keys()
