"""Stage 2: what mix.py makes of its options, routers that start from text, and ledgers. The rules by which tensors are
averaged and stacked are checked by course/stages.py, which test_course.py runs.
"""
import pytest
import torch
from torch.testing import assert_close

import mix
from cli import BadInput
from data.loader import first_windows, load_domains
from experiments import task_arithmetic
from model import GPTConfig
from support.checkpoint import build_model, load_checkpoint
from support.ledger import chain_flops, elapsed, join_ledgers, new_entry, totals
from support.router_start import hidden_router, ridge_router, start_from_text


def run_mix(folder, models, out, *options):
    """Run mix.py on named checkpoints of a folder. Returns the checkpoint that it writes."""
    mix.main([*(f"{folder}/{name}.pt" for name in models), "--out", str(out), *options])
    return load_checkpoint(out)


def test_new_routers_come_from_the_seed(tiny, tmp_path):
    models, out = ["seed", "math"], tmp_path / "a.pt"
    first, again, other = (run_mix(tiny, models, out, "--seed", seed)["state"] for seed in "001")
    router = "blocks.0.ff.router"
    assert torch.equal(first[router], again[router])
    assert not torch.equal(first[router], other[router])


@pytest.mark.parametrize("name, bfloat16", [("w_gate", False), ("w_up", True), ("w_down", False)])
def test_split_and_blend_cut_along_d_ff(name, bfloat16):
    """Of three models with 6 hidden units, 10 to 15, 20 to 25 and 30 to 35, plus a number for each of two inputs."""
    inputs = torch.tensor([0.0, 0.25])
    models = [torch.arange(start, start + 6)[:, None] + inputs for start in (10, 20, 30)]  # (d_ff, D) each
    halves = [[10, 11, 12], [13, 14, 15], [20, 21, 22], [23, 24, 25], [30, 31, 32], [33, 34, 35]]
    blended = [[10, 11, 20, 21, 30, 31], [12, 13, 22, 23, 32, 33], [14, 15, 24, 25, 34, 35]]
    scale = 1
    if name == "w_down":  # (D, d_ff); two halves with gates of 1/2 give what the whole gave
        models, scale = [matrix.T for matrix in models], 2
    if bfloat16:
        models = [matrix.bfloat16() for matrix in models]
    for made, units in ((mix.split(name, models, C=2) / scale, halves), (mix.blend(name, models), blended)):
        if name == "w_down":
            made = made.mT
        assert_close(made, torch.tensor(units)[..., None] + inputs)


def test_a_hidden_router_has_rows_of_length_1():
    """The mean inputs of the two experts are (3, 4) and (0, 0). The mean of these is subtracted."""
    inputs = [torch.tensor([[[5.0, 3.0], [1.0, 3.0]], [[4.0, 6.0], [2.0, 4.0]]]), torch.zeros(2, 2, 2)]  # (n, T, D)
    assert_close(hidden_router(inputs), torch.tensor([[0.6, 0.8], [-0.6, -0.8]]))


def test_ridge_router_is_least_squares_with_a_penalty():
    """Penalising |W|^2 is the same as adding, for each dimension j, an input sqrt(penalty) e_j with the target 0."""
    rng = torch.Generator().manual_seed(0)
    inputs = [torch.randn(n, 8, generator=rng) + shift for n, shift in ((20, 0), (31, 1), (5, 2))]
    X = torch.cat([*inputs, 2 * torch.eye(8)])
    one_hot = torch.eye(3).repeat_interleave(torch.tensor([20, 31, 5]), dim=0)
    targets = torch.cat([one_hot, torch.zeros(8, 3)])
    assert_close(ridge_router(inputs, penalty=4.0), torch.linalg.lstsq(X, targets).solution.T)


@torch.no_grad()
def test_rows_are_fitted_to_twelve_windows_and_made_as_sharp_as_four_others_allow(tiny, tmp_path):
    """By hand, in every layer of the finished mixture. Both chunks of a model read the same text."""
    options = ["--split", "2", "--router_data", "math,general", "--data_dir", f"{tiny}/data"]
    model, inputs = build_model(run_mix(tiny, ["seed", "math"], tmp_path / "a.pt", *options, "--ridge")), []
    for block in model.blocks:
        block.ff.register_forward_pre_hook(lambda layer, args: inputs.append(args[0]))
    domains = load_domains(tiny / "data")
    for name in ("math", "math", "general", "general"):  # that of seed.pt is math
        model(first_windows(domains[name].train, 128, 16)[:, :-1])
    for i, block in enumerate(model.blocks):
        fit, held_out = zip(*[x.split([12, 4]) for x in inputs[i::2]], strict=True)
        W = ridge_router([x.flatten(0, 1) for x in fit])
        s = block.ff.router.norm() / W.norm()
        assert_close(block.ff.router.data, s * W, rtol=1e-3, atol=1e-4)
        likelihood = [sum((t * x @ W.T).log_softmax(-1)[..., e].mean() for e, x in enumerate(held_out))
                      for t in (s / 2**0.5, s, s * 2**0.5)]
        assert s > 1.1 and likelihood[1] == max(likelihood)
    for more, rows in ((["--ridge", "--sharpness", "1"], ridge_router([x[:12].flatten(0, 1) for x in inputs[::2]])),
                       ([], hidden_router(inputs[::2]))):
        made = run_mix(tiny, ["seed", "math"], tmp_path / "a.pt", *options, *more)["state"]
        assert_close(made["blocks.0.ff.router"], rows, rtol=1e-3, atol=1e-4)


