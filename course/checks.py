"""What each stage has to compute. The same calls are made of a submission and of the reference, and their results compared.

A check is a function of `lib`, which has the modules model, mix and train_expert as attributes, and of a generator, from which it
draws its shapes and numbers. It returns {name: tensor}. Its docstring says what to look at if they differ. A check puts functions
of its own in the place of those of other stages, so that a mistake counts once.
"""
from contextlib import contextmanager

import torch

STAGES = {1: "a SwiGLU feed-forward", 2: "the MoE layer", 3: "load balancing", 4: "mixing", 5: "the finetuning objective",
          6: "Switch and Sample Top-1", 7: "splitting and blending"}


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
    if wrong := [x.dtype for x in inputs.values() if x.dtype != y.dtype]:
        raise ValueError(f"the result is {y.dtype}, what goes in is {wrong[0]}: make new tensors with zeros_like and the like")
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    found = torch.autograd.grad((y * weights).sum(), list(inputs.values()), allow_unused=True)
    return {f"gradient of {name}": torch.zeros_like(x) if g is None else g
            for (name, x), g in zip(inputs.items(), found, strict=True)}


@contextmanager
def instead(module, **functions):
    """Other functions in a module for a while; yields the set of those that were called."""
    before, called = {name: getattr(module, name) for name in functions}, set()

    def noted(name, function):
        return lambda *inputs, **options: called.add(name) or function(*inputs, **options)
    vars(module).update({name: noted(name, function) for name, function in functions.items()})
    try:
        yield called
    finally:
        vars(module).update(before)


def must_call(name, called):
    """Raise ValueError if a function that stood in for another was not called."""
    if name not in called:
        raise ValueError(f"call {name}: the check puts a function of its own in its place, so mistakes there cost nothing here")


def random_routing(lib, rng, M, N, k):
    """A Routing of k distinct experts for each of M tokens; its gates and probabilities ask for gradients."""
    experts = torch.rand(M, N, generator=rng).argsort(1)[:, :k]
    probs = torch.randn(M, N, generator=rng, dtype=torch.float64).softmax(-1).requires_grad_()
    return lib.model.Routing(torch.rand(M, k, generator=rng, dtype=torch.float64).softmax(-1).requires_grad_(), experts, probs)


def routed(routing, N):
    """A routing whatever the order of its experts: gates by expert (M, N), which were chosen, and the probabilities."""
    if routing.gates.shape != routing.experts.shape or routing.gates.ndim != 2:
        raise ValueError(f"gates and experts should both be (M, k), also for k = 1; they are {tuple(routing.gates.shape)} and "
                         f"{tuple(routing.experts.shape)}")
    zeros = torch.zeros(len(routing.gates), N, dtype=routing.gates.dtype)
    chosen = torch.zeros_like(zeros).scatter(1, routing.experts, torch.ones_like(routing.gates))
    return {"gates by expert": zeros.scatter(1, routing.experts, routing.gates), "chosen experts": chosen,
            "probs": routing.probs}


# ---- stage 1 ----------------------------------------------------------------------------------------------------------


def feed_forward(lib, rng):
    """FF(x) = w_down (silu(w_gate x) * w_up x): silu on the gate alone, the product element by element."""
    B, T, D, d_ff = (size(rng, *bounds) for bounds in ((1, 3), (2, 5), (3, 7), (4, 9)))
    x, w = normal(rng, B, T, D), {"w_gate": normal(rng, d_ff, D), "w_up": normal(rng, d_ff, D), "w_down": normal(rng, D, d_ff)}
    y = lib.model.swiglu(x, **w)
    return {"y": y, **gradients(y, x=x, **w)}


# ---- stage 2 ----------------------------------------------------------------------------------------------------------


def gates(lib, rng):
    """g(W_l x) = SoftMax(TopK(W_l x)): first the k largest logits, then the softmax over those k alone."""
    M, N = size(rng, 5, 20), size(rng, 3, 9)
    logits = normal(rng, M, N)
    routing = lib.model.route_topk(logits, size(rng, 2, N - 1))
    found = routed(routing, N)
    return {**found, **gradients(found["gates by expert"], logits=logits)}


def probabilities(lib, rng):
    """Routing.probs is SoftMax over all N logits; the load-balancing loss needs it (3.3)."""
    M, N = size(rng, 5, 20), size(rng, 3, 9)
    logits = normal(rng, M, N)
    probs = lib.model.route_topk(logits, 2).probs
    return {"probs": probs, **gradients(probs, logits=logits)}


