"""--recompute changes no gradient, and torch.compile makes one graph of --fast, whose sum is in test_routers."""
import pytest
import torch
from torch._dynamo.utils import counters
from torch.testing import assert_close

from model import ROUTERS, gumbel, load_balancing_loss
from support import fast
from tests.test_model import new_model, random_tokens

PATHS = {"dense": {}, **{method: {"n_expert": 4, "routing": method} for method in ROUTERS}}


def loss_and_gradients(model, tau=0.7, **options):
    """The loss of stage 3 in training mode, and the gradients of all parameters."""
    model.train().zero_grad()
    noise = None
    if model.config.n_expert:
        noise = gumbel(model.config, 27, tau, torch.Generator().manual_seed(0))
    _, loss, routing = model(random_tokens(), random_tokens(seed=2), noise=noise, **options)
    if routing:
        loss = loss + 0.1 * load_balancing_loss(routing)
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("path", PATHS)
def test_recompute_changes_no_gradient(path):
    model = new_model(**PATHS[path])
    assert_close(loss_and_gradients(model, recompute=True), loss_and_gradients(model))


def test_compiler_makes_one_graph_and_keeps_it():
    """For every temperature, with values and gradients that are the same but for rounding in bfloat16.

    fullgraph=True raises an error at a break; this backend needs no C++ compiler.
    """
    torch._dynamo.reset()
    counters.clear()
    model = new_model(**PATHS["sample"]).float()
    fast.install(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for tau in (0.9, 0.5):
        with torch.autocast("cpu", torch.bfloat16):  # the compiler knows the grouped product in bfloat16 only
            loss, gradients = loss_and_gradients(compiled, tau)
            want_loss, want_gradients = loss_and_gradients(model, tau)
        assert_close(loss, want_loss, rtol=0.01, atol=0)
        assert all((a - b).norm() < 0.1 * b.norm() for a, b in zip(gradients, want_gradients, strict=True))
    assert counters["stats"]["unique_graphs"] == 1
