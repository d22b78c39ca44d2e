"""Stage 2: every tensor is averaged, stacked or new, exactly once, and the mixed model means what the paper says."""
import pytest
import torch

import checkpoint as ckpt
import mix
from model import GPT, GPTConfig

SMALL = dict(vocab_size=50, block_size=16, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, d_ff=24)


def dense_states(n=3, **changes):
    return [GPT(GPTConfig(**SMALL | changes), torch.Generator().manual_seed(i)).state_dict() for i in range(n)]


def mixed(states, soup=False, **changes):
    config = GPTConfig(**SMALL | ({} if soup else {"n_expert": len(states)}) | changes)
    return config, *mix.mix(states, config, torch.Generator().manual_seed(7), "averaged" if soup else "stacked")


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


@pytest.mark.parametrize("tie_weights", [False, True])
def test_every_tensor_is_used_exactly_once(tie_weights):
    states = dense_states(tie_weights=tie_weights)
    _, state, rules = mixed(states, tie_weights=tie_weights)
    assert rules.keys() == state.keys()
    assert {name for name, rule in rules.items() if rule != "new"} == set(states[0])


def test_a_tensor_left_over_or_missing_is_an_error():
    states = dense_states()
    for s in states:
        s["blocks.0.extra"] = torch.zeros(1)
    with pytest.raises(ValueError, match="extra"):
        mixed(states)
    for s in states:
        del s["blocks.0.extra"], s["norm.weight"]
    with pytest.raises(ValueError, match="norm.weight"):
        mixed(states)


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
    routers = [mix.mix(states, config, torch.Generator().manual_seed(s))[0]["blocks.0.ff.router"] for s in (0, 0, 1)]
    assert torch.equal(routers[0], routers[1]) and not torch.equal(routers[0], routers[2])
    assert routers[0].std().item() == pytest.approx(0.02, rel=0.3)


def test_lineage_counts_a_shared_seed_once():
    seed = [ckpt.ledger_entry("train", "seed.pt", [], tokens=100, flops=10, seconds=1.0)]
    branches = [seed + [ckpt.ledger_entry("train", f"{d}.pt", [seed[0]["id"]], tokens=30, flops=3, seconds=s)]
                for d, s in (("math", 2.0), ("code", 5.0))]
    joined = ckpt.join_lineages([seed, *branches])
    assert ckpt.totals(joined) == {"tokens": 160, "flops": 16, "seconds": 8.0}
    from evaluate import elapsed
    assert elapsed(joined) == 6.0  # the branches run at the same time


def test_cli_names_experts_and_prints_the_rules(tiny, tmp_path, capsys):
    out = tmp_path / "new" / "m.pt"
    mix.main([str(tiny / f"{n}.pt") for n in ("seed", "math", "code")] + ["--out", str(out)])
    made = ckpt.load(out)
    assert made["experts"] == ["seed", "math", "code"] and made["config"]["n_expert"] == 3
    assert [e["name"] for e in made["lineage"]] == ["seed", "math", "code", "m"]
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("averaged", "stacked", "new", "ff.router"))
