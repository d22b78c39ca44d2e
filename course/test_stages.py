"""The checks of the assignment: what students write, against the paper's equations written out token by token.

    pytest course/test_stages.py -k stage1          # one stage; CHECK_SEED=7 draws other random numbers

A check begins with a case that fits on paper, two tokens and two or three experts, and goes on with random shapes and
with gradients, in float64. It replaces functions of other stages by the equations, so that a mistake costs points once.
"""
import json
import math
import os
import re
import signal
import subprocess
from hashlib import sha1
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import silu
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

import finetune_router
import mix
import model
from data import prepare
from data.loader import get_batch, load_domains
from model import GPT, GPTConfig, MoE, Routing
from support import checkpoint, training

HINTS = Path(__file__).parent / "hints.json"  # {digest of a message: the known mistake that gives it}
points = pytest.mark.points  # of 100


@pytest.fixture(autouse=True)
def limit_time_and_tell_points(request, record_property):
    """Stop a check that hangs. Write the points of each check into pytest's report, for the grader."""
    def stop(signum, frame):
        pytest.fail(f"did not end in {seconds} seconds", pytrace=False)

    record_property("points", request.node.get_closest_marker("points").args[0])
    seconds = int(os.environ.get("CHECK_SECONDS", 60))
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    yield
    signal.alarm(0)


def fail(equation, text):
    """Say which equation does not hold, what differs, and which known mistake gives just this message."""
    message = f"{equation}\n  {text}"
    hints = json.loads(HINTS.read_text()) if HINTS.exists() else {}
    hint = hints.get(sha1(message.encode()).hexdigest())
    pytest.fail(message + (f"\n  perhaps: {hint}" if hint else ""), pytrace=False)


def same(equation, case, got, want, **inputs):
    """Fail unless got is want, in type, shape and value, and so are the gradients for the inputs."""
    if inputs and not getattr(got, "requires_grad", False):
        fail(equation, f"{case}: no gradient reaches {', '.join(inputs)}: detached, constant, or not written yet?")
    pairs = {case: (got, want)}
    if inputs:
        weights = torch.linspace(-1, 2, want.numel(), dtype=want.dtype).view(want.shape)
        for y in (got, want):
            loss = (y.reshape_as(want) * weights).sum()
            gradients = torch.autograd.grad(loss, list(inputs.values()), retain_graph=True, materialize_grads=True)
            for name, gradient in zip(inputs, gradients, strict=True):
                pairs.setdefault(f"{case}, gradient for {name}", []).append(gradient)
    for what, (a, b) in pairs.items():
        text = difference(a, b)
        if text:
            fail(equation, f"{what}: {text}")


def difference(got, want):
    """What differs, in words; None if nothing does."""
    try:
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)
    except (AssertionError, TypeError) as error:
        if not isinstance(got, torch.Tensor) or got.shape != want.shape or got.dtype != want.dtype:
            return str(error).split("\n\n")[0]
        if want.numel() > 12:
            return f"the largest difference is {(got - want).abs().max().item():.4g}"
        return "expected {}, got {}".format(*([round(x, 4) for x in t.flatten().tolist()] for t in (want, got)))


class CountCalls(TorchFunctionMode):
    """Counts calls of torch's functions."""
    n = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.n += 1
        return function(*args, **(kwargs or {}))


def tensors_in(x):
    """The tensors in a tensor, or in nested lists and tuples."""
    if isinstance(x, torch.Tensor):
        return [x]
    return [t for part in x for t in tensors_in(part)] if isinstance(x, (list, tuple)) else []


def call(function, *arguments):
    """Call a student's function. New tensors must land where its inputs are, and inputs must stay as they are."""
    tensors = tensors_in(arguments)
    before = [t.detach().clone() for t in tensors]
    problem = None
    try:
        with torch.device("meta"):  # where tensors land for which no device is named: not where the inputs are
            result = function(*arguments)
    except RuntimeError as error:
        if "meta" not in str(error):
            raise
        problem = str(error)
    else:
        if any(t.is_meta for t in tensors_in(result)):
            problem = "the result is on another device"
    if problem:
        fail("create tensors on the device of the inputs: zeros_like(x), torch.zeros(..., device=x.device)", problem)
    if not all(map(torch.equal, tensors, before)):
        fail(f"{function.__name__} must not change what it is given", "one of its inputs has other values now")
    return result


