"""What each stage has to compute. Every check runs on a submission and on the reference, and the results must agree.

A check is a function of `lib`, which has the modules model, mix and finetune_router as attributes, and of a generator,
from which it draws its shapes and numbers. It returns {name: tensor or plain value}. Its docstring says what to look at
if the results differ. If the function under test calls another one that students write, the check replaces that one, so
that a mistake costs points once.
"""
import importlib
from contextlib import contextmanager
from unittest import mock

import torch

STAGES = {1: "a SwiGLU feed-forward", 2: "the MoE layer", 3: "load balancing", 4: "mixing",
          5: "Switch and Sample Top-1", 6: "splitting and blending"}
PUBLIC_SEEDS = (1, 2)  # of the numbers that a handout is checked with


class Modules:
    """The files that students write, as attributes; each is imported when it is first used."""

    def __getattr__(self, name):
        return importlib.import_module(name)


def size(rng, low, high):
    """A random whole number, both ends included."""
    return int(torch.randint(low, high + 1, (), generator=rng))


def normal(rng, *shape):
    """Random numbers that ask for a gradient."""
    return torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()


def gradients(y, **inputs):
    """The gradients of a fixed weighted sum of y."""
    if not y.requires_grad:
        raise ValueError(f"no gradient reaches {', '.join(inputs)}: is something detached, counted, or a constant?")
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    found = torch.autograd.grad((y * weights).sum(), list(inputs.values()), materialize_grads=True)
    return {f"gradient of {name}": gradient for name, gradient in zip(inputs, found, strict=True)}


@contextmanager
def instead(module, name, function):
    """Let `function` stand in for a function of a module for a while. Raises ValueError if it was never called."""
    with mock.patch.object(module, name, side_effect=function) as stand_in:
        yield
    if not stand_in.called:
        raise ValueError(f"call {name}: the check replaces it by another function, so mistakes in it cost nothing here")


def random_routing(lib, rng, M, N, k):
    """A Routing of k distinct experts for each of M tokens; its gates and probabilities ask for gradients."""
    experts = torch.rand(M, N, generator=rng).argsort(1)[:, :k]
    probs = torch.randn(M, N, generator=rng, dtype=torch.float64).softmax(-1).requires_grad_()
    gates = torch.rand(M, k, generator=rng, dtype=torch.float64).softmax(-1).requires_grad_()
    return lib.model.Routing(gates, experts, probs)


def routed(routing, logits):
    """A Routing in a form that does not depend on the order of its experts, and its gradients."""
    if routing.gates.shape != routing.experts.shape or routing.gates.ndim != 2:
        raise ValueError("gates and experts should both be (M, k), also for k = 1; they are "
                         f"{tuple(routing.gates.shape)} and {tuple(routing.experts.shape)}")
    gates = torch.zeros_like(logits).scatter(1, routing.experts, routing.gates)
    chosen = torch.zeros_like(logits).scatter(1, routing.experts, torch.ones_like(routing.gates))
    return {"gates by expert": gates, "chosen experts": chosen, "probs": routing.probs,
            **gradients(torch.cat([gates, routing.probs]), logits=logits)}


def feed_forward(lib, rng):
    """FF(x) = w_down (silu(w_gate x) * w_up x): silu on the gate alone, the product element by element."""
    B, T = size(rng, 1, 3), size(rng, 2, 5)
    D, d_ff = size(rng, 3, 7), size(rng, 4, 9)
    x = normal(rng, B, T, D)
    w = {"w_gate": normal(rng, d_ff, D), "w_up": normal(rng, d_ff, D), "w_down": normal(rng, D, d_ff)}
    y = lib.model.swiglu(x, **w)
    return {"y": y, **gradients(y, x=x, **w)}


def gates(lib, rng):
    """g(W_l x) = SoftMax(TopK(W_l x)): the softmax is over the k largest logits; probs is the softmax over all N."""
    M, N = size(rng, 5, 20), size(rng, 3, 9)
    logits = normal(rng, M, N)
    return routed(lib.model.route_topk(logits, size(rng, 2, N - 1)), logits)


def moe_layer(lib, rng, routing):
    """What ff_moe computes for a routing, with another function in the place of swiglu."""
    M, N = routing.probs.shape
    D, d_ff = size(rng, 3, 7), size(rng, 4, 9)
    x = normal(rng, M, D)
    w = {"w_gate": normal(rng, N, d_ff, D), "w_up": normal(rng, N, d_ff, D), "w_down": normal(rng, N, D, d_ff)}
    rows = []

    def other(x, w_gate, w_up, w_down):
        rows.append(x[..., 0].numel())
        return torch.tanh(x @ w_gate.mT + 2 * (x @ w_up.mT)) @ w_down.mT
    with instead(lib.model, "swiglu", other):
        y = lib.model.ff_moe(x, routing, **w)
    return {"y": y, **gradients(y, x=x, gates=routing.gates, **w),
            "tokens that swiglu computed (each expert those that chose it, no others)": sum(rows)}


