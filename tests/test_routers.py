"""The four routing methods of section 3.3, each against the paper's words written down a second time."""
import math

import pytest
import torch
import torch.nn.functional as F

from model import CAPACITY_FACTOR, GPT, ROUTERS, GPTConfig, ff_moe, gumbel, load_balancing_loss, route_sample, route_switch
from tests.test_model import compute_every_expert, new, random_moe, tokens
from train_expert import router_noise, temperature


def generator(seed=3):
    return torch.Generator().manual_seed(seed)


def noise(M, N=4, tau=0.7, layers=1, seed=3):
    """For each layer (G, tau), G written down a second time, in float64."""
    G = -(-torch.rand((layers, M, N), generator=generator(seed), dtype=torch.float64).log()).log()
    return [(g, tau) for g in G]


def gates_by_hand(method, logits, k, training, noisy, tau):
    """The gate of every expert, (M, N), token by token, in plain Python floats."""
    rows = []
    for i, row in enumerate(logits.tolist()):
        N = len(row)
        softmax = [math.exp(v) / sum(map(math.exp, row)) for v in row]
        g = [0.0] * N
        if method == "topk":
            kept = sorted(range(N), key=row.__getitem__)[-k:]
            for e in kept:
                g[e] = math.exp(row[e]) / sum(math.exp(row[j]) for j in kept)
        elif method == "soft":
            g = softmax
        elif method == "switch":
            g[softmax.index(max(softmax))] = max(softmax)
        else:
            scores = [v + n for v, n in zip(row, noisy[i].tolist(), strict=True)]
            e = scores.index(max(scores))
            g[e] = math.exp(scores[e] / tau) / sum(math.exp(s / tau) for s in scores) if training else 1.0
        rows.append(g)
    if method == "switch" and training:  # the least sure tokens of each expert go
        for e in range(N):
            mine = sorted((i for i, g in enumerate(rows) if g[e] > 0), key=lambda i: -rows[i][e])
            for i in mine[max(1, math.ceil(1.5 * len(rows) / N)):]:
                rows[i][e] = 0.0
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("method", ROUTERS)
def test_the_layer_equals_one_that_computes_every_expert_with_gates_by_hand(method, training):
    x, router, weights, _ = random_moe(N=4, M=40)
    logits = F.linear(x, router) + torch.tensor([2.0, 0.0, 0.0, 0.0])  # more want expert 0 than Switch's capacity allows
    drawn = noise(40, tau=0.8)[0]
    routing = ROUTERS[method](logits, 2, training, drawn)
    want_gates = gates_by_hand(method, logits, 2, training, *drawn)
    want = sum(want_gates[:, i, None] * compute_every_expert(
        x, routing._replace(gates=torch.ones(40, 1, dtype=x.dtype), experts=torch.full((40, 1), i)), weights) for i in range(4))
    got = ff_moe(x, routing, *weights)
    torch.testing.assert_close(got, want)
    if method == "switch":
        assert (want_gates.sum(1) == 0).any() == training  # the example drops tokens, in training alone


@pytest.mark.parametrize("method", ROUTERS)
def test_the_routers_gradient_equals_finite_differences_with_the_noise_held_fixed(method):
    x, router, weights, _ = random_moe(N=4, M=9, D=4, d_ff=3)

    def layer(router):
        routing = ROUTERS[method](F.linear(x.detach(), router), 2, True, noise(9)[0])
        return ff_moe(x.detach(), routing, *weights)
    assert torch.autograd.gradcheck(layer, (router,))
    grad = torch.autograd.grad(layer(router).square().sum(), router)[0]
    assert grad.abs().max() > 1e-3


@pytest.mark.parametrize("method", ROUTERS)
def test_every_router_learns_from_the_language_model_loss_alone(method):
    model = new(n_expert=4, routing=method).train()
    _, loss, _ = model(tokens(), tokens(seed=2), noise=noise(27, layers=2))
    loss.backward()
    assert all(block.ff.router.grad.abs().max() > 0 for block in model.blocks)


# ---- Switch ----


def test_switch_drops_the_share_that_its_capacity_says():
    M, N = 400, 4
    logits = torch.randn(M, N, generator=generator()) * 0.1
    logits[:, 0] += 2.0  # everybody wants expert 0
    gates = route_switch(logits, training=True).gates[:, 0]
    assert (gates == 0).float().mean().item() == pytest.approx(1 - CAPACITY_FACTOR / N)
    assert gates[gates > 0].min() >= logits.softmax(-1)[:, 0][gates == 0].max()  # the least sure go, whatever their place
    assert (route_switch(logits, training=False).gates > 0).all()
    balanced = torch.eye(4).repeat(100, 1)
    assert (route_switch(balanced, training=True).gates > 0).all()


@pytest.mark.parametrize("M", [1, 2, 3])
def test_switch_never_has_a_capacity_of_zero(M):
    assert (route_switch(torch.zeros(M, 64) + torch.arange(64.0), training=True).gates > 0).sum() == 1