def numbers(rng, *shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()


def cases(n=3):
    """A generator of random numbers, M tokens, N experts, k of them for each token, widths D and d_ff; n times."""
    for i in range(n):
        rng = torch.Generator().manual_seed(1000 * int(os.environ.get("CHECK_SEED", 0)) + i)
        M, N, D, d_ff = (int(torch.randint(low, 2 * low, (), generator=rng)) for low in (6, 3, 3, 4))
        yield SimpleNamespace(rng=rng, M=M, N=N, k=2 + i % (N - 1), D=D, d_ff=d_ff)


# ---- the equations, for one token: z are its logits, (N,), x is its input, (D,)
def softmax_by_hand(z):
    return z.exp() / z.exp().sum()


def topk_by_hand(z, k):
    kept = sorted(range(len(z)), key=lambda i: -z[i].item())[:k]
    total = sum(z[i].exp() for i in kept)
    return torch.stack([z[i].exp() / total if i in kept else 0 * z[i] for i in range(len(z))])


def moe_by_hand(x, gates, w_gate, w_up, w_down):
    return sum(g * (w_down[i] @ (silu(w_gate[i] @ x) * (w_up[i] @ x))) for i, g in enumerate(gates))


def balance_by_hand(layers):
    """L_LB / alpha; layers: for each the gates of all experts and their probs, (M, N)."""
    total = 0
    for gates, probs in layers:
        M, N = gates.shape
        total = total + N * sum((sum(gates[:, i]) / M) * (sum(probs[:, i]) / M) for i in range(N))
    return total


def dense(routing, like):
    """The gates of all experts, (M, N)."""
    if routing.gates.ndim != 2 or routing.gates.shape != routing.experts.shape:
        fail("gates and experts are (M, k), also for k = 1", f"got {routing.gates.shape} and {routing.experts.shape}")
    return torch.zeros_like(like).scatter(1, routing.experts, routing.gates)


def random_routing(c, k):
    chosen = torch.rand(c.M, c.N, generator=c.rng).argsort(1)[:, :k]
    gates, probs = (numbers(c.rng, c.M, n).detach().softmax(-1).requires_grad_() for n in (k, c.N))
    return Routing(gates, chosen, probs)


def matrices(c):
    return numbers(c.rng, c.N, c.d_ff, c.D), numbers(c.rng, c.N, c.d_ff, c.D), numbers(c.rng, c.N, c.D, c.d_ff)


PAPER = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.5, 3.0]], dtype=torch.float64, requires_grad=True)
LAYER = "FF_MoE(x) = sum_i g_i FF_i(x): the gate multiplies FF_i(x), not x; an expert computes the tokens that chose it"


# ---- stage 1: the MoE layer and its router (3.2)
@points(8)
def test_stage1_gates():
    equation = "g(W x) = SoftMax(TopK(W x)), and probs = SoftMax(W x) over all N experts"
    for logits, k in [(PAPER, 2), *((numbers(c.rng, c.M, c.N), c.k) for c in cases())]:
        routing = call(model.route_topk, logits, k)
        case = f"W x = {logits.tolist() if logits is PAPER else 'random'}, k = {k}"
        want = torch.stack([topk_by_hand(z, k) for z in logits])
        same(equation, f"{case}, gates", dense(routing, logits), want, logits=logits)
        want = torch.stack([softmax_by_hand(z) for z in logits])
        same(equation, f"{case}, probs", routing.probs, want, logits=logits)


@points(10)
def test_stage1_sum():
    gates = torch.tensor([[0.75, 0.25], [0.9, 0.1]], dtype=torch.float64, requires_grad=True)
    small = SimpleNamespace(rng=torch.Generator().manual_seed(1), M=2, N=2, D=1, d_ff=1)
    routings = [(small, Routing(gates, torch.tensor([[0, 1], [1, 0]]), gates))]
    for c in cases():
        nobody_chose_0 = random_routing(c, 2)._replace(experts=torch.tensor([[c.N - 1, 1]] * c.M))
        routings += [(c, random_routing(c, c.k)), (c, nobody_chose_0)]
    for c, routing in routings:
        x, w = numbers(c.rng, c.M, c.D), matrices(c)
        want = torch.stack([moe_by_hand(x[t], dense(routing, routing.probs)[t], *w) for t in range(c.M)])
        case = f"{c.M} tokens with gates {[[round(g, 3) for g in row] for row in routing.gates.tolist()][:2]}"
        same(LAYER, case, call(model.ff_moe, x, routing, *w), want, x=x, gates=routing.gates, w_gate=w[0], w_down=w[2])