def sum_over_experts(lib, rng):
    """FF_MoE(x) = sum_i g_i FF_i(x): swiglu of the tokens that chose i alone; where experts[token, slot] is i, gates has g_i."""
    M, D, d_ff, N = (size(rng, *bounds) for bounds in ((6, 20), (3, 7), (4, 9), (4, 6)))
    x, routing = normal(rng, M, D), random_routing(lib, rng, M, N, size(rng, 2, N - 1))
    w = {"w_gate": normal(rng, N, d_ff, D), "w_up": normal(rng, N, d_ff, D), "w_down": normal(rng, N, D, d_ff)}
    rows = []

    def other(x, w_gate, w_up, w_down):
        rows.append(x[..., 0].numel())
        return torch.tanh(x @ w_gate.mT + 2 * (x @ w_up.mT)) @ w_down.mT
    with instead(lib.model, swiglu=other) as called:
        y = lib.model.ff_moe(x, routing, **w)
    must_call("swiglu", called)
    return {"y": y, **gradients(y, x=x, gates=routing.gates, **w), "rows that swiglu computed": torch.tensor(float(sum(rows)))}


def experts_without_tokens(lib, rng):
    """As sum_over_experts, where no token chose some of the experts: they add nothing, and their gradient is zero."""
    M, D, d_ff, N = 4, size(rng, 3, 7), size(rng, 4, 9), size(rng, 4, 6)
    x = normal(rng, M, D)
    w = {"w_gate": normal(rng, N, d_ff, D), "w_up": normal(rng, N, d_ff, D), "w_down": normal(rng, N, D, d_ff)}
    experts = torch.tensor([[1, 3]]).expand(M, 2)
    routing = lib.model.Routing(torch.full((M, 2), 0.5, dtype=torch.float64), experts, torch.full((M, N), 1 / N))
    with instead(lib.model, swiglu=lambda x, w_gate, w_up, w_down: (x @ w_gate.mT * (x @ w_up.mT)) @ w_down.mT):
        y = lib.model.ff_moe(x, routing, **w)
    return {"y": y, **gradients(y, **w)}


# ---- stage 3 ----------------------------------------------------------------------------------------------------------


def load(lib, rng):
    """u_i is the mean of the gate g_i over all tokens, those with g_i = 0, too: the gate itself, not how often i was chosen."""
    routing = random_routing(lib, rng, size(rng, 5, 20), size(rng, 4, 8), size(rng, 2, 3))
    u = lib.model.expert_load(routing)
    return {"u": u, **gradients(u, gates=routing.gates)}


def balancing(lib, rng):
    """L_LB / alpha = N sum_i u_i p_i: u of expert_load, p the mean of probs, both through over_ranks; summed over layers."""
    M, N = size(rng, 5, 20), size(rng, 3, 8)
    routing = [random_routing(lib, rng, M, N, 2) for _ in range(size(rng, 2, 4))]
    with instead(lib.model, expert_load=lambda routing: (routing.dense_gates() ** 2).mean(0)) as called:
        loss = lib.model.load_balancing_loss(routing)
        must_call("expert_load", called)
        ranks = lib.model.load_balancing_loss(routing, lambda means: means / 2)
    inputs = {f"gates of layer {i}": r.gates for i, r in enumerate(routing)} | {f"probs of layer {i}": r.probs
                                                                                for i, r in enumerate(routing)}
    return {"loss": loss, "loss if over_ranks halves u and p": ranks, **gradients(loss, **inputs)}


# ---- stage 4 ----------------------------------------------------------------------------------------------------------


def own_stack(tensors):
    """What stands in for `stack`."""
    return torch.cat([t[None].to(torch.float32) for t in tensors])


def averaged(lib, rng):
    """Averages are computed and returned in float32, whatever the models are stored in; one mean of all N models."""
    shape = size(rng, 6, 8), size(rng, 6, 8)
    tensors = [torch.randn(shape, generator=rng).bfloat16() for _ in range(size(rng, 3, 5))]
    with instead(lib.mix, stack=own_stack):
        mean = lib.mix.average(tensors)
    return {"mean": mean, "is it float32?": torch.tensor(mean.dtype == torch.float32)}


def stacked(lib, rng):
    """Expert i is model i's feed-forward: stacked in the order of the models, in float32, nothing changed."""
    shape = size(rng, 2, 5), size(rng, 2, 5)
    tensors = [torch.randn(shape, generator=rng).bfloat16() for _ in range(size(rng, 3, 5))]
    made = lib.mix.stack(tensors)
    return {"experts": made, "are they float32?": torch.tensor(made.dtype == torch.float32)}


