"""The MoE layer, its four routers and the load-balancing loss (3.2, 3.3), each against a second implementation."""
import math

import pytest
import torch
from torch.autograd import grad
from torch.testing import assert_close

import model
from model import ROUTERS, GPTConfig, MoE, Noise, ff_moe, gumbel, load_balancing_loss, mean_gates_and_probs
from support import fast
from tests.test_model import new_model, random_tokens


def gates_by_hand(method, logits, noise):
    """The gate of every expert for every token, (M, N), computed one token at a time. noise: None in evaluation."""
    M, N = logits.shape
    probs = logits.exp() / logits.exp().sum(1, keepdim=True)
    gates = torch.zeros_like(logits)
    for m in range(M):
        if method == "topk":
            chosen = sorted(range(N), key=lambda i: logits[m, i].item())[-2:]
            gates[m, chosen] = logits[m, chosen].exp() / logits[m, chosen].exp().sum()
        elif method == "soft":
            gates[m] = probs[m]
        elif method == "switch":
            i = probs[m].argmax()
            gates[m, i] = probs[m, i]
        elif method == "sample" and noise is None:
            gates[m, probs[m].argmax()] = 1.0
        elif method == "sample":
            scores = ((logits[m] + noise.G[m]) / noise.tau).exp()
            i = scores.argmax()
            gates[m, i] = scores[i] / scores.sum()
        else:
            raise ValueError(f"gates_by_hand does not know the router {method!r}")
    if method == "switch" and noise is not None:
        capacity = math.ceil(1.5 * M / N)
        for i in range(N):
            tokens = [m for m in range(M) if gates[m, i] > 0]
            tokens.sort(key=lambda m: -gates[m, i].item())
            gates[tokens[capacity:], i] = 0.0
    return gates


def compute_every_expert(x, gates, weights):
    """The equation as printed: the sum over all N experts of g_i FF_i(x). gates: (M, N), mostly 0."""
    y = torch.zeros_like(x)
    for i, (w_gate, w_up, w_down) in enumerate(zip(*weights, strict=True)):
        h = x @ w_gate.T
        y = y + gates[:, i, None] * ((h * h.sigmoid() * (x @ w_up.T)) @ w_down.T)
    return y


def gradients(y, inputs):
    """The gradients of a number that depends on all of y. They are 0 for an input that does not affect it."""
    return grad((y * y).sum(), inputs, retain_graph=True, materialize_grads=True)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("method", ROUTERS)
def test_layer_equals_every_expert_with_gates_by_hand(method, training):
    """Values are equal, and so are the gradients of the input, the router and the experts. Evaluation has no noise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    layer = MoE(GPTConfig(n_embd=8, d_ff=8, n_expert=4, routing=method), layer=1).double().train(training)
    for p in layer.parameters():
        p.data.normal_(generator=generator)
    layer.router.data[0] = x.sum(0)  # many tokens choose expert 0, so that Switch drops some
    noise = None
    if training:
        noise = Noise(torch.randn(30, 4, generator=generator), 0.7)

    y, routing = layer(x.view(5, 6, 8), noise)
    logits = x @ layer.router.T
    gates = gates_by_hand(method, logits, noise)
    want = compute_every_expert(x, gates, (layer.w_gate, layer.w_up, layer.w_down))

    assert_close(y.view(30, 8), want)
    assert_close(routing.dense_gates(), gates)
    probs = logits.exp() / logits.exp().sum(1, keepdim=True)
    assert_close(routing.probs, probs)
    inputs = [x, *layer.parameters()]
    assert_close(gradients(y, inputs), gradients(want, inputs))
    loss = load_balancing_loss(*mean_gates_and_probs([routing, routing]))
    want_loss = 2 * 4 * (gates.mean(0) * probs.mean(0)).sum()
    assert_close(loss, want_loss)
    assert_close(gradients(loss, inputs), gradients(want_loss, inputs))
    if method == "switch":
        assert (gates.sum(1) == 0).any() == training


@pytest.mark.parametrize("sum_experts", [ff_moe, fast.ff_moe], ids=["readable", "fast"])
@pytest.mark.parametrize("N,M,k", [(4, 1, 2), (1, 5, 1), (40, 3, 2), (4, 30, 3)])
def test_sum_equals_every_expert_for_odd_sizes(N, M, k, sum_experts):
    """The sizes are one token, one expert, more experts than tokens, and several experts for each of many tokens."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(M, 8), (N, 8), (N, 8, 8), (N, 8, 8), (N, 8, 8)]
    inputs = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]
    x, router, *weights = inputs
    routing = model.route_topk(x @ router.T, k)
    got, want = sum_experts(x, routing, *weights), compute_every_expert(x, routing.dense_gates(), weights)
    assert_close(got, want, rtol=1e-4, atol=1e-4)  # torch has no grouped product in float64
    assert_close(gradients(got, inputs), gradients(want, inputs), rtol=1e-4, atol=1e-2)


def test_experts_are_drawn_as_often_as_the_softmax_says():
    """Pearson's chi-square over 40,000 draws exceeds 16.3 by chance once in a thousand times."""
    n, logits = 40_000, torch.tensor([[0.0, 1.0, -1.0, 0.5]])
    noise = gumbel(GPTConfig(n_layer=1, n_expert=4), n, 0.5, torch.Generator().manual_seed(0))[0]
    routing = model.route_sample(logits.expand(n, 4), training=True, noise=noise)
    counts = routing.experts.flatten().bincount(minlength=4)
    expected = n * logits.softmax(-1)[0]
    assert ((counts - expected) ** 2 / expected).sum() < 16.3


def test_each_layer_has_noise_of_its_own_and_the_first_is_soft():
    model = new_model(n_expert=4, n_layer=3, routing="sample").train()
    noise = gumbel(model.config, 27, 0.7, torch.Generator().manual_seed(0))
    routing = model(random_tokens(), noise=noise)[2]
    assert [layer.gates.shape for layer in routing] == [(27, 4), (27, 1), (27, 1)]
    for i in (1, 2):
        assert torch.equal(routing[i].experts[:, 0], (routing[i].probs.log() + noise[i].G).argmax(-1))
    assert not torch.equal(noise[1].G, noise[2].G)