@points(4)
def test_stage1_work():
    c = SimpleNamespace(rng=torch.Generator().manual_seed(2), M=2048, N=8, D=32, d_ff=64)
    routing, x, w = random_routing(c, 2), numbers(c.rng, c.M, c.D).detach(), matrices(c)
    with FlopCounterMode(display=False) as counter:
        model.ff_moe(x, routing, *w)
    want, got = 6 * c.M * 2 * c.D * c.d_ff, counter.get_total_flops()
    if got != want:
        fail(LAYER, f"{c.M} tokens with 2 of {c.N} experts each take {want:,} FLOPs, got {got:,}")

    with CountCalls() as calls:
        model.ff_moe(x, routing, *w)
    if calls.n > c.M:
        fail("no loop over tokens", f"{calls.n} calls of torch for {c.M} tokens and {c.N} experts")


@points(8)
def test_stage1_layer():
    layer = model.MoE(GPTConfig(n_embd=6, d_ff=5, n_expert=4, top_k=3), layer=0).double()
    calls = []

    def route(logits, top_k, training=False, noise=None):
        calls.append((top_k, training, noise))
        kept, experts = logits.topk(top_k)
        gates, probs = kept.softmax(-1), logits.softmax(-1)
        return Routing(gates, experts, probs=probs)

    def ff_moe(x, routing, *w):
        calls.append("ff_moe")
        gates = dense(routing, routing.probs)
        return torch.stack([moe_by_hand(token, g, *w) for token, g in zip(x, gates, strict=True)])

    layer.route, layer.ff_moe = route, ff_moe
    for c in cases():
        for p in layer.parameters():
            p.data = numbers(c.rng, *p.shape).detach()
        layer.train(c.M % 2 == 0)
        x = numbers(c.rng, 2, c.M, 6)
        y, found = call(layer.forward, x, "noise")
        if calls[-2:] != [(3, layer.training, "noise"), "ff_moe"]:
            fail("a layer calls self.route(logits, self.k, self.training, noise), then self.ff_moe", f"{calls[-2:]}")
        tokens = x.flatten(0, 1)
        routing = route(tokens @ layer.router.T, 3)  # one router for the three matrices
        want = ff_moe(tokens, routing, layer.w_gate, layer.w_up, layer.w_down).view_as(x)
        same(LAYER, "a layer", y, want, x=x, W=layer.router)
        gates = dense(routing, routing.probs)
        same("a layer returns its Routing, too", "gates", dense(found, gates), gates)


# ---- stage 2: branch (3.1) and mix (3.2)
@points(4)
def test_stage2_branch():
    equation = "a branch starts from the seed and reads its own domain, with a little of the seed's text"
    plan = subprocess.run(["make", "-nB", "PY=python", "OUT=o", "DATA=d", "o/math.pt", "o/wiki.pt"], text=True,
                          capture_output=True, cwd=Path(__file__).parent.parent)
    for name in ("math", "wiki"):
        line = "".join(re.findall(rf"train_expert.*--out o/{name}\.pt.*", plan.stdout))
        data = dict(re.findall(r"(\w+)=([\d.]+)", "".join(re.findall(r"--data (\S+)", line))))
        share = float(data.pop(name, 0))
        others = sum(map(float, data.values()))
        alone = not {"math", "wiki", "code"} & data.keys()
        if "--init o/seed.pt" not in line or not alone or not 0 < others <= share / 4:
            fail(equation, f"make -n o/{name}.pt trains with: {line or plan.stderr.strip()}")