def rules(lib, rng):
    """A feed-forward's matrix gives `feed_forwards`, whatever it is; routers are new; all else is averaged, ff_norm too."""
    names = ["embed.weight", "head.weight", "norm.weight", "blocks.3.attn_norm.weight", "blocks.3.ff_norm.weight",
             *(f"blocks.{size(rng, 0, 9)}.attn.{w}.weight" for w in ("wq", "wk", "wv", "wo")), "blocks.12.ff.router",
             *(f"blocks.{size(rng, 0, 9)}.ff.{w}" for w in ("w_gate", "w_up", "w_down"))]
    found = {name: lib.mix.rule_for(name) for name in names}
    found |= {f"{name}, if feed_forwards is {kind!r},": lib.mix.rule_for(name, kind) for name in names
              for kind in ("split", "blended", "averaged")}
    return {f"is {name} {kind}?": torch.tensor(rule == kind) for name, rule in found.items()
            for kind in ("averaged", "stacked", "new", "split", "blended")}


# ---- stage 5 ----------------------------------------------------------------------------------------------------------


def objective(lib, rng):
    """NLL + alpha L_LB. load_balancing_loss sums over layers already; hand it devices.mean_over_ranks. Gradients through both."""
    nll, balance, alpha = normal(rng, 1).sum() + 3, normal(rng, 1).sum() + 2, 0.1 * size(rng, 2, 9)
    means = []

    def other(routing, over_ranks=None):
        means.append(over_ranks)
        return balance * len(routing)
    with instead(lib.train_expert, load_balancing_loss=other) as called:
        loss = lib.train_expert.objective(nll, [None] * 3, alpha)
        must_call("load_balancing_loss", called)
        small = lib.train_expert.objective(nll, [None] * 3, 1e-4)
    over_ranks = torch.tensor(means[0] == lib.train_expert.devices.mean_over_ranks)
    return {"loss": loss, "loss with a small alpha": small, "are its means those of devices.mean_over_ranks?": over_ranks,
            **gradients(loss, nll=nll, balance=balance)}


def unbalanced(lib, rng):
    """With alpha = 0 the objective is the NLL alone, and the load-balancing loss is not computed."""
    nll, calls = normal(rng, 1).sum(), []
    with instead(lib.train_expert, load_balancing_loss=lambda *i, **o: calls.append(i) or torch.zeros(())):
        loss = lib.train_expert.objective(nll, [None], 0.0)
    return {"loss": loss, "calls of load_balancing_loss": torch.tensor(float(len(calls)))}


# ---- stage 6 ----------------------------------------------------------------------------------------------------------


def switch(lib, rng):
    """Switch's gate is the chosen expert's probability among all N, not 1: otherwise the router gets no gradient."""
    M, N = size(rng, 5, 20), size(rng, 3, 6)
    logits = normal(rng, M, N)
    found = routed(lib.model.route_switch(logits), N)
    return {**found, **gradients(found["gates by expert"], logits=logits)}