def sum_over_experts(lib, rng):
    """FF_MoE(x) = sum_i g_i FF_i(x) over the tokens that chose i; where experts[token, slot] is i, gates has g_i."""
    M, N = size(rng, 6, 20), size(rng, 4, 6)
    return moe_layer(lib, rng, random_routing(lib, rng, M, N, size(rng, 2, N - 1)))


def experts_without_tokens(lib, rng):
    """As sum_over_experts, where no token chose some of the experts: they add nothing, and their gradient is zero."""
    routing = random_routing(lib, rng, 4, size(rng, 4, 6), 2)
    return moe_layer(lib, rng, routing._replace(experts=torch.tensor([[1, 3]]).expand(4, 2)))


def load(lib, rng):
    """u_i is the mean of the gate g_i over all tokens, also those with g_i = 0: not how often i was chosen."""
    routing = random_routing(lib, rng, size(rng, 5, 20), size(rng, 4, 8), size(rng, 2, 3))
    u = lib.model.expert_load(routing)
    return {"u": u, **gradients(u, gates=routing.gates)}


def balancing(lib, rng):
    """L_LB / alpha = N sum_i u_i p_i, summed over layers: u is what expert_load returns, p the mean of probs."""
    M, N = size(rng, 5, 20), size(rng, 5, 8)
    routing = [random_routing(lib, rng, M, N, 2) for _ in range(size(rng, 2, 4))]

    def other(routing):
        return (routing.dense_gates() ** 2).mean(0)
    with instead(lib.model, "expert_load", other):
        loss = lib.model.load_balancing_loss(routing)
    inputs = {}
    for i, layer in enumerate(routing):
        inputs |= {f"gates of layer {i}": layer.gates, f"probs of layer {i}": layer.probs}
    return {"loss": loss, **gradients(loss, **inputs)}


def averaged(lib, rng):
    """Averages are computed and returned in float32, whatever the models are stored in; one mean of all N models."""
    shape = size(rng, 6, 8), size(rng, 6, 8)
    tensors = [torch.randn(shape, generator=rng).bfloat16() for _ in range(size(rng, 3, 5))]
    return {"mean": lib.mix.average(tensors)}


def rules(lib, rng):
    """A feed-forward's matrix gives the argument feed_forwards; routers are new; all else is averaged, ff_norm too."""
    names = ["embed.weight", "head.weight", "norm.weight", "blocks.3.attn_norm.weight", "blocks.3.ff_norm.weight",
             "blocks.12.ff.router"]
    names += [f"blocks.{size(rng, 0, 9)}.attn.{w}.weight" for w in ("wq", "wk", "wv", "wo")]
    names += [f"blocks.{size(rng, 0, 9)}.ff.{w}" for w in ("w_gate", "w_up", "w_down")]
    found = {}
    for name in names:
        found[f'rule_for("{name}")'] = str(lib.mix.rule_for(name))
        for kind in ("split", "blended", "averaged"):
            found[f'rule_for("{name}", "{kind}")'] = str(lib.mix.rule_for(name, kind))
    return found


def switch(lib, rng):
    """Switch's gate is the chosen expert's probability among all N, not 1: otherwise the router gets no gradient."""
    M, N = size(rng, 5, 20), size(rng, 3, 6)
    logits = normal(rng, M, N)
    return routed(lib.model.route_switch(logits), logits)