@points(16)
def test_stage2_mix():
    equation = "feed-forwards become experts (or are averaged, too), routers are new, all else is the mean in float32"
    for n, feed_forwards in ((2, "stacked"), (3, "stacked"), (3, "averaged")):
        shape = {"vocab_size": 8, "n_layer": 2, "n_head": 1, "n_embd": 6, "d_ff": 4}
        rngs = [torch.Generator().manual_seed(i) for i in range(n)]
        states = [GPT(GPTConfig(**shape), rng).bfloat16().state_dict() for rng in rngs]
        for rng, state in zip(rngs, states, strict=True):
            state["blocks.0.ff_norm.weight"] = torch.randn(6, generator=rng).bfloat16()
        before = [{name: t.clone() for name, t in state.items()} for state in states]
        config = GPTConfig(**shape, n_expert=n if feed_forwards == "stacked" else 0)
        mixed = mix.mix(states, config, torch.Generator().manual_seed(5), feed_forwards)
        if mixed.keys() != GPT(config).state_dict().keys():
            wrong = sorted(mixed.keys() ^ GPT(config).state_dict().keys())
            fail(equation, f"{n} models, {feed_forwards}: {wrong} are missing or should not be there")
        for name, got in mixed.items():
            case = f"{name} of {n} models, {feed_forwards}"
            if name.endswith("router"):
                if got.shape != (n, 6) or not 0.01 < got.std() < 0.2 or got.dtype != torch.float32:
                    fail(equation, f"{case}: expected small random numbers, got {got}")
                continue
            want = torch.stack([state[name].float() for state in before])
            same(equation, case, got, want if ".ff." in name and feed_forwards == "stacked" else want.mean(0))
        routers = []
        for seed in (5, 6) if feed_forwards == "stacked" else ():
            mixed = mix.mix(states, config, torch.Generator().manual_seed(seed))
            routers += [mixed["blocks.0.ff.router"], mixed["blocks.1.ff.router"]]
        if any(torch.equal(routers[i], routers[j]) for i in range(len(routers)) for j in range(i)):
            fail(equation, "routers of two layers or of two generators are equal: draw each from the generator")
        for state, old in zip(states, before, strict=True):
            if not all(torch.equal(state[name], old[name]) for name in old):
                fail("mix must not change what it is given", "a tensor of a model has other values now")


# ---- stage 3: a step of MoE finetuning (3.2, 3.3)
def forward_by_hand(layer, x, noise=None):
    """What MoE.forward gives with Top-k."""
    tokens = x.flatten(0, 1)
    logits = tokens @ layer.router.T
    kept, experts = logits.topk(layer.k)
    routing = Routing(kept.softmax(-1), experts, logits.softmax(-1))
    every = torch.stack([model.swiglu(tokens, *w) for w in zip(layer.w_gate, layer.w_up, layer.w_down, strict=True)], 1)
    return (routing.dense_gates()[:, :, None] * every).sum(1).view(x.shape), routing


@points(5)
def test_stage3_load():
    gates = torch.tensor([[0.75, 0.25], [0.9, 0.1]], dtype=torch.float64, requires_grad=True)
    small = Routing(gates, torch.tensor([[0, 1], [1, 0]]), torch.full_like(gates, 0.5))
    for case, routing in [("gates [[.75, .25], [.9, .1]] of experts [[0, 1], [1, 0]]", small),
                          *(("random", random_routing(c, c.k)) for c in cases())]:
        u = dense(routing, routing.probs).mean(0)
        load = call(model.expert_load, routing)
        same("u_i is the mean of the gate g_i over all tokens", case, load, u, gates=routing.gates)


def finetune(folder, routing="topk"):
    """Run eight steps of finetune_router.py on a tiny model. Returns the model before, after, and the options."""
    prepare.main(["--domains=math", "--train_tokens=2000", "--val_tokens=300", "--tasks=2", f"--out={folder}"])
    meta = load_domains(folder)["math"].meta
    config = GPTConfig(n_layer=2, n_head=1, n_embd=8, d_ff=8, block_size=16, n_expert=3, routing=routing)
    gpt = GPT(config, torch.Generator().manual_seed(0))
    mixed = {"model": gpt.state_dict(), "config": vars(config), "tokenizer": meta["tokenizer"],
             "experts": ["a", "b", "c"], "lineage": [{"id": "x", "settings": {}}], "log": []}
    checkpoint.save(folder / "mixed.pt", mixed)
    options = {"init": folder / "mixed.pt", "out": folder / "out.pt", "data": "math", "data_dir": folder, "steps": 8,
               "batch_size": 4, "grad_accum": 2,
               "alpha": 2, "clip": 0.95, "lr": 0.3, "eval_windows": 1, "device": "cpu"}
    options = [f"--{name}={value}" for name, value in options.items()]
    finetune_router.main(options)
    return gpt, checkpoint.load(folder / "out.pt")["model"], finetune_router.parse(options)


