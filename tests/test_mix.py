"""Stage 2: every tensor is averaged, stacked or new, exactly once, and the mixed model means what the paper says."""
import pytest
import torch

import finetune_router
import mix
from model import GPT, GPTConfig, Routing, ff_moe, swiglu
from support import checkpoint as ckpt
from support import ledger
from support.settings import BadInput

SMALL = dict(vocab_size=50, block_size=16, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, d_ff=24)


def dense_states(n=3, **changes):
    return [GPT(GPTConfig(**SMALL | changes), torch.Generator().manual_seed(i)).state_dict() for i in range(n)]


def tensors_of(states):
    """What `mix` takes, of dense state dicts."""
    return lambda name: [s[name] for s in states if name in s]


def made(states, config, feed_forwards="stacked", seed=7):
    """The mixed model's state dict, and the rule that made each tensor."""
    state = dict(mix.mix(tensors_of(states), config, torch.Generator().manual_seed(seed), feed_forwards))
    return state, {name: mix.rule_for(name, feed_forwards) for name in state}


def mixed(states, soup=False, **changes):
    config = GPTConfig(**SMALL | ({} if soup else {"n_expert": len(states)}) | changes)
    return config, *made(states, config, "averaged" if soup else "stacked")


def test_averages_equal_a_hand_made_mean_and_experts_are_copied():
    states = dense_states()
    _, state, rules = mixed(states)
    for name, tensor in state.items():
        if rules[name] == "averaged":
            torch.testing.assert_close(tensor, (states[0][name] + states[1][name] + states[2][name]) / 3)
        elif rules[name] == "stacked":
            assert all(torch.equal(tensor[i], s[name]) for i, s in enumerate(states))
    assert {n.split(".", 2)[-1] for n, r in rules.items() if r == "stacked"} == {"ff.w_gate", "ff.w_up", "ff.w_down"}
    assert {n.split(".", 2)[-1] for n, r in rules.items() if r == "new"} == {"ff.router"}


def test_averages_are_taken_in_float32():
    """The mean of 1, 1 and 1 + 2^-8 needs more digits than bfloat16 has."""
    values = [torch.tensor([v], dtype=torch.bfloat16) for v in (1.0, 1.0, 1 + 2**-7)]
    assert mix.average(values).dtype == torch.float32 and mix.average(values).item() == pytest.approx(1 + 2**-7 / 3)


def test_whatever_makes_other_weights_makes_another_entry_in_the_ledger(tiny, tmp_path):
    ids = set()
    options = ["", "--seed 1", "--save_dtype bfloat16", "--split 2", "--blend", "--soup", "--routing soft",
               f"--router_data general,math --data_dir {tiny}/data"]
    for line in options:
        mix.main([*(f"{tiny}/{name}.pt" for name in ("seed", "math")), "--out", f"{tmp_path}/a.pt", *line.split()])
        ids.add(ckpt.load(tmp_path / "a.pt")["lineage"][-1]["id"])
    assert len(ids) == len(options)


@pytest.mark.parametrize("tie_weights", [False, True])
def test_every_tensor_is_used_exactly_once(tie_weights):
    states, asked = dense_states(tie_weights=tie_weights), []
    config = GPTConfig(**SMALL | {"n_expert": 3, "tie_weights": tie_weights})
    state = dict(mix.mix(lambda name: asked.append(name) or tensors_of(states)(name), config, torch.Generator()))
    assert state.keys() == GPT(config).state_dict().keys() and len(asked) == len(state)
    assert {name for name in asked if not name.endswith("router")} == set(states[0])


def test_tensors_of_another_shape_are_an_error():
    states = dense_states()
    for s in states:
        s["norm.weight"] = torch.zeros(3)
    with pytest.raises(ValueError, match="norm.weight"):
        mixed(states)


def test_an_expert_that_comes_later_is_as_if_it_had_been_there_from_the_start(tiny, tmp_path):
    """But for the routers, whose old rows stay: an MoE of two and a third expert have the weights of an MoE of all three."""
    two, later, at_once = (tmp_path / f"{name}.pt" for name in ("two", "later", "at_once"))
    mix.main([str(tiny / "seed.pt"), str(tiny / "math.pt"), "--out", str(two)])
    mix.main([str(two), str(tiny / "code.pt"), "--out", str(later), "--seed", "1"])
    mix.main([*(str(tiny / f"{n}.pt") for n in ("seed", "math", "code")), "--out", str(at_once)])
    two, later, at_once = map(ckpt.load, (two, later, at_once))
    assert later["experts"] == at_once["experts"] and later["config"] == at_once["config"]
    for name, t in later["model"].items():
        if name.endswith("router"):
            assert torch.equal(t[:2], two["model"][name]) and not torch.equal(t[2], at_once["model"][name][2])
        else:
            torch.testing.assert_close(t, at_once["model"][name])
    assert [e["name"] for e in later["lineage"]] == ["seed", "math", "two", "code", "later"]