def test_a_dropped_token_passes_by_the_residual_alone():
    x, router, weights, _ = random_moe(N=4, M=40)
    routing = route_switch(F.linear(x, router * 0 + router[:1]), training=True)  # equal logits: all want one expert
    assert torch.equal(ff_moe(x, routing, *weights).abs().sum(1) == 0, routing.gates[:, 0] == 0)


# ---- Sample Top-1 ----


def test_sampled_experts_come_as_often_as_the_softmax_says():
    """Pearson's chi-square over 40,000 draws; 16.3 is exceeded once in a thousand times with 3 degrees of freedom."""
    logits = torch.tensor([[0.0, 1.0, -1.0, 0.5]], dtype=torch.float64)
    n = 40_000
    for training, tau in ((True, 0.5), (True, 1.0), (False, 0.5)):
        drawn = gumbel(GPTConfig(n_layer=1, n_expert=4), n, tau, generator())[0]
        experts = route_sample(logits.expand(n, 4), None, training, drawn).experts[:, 0]
        counts = experts.bincount(minlength=4)
        expected = n * logits.softmax(-1)[0]
        assert ((counts - expected) ** 2 / expected).sum() < 16.3


def test_sampling_ends_with_training():
    logits = torch.randn(50, 4, generator=generator())
    drawn, likeliest = route_sample(logits, noise=noise(50)[0]), route_sample(logits)
    assert torch.equal(likeliest.experts[:, 0], logits.argmax(-1)) and not torch.equal(drawn.experts, likeliest.experts)
    assert (drawn.gates == 1).all() and (likeliest.gates == 1).all()
    model = new(n_expert=4, routing="sample").train()
    with pytest.raises(ValueError, match="noise"):
        model(tokens())
    before = torch.random.get_rng_state()
    model.eval()
    assert torch.equal(model(tokens())[0], model(tokens())[0])
    model.train()(tokens(), noise=gumbel(model.config, 27, 0.7, generator()))
    assert torch.equal(before, torch.random.get_rng_state())  # the global generator is nobody's


def test_the_first_layer_of_a_sampling_model_is_soft():
    routing = new(n_expert=4, routing="sample", n_layer=3).train()(tokens(), noise=noise(27, layers=3))[2]
    assert [r.gates.shape[1] for r in routing] == [4, 1, 1]


def test_the_temperature_falls_from_1_to_its_floor_and_the_noise_follows_the_step():
    config = GPTConfig(n_expert=4, routing="sample")
    taus = [temperature(step / 100) for step in range(100)]
    assert taus[0] == 1.0 and taus == sorted(taus, reverse=True) and taus[-1] == 0.5
    assert taus[10] == pytest.approx(math.exp(-0.4))

    def draw(*key):
        drawn = router_noise(config, 0.05, key, "cpu")(3)
        assert len(drawn) == config.n_layer and all(tau == temperature(0.05) for _, tau in drawn)
        return tuple(torch.stack([G for G, _ in drawn]).flatten().tolist())
    keys = [(0, 1, 5, 0), (1, 1, 5, 0), (0, 2, 5, 0), (0, 1, 6, 0), (0, 1, 5, 1)]
    assert draw(*keys[0]) == draw(*keys[0]) and len({draw(*key) for key in keys}) == 5
    assert router_noise(GPTConfig(n_expert=4), 0.05, keys[0], "cpu") is None


@pytest.mark.parametrize("method", ROUTERS)
def test_a_cached_forward_routes_as_a_whole_one_does(method):
    model = new(n_expert=4, routing=method)
    idx, cache = tokens(), []
    parts = [model(part, cache=cache)[0] for part in idx.split([4, 1, 4], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), model(idx)[0])


@pytest.mark.parametrize("method", ROUTERS)
def test_the_balancing_loss_is_1_at_balance_and_N_at_collapse(method):
    """Sure routers that take the experts in turn; and N if all take one."""
    logits = 30.0 * torch.eye(4).repeat(25, 1)
    routing = ROUTERS[method](logits, 1, True, noise(100, tau=0.5)[0])
    assert load_balancing_loss([routing] * 3).item() == pytest.approx(3.0, abs=3e-4)  # summed over layers
    assert load_balancing_loss([ROUTERS[method](30.0 * torch.eye(4)[:1].repeat(100, 1), 1, False)]).item() \
        == pytest.approx(4.0, abs=1e-4)


def test_active_parameters_of_each_method():
    for method in ROUTERS:
        model = GPT(GPTConfig(vocab_size=20, n_layer=2, n_embd=8, n_head=2, d_ff=8, n_expert=3, routing=method))
        active = {"topk": 2 + 2, "switch": 1 + 1, "soft": 3 + 3, "sample": 3 + 1}[method]
        assert model.num_params() - model.num_params(active=True) == (6 - active) * 3 * 8 * 8