@points(10)
def test_stage3_step(tmp_path, monkeypatch):
    equation = "minimise NLL + alpha L_LB, the mean over --grad_accum parts of the batch: backward, clip, step, zero"
    monkeypatch.setattr(MoE, "forward", forward_by_hand)
    # AdamW would hide a gradient of the wrong size
    monkeypatch.setattr(training, "make_optimizer", lambda gpt, args: torch.optim.SGD(gpt.parameters(), lr=args.lr))
    monkeypatch.setattr(finetune_router, "load_balancing_loss",
                        lambda routing: balance_by_hand([(r.dense_gates(), r.probs) for r in routing]))
    monkeypatch.setattr(finetune_router, "expert_load", lambda r: r.dense_gates().mean(0))
    gpt, found, args = finetune(tmp_path)
    math_text = load_domains(tmp_path)["math"].train
    optimizer = training.make_optimizer(gpt, args)
    for step in range(8):
        training.set_learning_rate(optimizer, step, args)
        x, y = get_batch({"math": math_text}, args.data, 16, 4, 0, 0, step)
        for xs, ys in zip(x.chunk(2), y.chunk(2), strict=True):
            _, nll, routing = gpt(xs, ys)
            loss = nll + 2 * balance_by_hand([(r.dense_gates(), r.probs) for r in routing])
            (loss / 2).backward()
        torch.nn.utils.clip_grad_norm_(gpt.parameters(), 0.95)
        optimizer.step()
        optimizer.zero_grad()
    for name, p in gpt.named_parameters():
        far = (found[name] - p.detach()).abs().max().item()
        if not far < 1e-4:
            fail(equation, f"after eight steps {name} is {far:.1g} away from where it should be")


# ---- stage 4: load balancing (3.3)
@points(10)
def test_stage4_balance(monkeypatch):
    equation = "L_LB / alpha = N sum_i u_i p_i in each layer, summed over layers; u and p are means over all tokens"
    monkeypatch.setattr(model, "expert_load", lambda routing: dense(routing, routing.probs).mean(0))
    gates = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64, requires_grad=True)
    probs = torch.tensor([[0.9, 0.1], [0.5, 0.5]], dtype=torch.float64, requires_grad=True)
    small = Routing(gates, torch.tensor([[0, 1], [0, 1]]), probs)
    tasks = [("gates [[1, 0], [.5, .5]], probs [[.9, .1], [.5, .5]]", [small])]
    tasks += [("random, two layers", [random_routing(c, c.k), random_routing(c, c.k)]) for c in cases()]
    for case, layers in tasks:
        want = balance_by_hand([(dense(r, r.probs), r.probs) for r in layers])
        inputs = {f"{what} of layer {i}": getattr(r, what) for i, r in enumerate(layers) for what in ("gates", "probs")}
        same(equation, case, call(model.load_balancing_loss, layers), want, **inputs)


# ---- stage 5: Switch and Sample Top-1 (3.3)
@points(6)
def test_stage5_switch():
    equation = "Switch: the gate of the likeliest expert is its probability among all N; in training an expert keeps " \
               "ceil(1.5 M / N) tokens at most, the surest, and the gate of the others is 0"
    for c in (SimpleNamespace(rng=torch.Generator().manual_seed(3), M=1, N=8), *cases()):
        logits = numbers(c.rng, c.M, c.N)
        logits.data *= 0.05
        logits.data[:, 1] += 0.2
        logits.data[::3, 1:3] += torch.tensor([3.1, 3.7])  # who chooses 2 finds 1 likelier than those who choose 1
        probs = torch.stack([softmax_by_hand(z) for z in logits])
        for trains in (False, True):
            want = torch.zeros_like(probs)
            for i in range(c.N):
                mine = sorted((t for t in range(c.M) if probs[t].argmax() == i), key=lambda t: -probs[t, i].item())
                for t in mine[:math.ceil(1.5 * c.M / c.N)] if trains else mine:
                    want[t, i] = probs[t, i]
            routing = call(model.route_switch, logits, None, trains)
            case = f"{c.M} tokens, {c.N} experts, training={trains}"
            same(equation, case, dense(routing, logits), want, logits=logits)
            same(equation, f"{case}, probs", routing.probs, probs)