def test_mixing_copies_of_one_model_gives_that_model():
    states = dense_states(1) * 3
    config, state, _ = mixed(states)
    moe, dense = GPT(config), GPT(GPTConfig(**SMALL))
    moe.load_state_dict(state)
    dense.load_state_dict(states[0])
    idx = torch.randint(0, 50, (2, 9))
    torch.testing.assert_close(moe(idx)[0], dense(idx)[0], rtol=1e-4, atol=1e-5)
    soup = mixed(states, soup=True)[1]
    for name in soup:
        torch.testing.assert_close(soup[name], states[0][name])


def test_routers_are_small_and_depend_on_the_seed_alone():
    states = dense_states()
    config = GPTConfig(**SMALL | {"n_expert": 3})
    routers = [made(states, config, seed=s)[0]["blocks.0.ff.router"] for s in (0, 0, 1)]
    assert torch.equal(routers[0], routers[1]) and not torch.equal(routers[0], routers[2])
    assert routers[0].std().item() == pytest.approx(0.02, rel=0.3)


def test_lineage_counts_a_shared_seed_once():
    seed = [ledger.entry("train", "seed.pt", [], tokens=100, flops=10, seconds=1.0)]
    branches = [seed + [ledger.entry("train", f"{d}.pt", [seed[0]["id"]], tokens=30, flops=3, seconds=s)]
                for d, s in (("math", 2.0), ("code", 5.0))]
    joined = ledger.join([seed, *branches])
    assert ledger.totals(joined) == {"tokens": 160, "flops": 16, "seconds": 8.0}
    assert ledger.elapsed(joined) == 6.0  # the branches run at the same time


def test_cli_names_experts_and_prints_the_rules(tiny, tmp_path, capsys):
    out = tmp_path / "new" / "m.pt"
    mix.main([str(tiny / f"{n}.pt") for n in ("seed", "math", "code")] + ["--out", str(out)])
    moe = ckpt.load(out)
    assert moe["experts"] == ["seed", "math", "code"] and moe["config"]["n_expert"] == 3
    assert [e["name"] for e in moe["lineage"]] == ["seed", "math", "code", "m"]
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("averaged", "stacked", "new", "ff.router"))


# ---- splitting, blending, and routers from hidden states (3.3) ----


def ff(name, state, x, layer=0):
    """FF_i(x) of a dense state dict, or of one expert of a mixed one."""
    return swiglu(x, *(state[f"blocks.{layer}.ff.{w}"] if name is None else state[f"blocks.{layer}.ff.{w}"][name]
                       for w in ("w_gate", "w_up", "w_down")))