def test_a_wrong_order_of_the_domains_is_told(tiny, tmp_path, capsys):
    """It costs most of what such a mixture can do, and nothing fails."""
    models = ["seed", "math", "code", "wiki"]
    for domains, warns in (("general,math,code,wiki", False), ("general,code,wiki,math", True)):
        run_mix("data/start", models, tmp_path / "a.pt", "--router_data", domains, "--data_dir", f"{tiny}/data")
        assert ("Warning" in (said := capsys.readouterr().out)) == warns
    assert "With --router_data general,math,code,wiki the" in said


def test_text_from_which_no_router_can_start(tiny):
    math, code = load_domains(tiny / "data", ["math", "code"]).values()
    for domains, error in (([math, math], "the same text"), ([math, code._replace(train=code.train[:200])], "'code'")):
        with pytest.raises(BadInput, match=error):
            start_from_text({}, GPTConfig(), domains, 1)


def test_a_domain_with_little_text_counts_as_much_as_the_others(tiny):
    """The others have 4 windows, so 4 of a long own text are read, from all of it. Last tokens are only targets."""
    long, *others = load_domains(tiny / "data", ["general", "math", "code"]).values()
    short = [domain._replace(train=domain.train[:5 * 128]) for domain in others]
    evenly = first_windows(long.train, 128, 4, spread=True)[:, :-1].flatten()  # (4 * 128,)
    routers = []
    for text in (long.train, torch.cat([evenly, evenly[:1]]).numpy()):
        mixed = load_checkpoint(tiny / "btx_mixed.pt")  # a new one, because its routers are set in place
        own = long._replace(name="own", train=text)
        state = start_from_text(mixed["state"], GPTConfig(**mixed["config"]), [own, *short], 1, ridge=True)
        routers.append(state["blocks.1.ff.router"])
    assert torch.equal(*routers)


@pytest.mark.parametrize("options,experts,d_ff,routing,top_k", [
    ("--top_k 4", "seed math seed_2 seed_3", 16, "topk", 4),
    ("--routing switch", "seed math seed_2 seed_3", 16, "switch", 1),
    ("--blend", "blend.1 blend.2 blend.3 blend.4", 16, "topk", 2),
    ("--split 2", "seed.1 seed.2 math.1 math.2 seed_2.1 seed_2.2 seed_3.1 seed_3.2", 8, "topk", 2),
    ("--average", "", 16, "topk", 2)])
def test_options_decide_shape_and_names(tiny, tmp_path, options, experts, d_ff, routing, top_k):
    start = load_checkpoint(tiny / "seed.pt")
    made = run_mix(tiny, ["seed", "math", "seed", "seed"], tmp_path / "a.pt", *options.split())
    assert made["experts"] == experts.split()
    shape = {"d_ff": d_ff, "n_expert": len(made["experts"]), "routing": routing, "top_k": top_k}
    assert build_model(made).config == GPTConfig(**start["config"] | shape)
    is_whole = torch.equal(made["state"]["blocks.0.ff.w_up"][0], start["state"]["blocks.0.ff.w_up"])
    assert is_whole == ("seed" in made["experts"])
    seed, math, last = made["ledger"]
    assert last["parents"] == [seed["id"], math["id"], seed["id"], seed["id"]]
    assert (last["action"] == "average") == (options == "--average")


def test_task_arithmetic_can_give_the_average(tiny, tmp_path):
    models = ["seed", "math", "code"]
    task_arithmetic.main([*(f"{tiny}/{name}.pt" for name in models), "--scale", f"{1 / 3}", f"--out={tmp_path}/b.pt"])
    average = run_mix(tiny, models, tmp_path / "a.pt", "--average")["state"]
    assert_close(load_checkpoint(tmp_path / "b.pt")["state"], average)


def test_ledger_counts_a_shared_seed_once():
    """The branches of a seed also count as running at the same time."""
    seed = new_entry("train", "seed.pt", [], tokens=100, flops=10, seconds=1.0)
    math = new_entry("train", "math.pt", [seed], tokens=30, flops=5, seconds=8.0, ranks=4)
    code = new_entry("train", "code.pt", [seed], tokens=30, flops=3, seconds=5.0)
    joined = join_ledgers([[seed], [seed, math], [seed, code]])
    assert joined == [seed, math, code]
    assert totals(joined) == {"tokens": 160, "flops": 18, "seconds": 14.0}
    assert elapsed(joined) == 1.0 + 5.0 and chain_flops(joined) == 10 + 5


def test_models_that_are_built_from_one_checkpoint_share_no_weights(tiny):
    checkpoint = load_checkpoint(tiny / "seed.pt")
    first, second = build_model(checkpoint), build_model(checkpoint)
    with torch.no_grad():
        first.embed.weight.zero_()
    assert second.embed.weight.any() and checkpoint["state"]["embed.weight"].any()
    assert build_model(checkpoint, share=True).embed.weight.data_ptr() == checkpoint["state"]["embed.weight"].data_ptr()