def capacity(lib, rng):
    """In training an expert keeps ceil(1.5 M / N) of the tokens that chose it, those with the largest gates."""
    M, N = size(rng, 20, 40), size(rng, 3, 5)
    logits = 0.05 * torch.randn(M, N, generator=rng, dtype=torch.float64)
    logits[:, 1] += 0.2        # two thirds choose expert 1, with small gates;
    logits[:M // 3, 1] += 3.3  # the others choose expert 2, though expert 1 is likelier for them than for those
    logits[:M // 3, 2] += 3.7
    logits.requires_grad_()
    routing = lib.model.route_switch(logits, training=True)
    one = torch.randn(1, 8, generator=rng, dtype=torch.float64)
    return {"gates": routing.gates, **gradients(routing.gates, logits=logits), "experts": routing.experts,
            "probs": routing.probs, "gate of a single token": lib.model.route_switch(one, training=True).gates,
            "gates in evaluation": lib.model.route_switch(logits).gates}


def sampled(lib, rng):
    """g = SoftMax((W_l x + G) / tau): its largest value alone, and the gradient through it; probs are without noise."""
    M, N = size(rng, 5, 20), size(rng, 3, 6)
    logits = normal(rng, M, N)
    G = 2 * torch.randn(M, N, generator=rng, dtype=torch.float64)
    tau = 0.5 + size(rng, 0, 4) / 10
    return routed(lib.model.route_sample(logits, training=True, noise=(G, tau)), logits)


def sampled_in_evaluation(lib, rng):
    """In evaluation the gate is 1: of the likeliest expert without noise, of a drawn one with it."""
    M, N = size(rng, 5, 20), size(rng, 3, 6)
    logits = 2 * torch.randn(M, N, generator=rng, dtype=torch.float64)
    G = 2 * torch.randn(M, N, generator=rng, dtype=torch.float64)
    without, drawn = lib.model.route_sample(logits), lib.model.route_sample(logits, noise=(G, 1.0))
    return {"gates": without.gates, "experts": without.experts, "gates if drawn": drawn.gates,
            "experts if drawn": drawn.experts, "probs": without.probs, "probs if drawn": drawn.probs}


def annealed(lib, rng):
    """tau = max(0.5, exp(-r t)), with r t = 4 progress: from 1 down to 0.5."""
    places = [*torch.rand(8, generator=rng, dtype=torch.float64).tolist(), 0.0, 1.0]
    return {"tau": torch.tensor([lib.finetune_router.temperature(place) for place in places])}


def feed_forwards(rng, n_models, d_ff, D):
    """The matrices of several models by name."""
    shapes = {"w_gate": (d_ff, D), "w_up": (d_ff, D), "w_down": (D, d_ff)}
    return {name: [torch.randn(shape, generator=rng).bfloat16() for _ in range(n_models)]
            for name, shape in shapes.items()}


def split(lib, rng):
    """Each feed-forward is cut along d_ff; the chunks of one stand together; w_down is multiplied by their number."""
    C = size(rng, 2, 3)
    models = feed_forwards(rng, size(rng, 2, 3), 2 * C, size(rng, 3, 5))
    return {name: lib.mix.split(f"blocks.0.ff.{name}", w, C) for name, w in models.items()}


def blend(lib, rng):
    """Expert n is made of the n-th chunk of every model, side by side in the order of the models; no factor."""
    N = size(rng, 2, 4)
    models = feed_forwards(rng, N, 2 * N, size(rng, 3, 5))
    return {name: lib.mix.blend(f"blocks.0.ff.{name}", w) for name, w in models.items()}


CHECKS = {  # stage: (check, its points)
    1: [(feed_forward, 5)],
    2: [(gates, 12), (sum_over_experts, 15), (experts_without_tokens, 3)],
    3: [(load, 7), (balancing, 13)],
    4: [(averaged, 7), (rules, 8)],
    5: [(switch, 5), (capacity, 5), (sampled, 5), (sampled_in_evaluation, 3), (annealed, 2)],
    6: [(split, 5), (blend, 5)]}


def compute(check, lib, seed):
    """What a check gives for the modules in `lib`: {name: tensor or plain value}."""
    found = check(lib, torch.Generator().manual_seed(seed))
    return {name: value.detach() if isinstance(value, torch.Tensor) else value for name, value in found.items()}


def difference(found, expected):
    """In one line, the first of a check's results that is not as expected; None if all are."""
    for name, want in expected.items():
        got = found.get(name)
        if type(got) is not type(want):
            return f"{name}: expected a {type(want).__name__}, got a {type(got).__name__}"
        if not isinstance(want, torch.Tensor):
            if got != want:
                return f"{name}: expected {want}, got {got}"
        elif got.shape != want.shape:
            return f"{name}: expected the shape {tuple(want.shape)}, got {tuple(got.shape)}"
        elif got.dtype != want.dtype:
            return f"{name}: expected {want.dtype}, got {got.dtype}"
        else:
            wrong = ~torch.isclose(got, want, rtol=1e-5, atol=1e-7)
            if wrong.any():
                place = tuple(wrong.nonzero()[0].tolist())
                return (f"{name}{list(place) or ''}: expected {want[place]:.4g}, got {got[place]:.4g} "
                        f"({int(wrong.sum())} of {wrong.numel()} numbers differ)")
    return None