@points(6)
def test_stage5_sample():
    equation = "g = SoftMax((W x + G) / tau) with all but its largest value zeroed; in evaluation that value is 1"
    for c in cases():
        logits, G, tau = numbers(c.rng, c.M, c.N), 2 * numbers(c.rng, c.M, c.N).detach(), 0.7
        g = torch.stack([softmax_by_hand((z + n) / tau) for z, n in zip(logits, G, strict=True)])
        chosen = torch.nn.functional.one_hot(g.argmax(1), c.N)
        routing = call(model.route_sample, logits, None, True, (G, tau))
        same(equation, "training", dense(routing, logits), g * chosen, logits=logits)
        same(equation, "probs, without noise", routing.probs, torch.stack([softmax_by_hand(z) for z in logits]))
        drawn, likeliest = call(model.route_sample, logits, None, False, (G, tau)), call(model.route_sample, logits)
        same(equation, "evaluation with noise", dense(drawn, logits), chosen.double())
        want = torch.nn.functional.one_hot(logits.argmax(1), c.N).double()
        same(equation, "evaluation without noise", dense(likeliest, logits), want)
    for progress in (0.0, 0.1, 0.5, 1.0):
        got, want = finetune_router.temperature(progress), max(0.5, math.exp(-4 * progress))
        same("tau = max(0.5, exp(-4 progress))", f"progress {progress}", torch.tensor(got), torch.tensor(want))


@points(3)
def test_stage5_noise(tmp_path, monkeypatch):
    drawn, seeds, given = [], set(), []

    def gumbel(config, n_tokens, tau, generator):
        drawn.append((n_tokens, round(tau, 3)))
        seeds.add(generator.initial_seed())
        return ["noise", "noise"]

    def forward(layer, x, noise=None):
        if layer.training:
            given.append(noise)
        return x, model.route_soft(x.flatten(0, 1) @ layer.router.T)

    monkeypatch.setattr(finetune_router, "gumbel", gumbel)
    monkeypatch.setattr(finetune_router, "load_balancing_loss", lambda routing: sum(r.probs.mean() for r in routing))
    monkeypatch.setattr(MoE, "forward", forward)
    finetune(tmp_path, "sample")
    want = [(32, round(max(0.5, math.exp(-4 * step / 8)), 3)) for step in range(8) for part in range(2)]
    if drawn != want or set(given) != {"noise"} or len(seeds) != 8:
        fail("a step draws noise for its tokens from `generator`, with tau of step / steps, for the model", f"{drawn}")


# ---- stage 6: splitting and blending (3.3)
@points(10)
def test_stage6_split_and_blend(monkeypatch):
    monkeypatch.setattr(mix, "average", lambda tensors: sum(t.float() for t in tensors) / len(tensors))
    rules = {"ff.router": "new", "ff.w_gate": "ff", "ff.w_up": "ff", "ff.w_down": "ff"}
    monkeypatch.setattr(mix, "rule_for", lambda name, ff: rules.get(name[9:], "averaged").replace("ff", ff))
    for c in cases():
        for name in ("w_up", "w_gate", "w_down"):
            units = [torch.randn(12, c.D, generator=c.rng).bfloat16() for _ in range(3)]  # a row for each of d_ff units
            halves = torch.stack([t.float()[i:i + 6] for t in units for i in (0, 6)])
            blended = torch.stack([torch.cat([t.float()[i:i + 4] for t in units]) for i in (0, 4, 8)])
            if name == "w_down":  # has them as columns
                units, halves, blended = [t.T for t in units], 2 * halves.mT, blended.mT
            same("expert (i, c) is the c-th part of FF_i along d_ff; all C parts at gate 1 / C give FF_i",
                 f"split {name}", mix.split(f"blocks.0.ff.{name}", units, 2), halves)
            same("expert n has the n-th part of every feed-forward along d_ff",
                 f"blend {name}", mix.blend(f"blocks.0.ff.{name}", units), blended)
    shape = {"vocab_size": 8, "n_layer": 1, "n_head": 1, "n_embd": 6}
    states = [GPT(GPTConfig(**shape, d_ff=6), torch.Generator().manual_seed(i)).state_dict() for i in range(2)]
    for feed_forwards, n_expert, d_ff in (("split", 6, 2), ("blended", 2, 6)):
        config = GPTConfig(**shape, d_ff=d_ff, n_expert=n_expert)
        mixed = mix.mix(states, config, torch.Generator().manual_seed(5), feed_forwards)
        for name in ("blocks.0.ff.w_up", "blocks.0.ff.w_down"):
            if mixed[name].shape != GPT(config).state_dict()[name].shape:
                fail("mix calls split (C = n_expert / number of models) or blend", f"{name}: {mixed[name].shape}")