def capacity(lib, rng):
    """In training an expert takes ceil(1.5 M / N) of those that chose it, the ones with the largest gates; else the gate is 0."""
    M, N = size(rng, 20, 40), size(rng, 3, 5)
    logits = 0.05 * torch.randn(M, N, generator=rng, dtype=torch.float64)
    logits[:, 1] += 0.2        # two thirds choose expert 1, with small gates;
    logits[:M // 3, 1] += 3.3  # the others choose expert 2, though expert 1 is likelier for them than for those
    logits[:M // 3, 2] += 3.7
    logits.requires_grad_()
    routing = lib.model.route_switch(logits, training=True)
    gates = routing.gates
    one = torch.randn(1, 8, generator=rng, dtype=torch.float64)
    return {"gates": gates, **gradients(gates, logits=logits), "experts": routing.experts, "probs": routing.probs,
            "gate of a single token": lib.model.route_switch(one, training=True).gates,
            "gates in evaluation": lib.model.route_switch(logits).gates}


def sampled(lib, rng):
    """g = SoftMax((W_l x + G) / tau): its largest value alone, and the gradient through it; probs are without noise."""
    M, N = size(rng, 5, 20), size(rng, 3, 6)
    logits, G = normal(rng, M, N), torch.randn(M, N, generator=rng, dtype=torch.float64) * 2
    found = routed(lib.model.route_sample(logits, training=True, noise=(G, 0.5 + size(rng, 0, 4) / 10)), N)
    try:
        lib.model.route_sample(logits, training=True)
        asked = False
    except ValueError:
        asked = True
    return {**found, **gradients(found["gates by expert"], logits=logits),
            "does training without noise raise ValueError?": torch.tensor(asked)}


def sampled_in_evaluation(lib, rng):
    """In evaluation the gate is 1: of the likeliest expert without noise, of a drawn one with it."""
    M, N = size(rng, 5, 20), size(rng, 3, 6)
    logits, G = (torch.randn(M, N, generator=rng, dtype=torch.float64) * 2 for _ in range(2))
    with_noise, without = lib.model.route_sample(logits, noise=(G, 1.0)), lib.model.route_sample(logits)
    return {"gates": without.gates, "experts": without.experts.double(), "gates if drawn": with_noise.gates,
            "experts if drawn": with_noise.experts.double(), "probs": without.probs, "probs if drawn": with_noise.probs}


def annealed(lib, rng):
    """tau = max(0.5, exp(-r t)), with r t = 4 progress: from 1 down to 0.5."""
    places = torch.rand(8, generator=rng, dtype=torch.float64).tolist() + [0.0, 1.0]
    return {"tau": torch.tensor([lib.train_expert.temperature(p) for p in places], dtype=torch.float64)}


# ---- stage 7 ----------------------------------------------------------------------------------------------------------


def feed_forwards(rng, n_models, d_ff, D):
    """The matrices of several models by name."""
    return {name: [torch.randn(D if name == "w_down" else d_ff, d_ff if name == "w_down" else D, generator=rng).bfloat16()
                   for _ in range(n_models)] for name in ("w_gate", "w_up", "w_down")}


def in_float32(made):
    """The tensors, and whether they are float32."""
    return made | {f"is {name} float32?": torch.tensor(t.dtype == torch.float32) for name, t in made.items()}


def split(lib, rng):
    """Each feed-forward is cut along d_ff; the chunks of one stand together; w_down is multiplied by the number of chunks."""
    n = size(rng, 2, 3)
    models = feed_forwards(rng, size(rng, 2, 3), 2 * n, size(rng, 3, 5))
    with instead(lib.mix, stack=own_stack):
        return in_float32({name: lib.mix.split(f"blocks.0.ff.{name}", w, n) for name, w in models.items()})


def blend(lib, rng):
    """Expert n is made of the n-th chunk of every model, side by side in the order of the models; nothing is multiplied."""
    N = size(rng, 2, 4)
    with instead(lib.mix, stack=own_stack):
        models = feed_forwards(rng, N, 2 * N, size(rng, 3, 5))
        made = {name: lib.mix.blend(f"blocks.0.ff.{name}", w) for name, w in models.items()}
    return in_float32(made)


CHECKS = {  # stage: (check, its points)
    1: [(feed_forward, 5)], 2: [(gates, 8), (probabilities, 2), (sum_over_experts, 12), (experts_without_tokens, 3)],
    3: [(load, 5), (balancing, 10)], 4: [(averaged, 5), (stacked, 3), (rules, 7)],
    5: [(objective, 11), (unbalanced, 4)],
    6: [(switch, 4), (capacity, 4), (sampled, 4), (sampled_in_evaluation, 2), (annealed, 1)], 7: [(split, 5), (blend, 5)]}


def compute(check, lib, seed):
    """What a check gives of the modules in `lib`: {name: tensor}, detached, in float64."""
    found = check(lib, torch.Generator().manual_seed(seed))
    return {name: value.detach().to(torch.float64) for name, value in found.items()}


def differs(found, want):
    """What is wrong with the results of a check, in one line: the first of {name: tensor} that is not as wanted; or None."""
    for name, expected in want.items():
        got = found.get(name)
        if got is None:
            return f"{name} is missing"
        if got.shape != expected.shape:
            return f"{name}: expected the shape {tuple(expected.shape)}, got {tuple(got.shape)}"
        off = ~torch.isclose(got, expected, rtol=1e-5, atol=1e-7)
        if off.any():
            place = off.nonzero()[0].tolist()
            if name.endswith("?"):
                return f"{name} expected {'yes' if expected else 'no'}, got {'yes' if got else 'no'}"
            return (f"{name}{place or ''}: expected {expected[tuple(place)]:.4g}, got {got[tuple(place)]:.4g}"
                    + f" ({int(off.sum())} of {off.numel()} numbers differ)" * (off.numel() > 1))
    return None