@pytest.mark.parametrize("n_chunks", [2, 3])
def test_all_chunks_of_one_feed_forward_at_equal_gates_give_its_output(n_chunks):
    states = dense_states()
    config = GPTConfig(**SMALL | {"n_expert": 3 * n_chunks, "d_ff": SMALL["d_ff"] // n_chunks, "top_k": n_chunks})
    state, rules = made(states, config, "split")
    assert set(rules.values()) == {"averaged", "split", "new"}
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    for i, dense in enumerate(states):
        chosen = torch.arange(i * n_chunks, (i + 1) * n_chunks).expand(5, -1)
        routing = Routing(torch.full((5, n_chunks), 1 / n_chunks), chosen, torch.zeros(5, 3 * n_chunks))
        got = ff_moe(x, routing, *(state[f"blocks.1.ff.{w}"] for w in ("w_gate", "w_up", "w_down")))
        torch.testing.assert_close(got, ff(None, dense, x, 1))


def test_blended_at_equal_gates_equals_unblended_and_every_expert_holds_a_part_of_every_domain():
    states = dense_states()
    config = GPTConfig(**SMALL | {"n_expert": 3, "routing": "soft"})
    models = {}
    for feed_forwards in ("stacked", "blended"):
        models[feed_forwards] = GPT(config)
        state = made(states, config, feed_forwards)[0]
        for name in state:
            if name.endswith("router"):
                state[name].zero_()  # equal gates
        models[feed_forwards].load_state_dict(state)
    idx = torch.randint(0, 50, (3, 16), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(models["blended"](idx)[0], models["stacked"](idx)[0], atol=1e-5, rtol=1e-5)
    w = models["blended"].state_dict()["blocks.0.ff.w_down"]
    for n in range(3):
        torch.testing.assert_close(w[n], torch.cat([s["blocks.0.ff.w_down"][:, 8 * n:8 * n + 8] for s in states], 1))


def test_a_hidden_router_prefers_the_expert_whose_domain_it_reads():
    """Two domains of different words, one expert each: nearly every token goes to its own."""
    config, state, _ = mixed(dense_states(2))
    model = GPT(config)
    model.load_state_dict(state)
    g = torch.Generator().manual_seed(3)
    windows = [torch.randint(low, low + 5, (20, 16), generator=g) for low in (0, 40)]
    mix.hidden_routers(model, windows)
    for domain, idx in enumerate(windows):
        for routing in model(idx)[2]:
            assert (routing.probs[:, domain] > 0.5).float().mean() > 0.8
    for block in model.blocks:
        torch.testing.assert_close(block.ff.router.norm(dim=1), torch.ones(2))
        torch.testing.assert_close(block.ff.router.sum(0), torch.zeros(32), atol=1e-6, rtol=0)  # of two: opposite


def test_hidden_router_rows_by_hand():
    """Of the first layer, whose input no router has touched."""
    config, state, _ = mixed(dense_states(3))
    model = GPT(config)
    model.load_state_dict(state)
    windows = [torch.randint(0, 50, (2, 8), generator=torch.Generator().manual_seed(i)) for i in range(3)]
    mix.hidden_routers(model, windows)
    seen = []
    model.blocks[0].ff.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for idx in windows:
        model(idx)
    means = torch.stack([x.flatten(0, 1).mean(0) for x in seen])
    rows = means - means.mean(0)
    torch.testing.assert_close(model.blocks[0].ff.router, rows / rows.norm(dim=1, keepdim=True))


def test_the_command_line_makes_what_it_says(tiny, tmp_path):
    models = [str(tiny / f"{n}.pt") for n in ("seed", "math")]
    for options, n_expert, d_ff, experts in ((["--split", "2"], 4, 8, ["seed.1", "seed.2", "math.1", "math.2"]),
                                             (["--blend"], 2, 16, ["blend.1", "blend.2"]),
                                             (["--routing", "switch"], 2, 16, ["seed", "math"]),
                                             (["--router_data", "general,math", "--split", "2", "--data_dir", str(tiny / "data")],
                                              4, 8, ["seed.1", "seed.2", "math.1", "math.2"])):
        mix.main([*models, *options, "--out", str(tmp_path / "m.pt")])
        moe = ckpt.load(tmp_path / "m.pt")
        assert (moe["config"]["n_expert"], moe["config"]["d_ff"], moe["experts"]) == (n_expert, d_ff, experts)
    router = moe["model"]["blocks.0.ff.router"]
    assert torch.equal(router[0], router[1]) and not torch.equal(router[0], router[2])
    with pytest.raises(BadInput, match="no two the same"):  # a model that is named twice hides no domain that is
        mix.main([models[0], *models, "--router_data", "general,math,math", "--out", str(tmp_path / "o.pt")])


def test_weights_in_half_the_space(tiny, tmp_path):
    """The average is taken in float32 and rounded once; what was rounded can be trained again."""
    names = [str(tiny / f"{name}.pt") for name in ("seed", "math", "code")]
    for dtype in ("float32", "bfloat16"):
        mix.main([*names, "--out", str(tmp_path / f"{dtype}.pt"), "--save_dtype", dtype])
    full, half = (ckpt.load(tmp_path / f"{dtype}.pt")["model"] for dtype in ("float32", "bfloat16"))
    assert all(torch.equal(half[name], t.bfloat16()) and half[name].dtype == torch.bfloat16 for name, t in full.items())
    sizes = [(tmp_path / f"{dtype}.pt").stat().st_size for dtype in ("float32", "bfloat16")]
    assert sizes[1] < 0.6 * sizes[0]
    trained = ["--init", str(tmp_path / "bfloat16.pt"), "--data", "math", "--data_dir", str(tiny / "data"), "--steps", "2",
               "--out", str(tmp_path / "on.pt"), "--device", "cpu", "--save_dtype", "bfloat16"]
    finetune_router.main(trained)
    assert {t.dtype for t in ckpt.load(tmp_path / "on.pt")["model"].values()} == {torch.bfloat16}
