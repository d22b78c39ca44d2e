"""The sum over experts against the equation as printed, and how Sample Top-1 draws (3.2, 3.3).

The routers and the balancing loss are checked by course/stages.py, which test_course.py runs.
"""
import pytest
import torch
from torch.autograd import grad
from torch.testing import assert_close

import model
from model import GPTConfig, ff_moe, gumbel
from support import fast
from tests.test_model import new_model, random_tokens


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


def test_switch_drops_tokens_in_training_alone():
    model = new_model(n_expert=4, routing="switch")
    model.blocks[0].ff.router.data.zero_()  # all 27 tokens choose expert 0, which takes 1.5 * 27 / 4 of them
    for is_training, n_dropped in ((True, 16), (False, 0)):
        first, _ = model.train(is_training)(random_tokens())[2]
        assert (first.gates == 0).sum() == n_dropped


def test_sample_has_noise_for_each_layer_and_a_soft_first_one():
    """In training a gate is the sample's largest value, in evaluation 1."""
    model = new_model(n_expert=4, n_layer=3, routing="sample").train()
    noise = gumbel(model.config, 27, 0.7, torch.Generator().manual_seed(0))
    routing = model(random_tokens(), noise=noise)[2]
    assert [layer.gates.shape for layer in routing] == [(27, 4), (27, 1), (27, 1)]
    assert torch.equal(routing[0].dense_gates(), routing[0].probs)
    for i in (1, 2):
        assert torch.equal(routing[i].experts[:, 0], (routing[i].probs.log() + noise[i].G).argmax(-1))
    assert not torch.equal(noise[1].G, noise[2].G)
    assert (routing[1].gates < 1).all() and (model.eval()(random_tokens())[2][1].gates == 1).all()
