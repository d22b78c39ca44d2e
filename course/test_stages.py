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
from itertools import combinations
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
from cli import digest
from data import prepare
from data.loader import get_batch, load_domains
from model import GPT, GPTConfig, MoE, Noise, Routing
from support import training
from support.checkpoint import load_checkpoint, save_checkpoint
from support.training import make_optimizer

HINTS = Path(__file__).parent / "hints.json"  # {digest of a message, which gives nothing away: the known mistake}
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
    hint = hints.get(digest(message.encode()))
    pytest.fail(message + (f"\n  perhaps: {hint}" if hint else ""), pytrace=False)


def same(equation, case, got, want, **inputs):
    """Fail unless got is want, in type, shape and value, and so are the gradients for the inputs."""
    compare(equation, case, got, want)
    if inputs and not got.requires_grad:
        fail(equation, f"{case}: the values are right, but no gradient reaches {', '.join(inputs)}: a detach?")
    for name, x in inputs.items():
        weights = torch.linspace(-1, 2, want.numel(), dtype=want.dtype).view(want.shape)
        gradients = []
        for y in (got, want):
            gradients += torch.autograd.grad((y * weights).sum(), x, retain_graph=True, materialize_grads=True)
        compare(equation, f"{case}, gradient for {name}", *gradients)


def compare(equation, case, got, want):
    """Fail with what differs, unless got is want."""
    text = None
    try:
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)
    except (AssertionError, TypeError) as error:
        text = str(error).split("\n\n")[0]
    if text and isinstance(got, torch.Tensor) and got.shape == want.shape and got.dtype == want.dtype:
        text = f"the largest difference is {(got - want).abs().max().item():.4g}"
        if want.numel() <= 12:
            expected, found = ([round(x, 4) for x in t.flatten().tolist()] for t in (want, got))
            text = f"expected {expected}, got {found}"
    if text:
        fail(equation, f"{case}: {text}")


class CountCalls(TorchFunctionMode):
    """Counts calls of torch's functions."""
    n = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.n += 1
        return function(*args, **(kwargs or {}))


def paper(*rows):
    """Numbers that fit on paper."""
    return torch.tensor(rows, dtype=torch.float64, requires_grad=True)


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
        with torch.device("meta"):  # a tensor that is made without device= lands there, not where the inputs are
            result = function(*arguments)
        if any(t.is_meta for t in tensors_in(result)):
            problem = "the result is on another device"
    except RuntimeError as error:
        if "meta" not in str(error):
            raise
        problem = str(error)
    if problem:
        fail("create tensors on the device of the inputs: zeros_like(x), torch.zeros(..., device=x.device)", problem)
    if not all(map(torch.equal, tensors, before)):
        fail(f"{function.__name__} must not change what it is given", "one of its inputs has other values now")
    return result


def numbers(rng, *shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()


def cases():
    """Yield three random cases: a generator rng, M tokens, N experts, k experts for each token, widths D and d_ff."""
    for i in range(3):
        rng = torch.Generator().manual_seed(1000 * int(os.environ.get("CHECK_SEED", 0)) + i)
        M, N, D, d_ff = (int(torch.randint(low, 2 * low, (), generator=rng)) for low in (6, 3, 3, 4))
        k = 2 + i % (N - 1)  # from 2 to N
        yield SimpleNamespace(rng=rng, M=M, N=N, k=k, D=D, d_ff=d_ff)


# ---- the equations, for one token: z are its logits, (N,), x is its input, (D,)
def softmax_by_hand(z):
    """Also for the logits of many tokens, (M, N)."""
    return z.exp() / z.exp().sum(-1, keepdim=True)


def topk_by_hand(z, k):
    kept = sorted(range(len(z)), key=lambda i: -z[i].item())[:k]
    total = sum(z[i].exp() for i in kept)
    return torch.stack([z[i].exp() / total if i in kept else 0 * z[i] for i in range(len(z))])


def moe_by_hand(x, gates, w_gate, w_up, w_down):
    return sum(g * (w_down[i] @ (silu(w_gate[i] @ x) * (w_up[i] @ x))) for i, g in enumerate(gates))


def ff_moe_by_hand(x, routing, *w):
    """For many tokens x, (M, D); w: w_gate, w_up, w_down."""
    return torch.stack([moe_by_hand(token, g, *w) for token, g in zip(x, routing.dense_gates(), strict=True)])


def balance_by_hand(layers):
    """L_LB / alpha of a Routing for each layer."""
    total = 0
    for routing in layers:
        gates, probs = routing.dense_gates(), routing.probs  # (M, N)
        M, N = gates.shape
        total = total + N * sum((sum(gates[:, i]) / M) * (sum(probs[:, i]) / M) for i in range(N))
    return total


def tau_by_hand(share):
    return max(0.5, math.exp(-4 * share))


def route_by_hand(logits, k):
    kept, experts = logits.topk(k)
    gates, probs = kept.softmax(-1), logits.softmax(-1)
    return Routing(gates, experts, probs=probs)


def dense(routing, like):
    """The gates of all experts, (M, N), of a Routing that a student made."""
    if routing.gates.ndim != 2 or routing.gates.shape != routing.experts.shape:
        fail("gates and experts are (M, k), also for k = 1", f"got {routing.gates.shape} and {routing.experts.shape}")
    return torch.zeros_like(like).scatter(1, routing.experts, routing.gates)


def random_routing(c, k):
    chosen = torch.rand(c.M, c.N, generator=c.rng).argsort(1)[:, :k]
    gates, probs = (numbers(c.rng, c.M, n).detach().softmax(-1).requires_grad_() for n in (k, c.N))
    return Routing(gates, chosen, probs)


def matrices(c):
    return numbers(c.rng, c.N, c.d_ff, c.D), numbers(c.rng, c.N, c.d_ff, c.D), numbers(c.rng, c.N, c.D, c.d_ff)


LAYER = "FF_MoE(x) = sum_i g_i FF_i(x): the gate multiplies FF_i(x), not x; an expert computes the tokens that chose it"


# ---- stage 1: the MoE layer and its router (3.2)
@points(8)
def test_stage1_gates():
    equation = "g(W x) = SoftMax(TopK(W x)), and probs = SoftMax(W x) over all N experts"
    tries = [("W x = [[2, 1, 0], [0, .5, 3]]", paper([2.0, 1.0, 0.0], [0.0, 0.5, 3.0]), 2)]
    tries += [("W x random", numbers(c.rng, c.M, c.N), c.k) for c in cases()]
    for name, logits, k in tries:
        routing = call(model.route_topk, logits, k)
        want = torch.stack([topk_by_hand(z, k) for z in logits])
        same(equation, f"{name}, k = {k}, gates", dense(routing, logits), want, logits=logits)
        same(equation, f"{name}, k = {k}, probs", routing.probs, softmax_by_hand(logits), logits=logits)


@points(10)
def test_stage1_sum():
    gates, ones = paper([0.75, 0.25], [0.9, 0.1]), paper([[1.0]], [[1.0]])
    case = "x = 1 and 2, FF_0(x) = FF_1(x) / 2 = silu(x) x, gates [.75, .25] of experts 0, 1 and [.9, .1] of 1, 0"
    w = ones, ones, paper([[1.0]], [[2.0]])
    tries = [(case, paper([1.0], [2.0]), Routing(gates, torch.tensor([[0, 1], [1, 0]]), gates), w)]
    for c in cases():
        nobody_chose_0 = random_routing(c, 2)._replace(experts=torch.tensor([[c.N - 1, 1]] * c.M))
        for routing in (random_routing(c, c.k), nobody_chose_0):
            tries.append(("random", numbers(c.rng, c.M, c.D), routing, matrices(c)))
    for case, x, routing, w in tries:
        want = ff_moe_by_hand(x, routing, *w)
        same(LAYER, case, call(model.ff_moe, x, routing, *w), want, x=x, gates=routing.gates, w_gate=w[0], w_down=w[2])


@points(4)
def test_stage1_work():
    c = SimpleNamespace(rng=torch.Generator().manual_seed(2), M=2048, N=8, D=32, d_ff=64)
    routing, x, w = random_routing(c, 2), numbers(c.rng, c.M, c.D).detach(), matrices(c)
    with FlopCounterMode(display=False) as counter:
        model.ff_moe(x, routing, *w)
    k, n_matrices = 2, 3
    want = 2 * n_matrices * c.M * k * c.D * c.d_ff  # 2 FLOPs for each weight and token
    got = counter.get_total_flops()
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
        return route_by_hand(logits, top_k)

    def ff_moe(x, routing, w_gate, w_up, w_down):
        calls.append("ff_moe")
        return ff_moe_by_hand(x, routing, w_gate, w_up, w_down)

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
        routing = route_by_hand(tokens @ layer.router.T, 3)  # one router for the three matrices
        want = ff_moe_by_hand(tokens, routing, layer.w_gate, layer.w_up, layer.w_down).view_as(x)
        same(LAYER, "a layer", y, want, x=x, W=layer.router)
        every = routing.dense_gates()
        same("a layer returns its Routing, too", "gates", dense(found, every), every)


# ---- stage 2: branch (3.1) and mix (3.2)
@points(4)
def test_stage2_branch():
    equation = "a branch starts from the seed and reads its own domain, with a little of the seed's text, " \
               "at most a quarter as much"
    plan = subprocess.run(["make", "-nB", "PY=python", "OUT=o", "DATA=d", "o/math.pt", "o/wiki.pt"], text=True,
                          capture_output=True, cwd=Path(__file__).parent.parent)
    for name in ("math", "wiki"):  # the line that trains this expert, and its mixture
        line = "".join(re.findall(rf"train_expert.*--out o/{name}\.pt.*", plan.stdout))
        data = dict(re.findall(r"(\w+)=([\d.]+)", "".join(re.findall(r"--data (\S+)", line))))
        share = float(data.pop(name, 0))
        others = sum(map(float, data.values()))
        foreign = {"math", "wiki", "code"} & data.keys()
        if "--init o/seed.pt" not in line or foreign or not 0 < others <= share / 4:
            fail(equation, f"make -n o/{name}.pt trains with: {line or plan.stderr.strip()}")


@points(16)
def test_stage2_mix():
    equation = "feed-forwards become experts (or are averaged, too), routers are new, all else is the mean in float32"
    for n, experts in ((2, "stacked"), (3, "stacked"), (3, "averaged")):
        shape = {"vocab_size": 8, "n_layer": 2, "n_head": 1, "n_embd": 6, "d_ff": 4}
        rngs = [torch.Generator().manual_seed(i) for i in range(n)]
        states = [GPT(GPTConfig(**shape), rng).bfloat16().state_dict() for rng in rngs]
        for rng, state in zip(rngs, states, strict=True):  # norms begin at 1; random ones show what becomes of them
            state["blocks.0.ff_norm.weight"] = torch.randn(6, generator=rng).bfloat16()
        before = [{name: t.clone() for name, t in state.items()} for state in states]
        config = GPTConfig(**shape, n_expert=n if experts == "stacked" else 0)
        mixed = mix.mix(states, config, torch.Generator().manual_seed(5), experts)
        if mixed.keys() != GPT(config).state_dict().keys():
            wrong = sorted(mixed.keys() ^ GPT(config).state_dict().keys())
            fail(equation, f"{n} models, {experts}: {wrong} are missing or should not be there")
        for name, got in mixed.items():
            case = f"{name} of {n} models, {experts}"
            if name.endswith("router"):
                if got.shape != (n, 6) or not 0.01 < got.std() < 0.2 or got.dtype != torch.float32:
                    fail(equation, f"{case}: expected small random numbers, got {got}")
                continue
            want = torch.stack([state[name].float() for state in before])
            if ".ff." not in name or experts == "averaged":
                want = want.mean(0)
            same(equation, case, got, want)
        if experts == "stacked":
            again = mix.mix(states, config, torch.Generator().manual_seed(6))
            routers = [m[f"blocks.{i}.ff.router"] for m in (mixed, again) for i in range(2)]
            if any(torch.equal(a, b) for a, b in combinations(routers, 2)):
                fail(equation, "routers of two layers or of two generators are equal: draw each from the generator")
        for state, old in zip(states, before, strict=True):
            if not all(torch.equal(state[name], old[name]) for name in old):
                fail("mix must not change what it is given", "a tensor of a model has other values now")


# ---- stage 3: a step of MoE finetuning (3.2, 3.3)
def forward_by_hand(layer, x, noise=None):
    """What MoE.forward gives with Top-k."""
    tokens = x.flatten(0, 1)
    routing = route_by_hand(tokens @ layer.router.T, layer.k)
    return ff_moe_by_hand(tokens, routing, layer.w_gate, layer.w_up, layer.w_down).view_as(x), routing


@points(5)
def test_stage3_load():
    gates = paper([0.75, 0.25], [0.9, 0.1])
    small = Routing(gates, torch.tensor([[0, 1], [1, 0]]), torch.full_like(gates, 0.5))
    tries = [("gates [[.75, .25], [.9, .1]] of experts [[0, 1], [1, 0]]", small)]
    tries += [("random", random_routing(c, c.k)) for c in cases()]
    for case, routing in tries:
        load = call(model.expert_load, routing)
        want = routing.dense_gates().mean(0)
        same("u_i is the mean of the gate g_i over all tokens", case, load, want, gates=routing.gates)


def finetune(folder, routing="topk"):
    """Run eight steps of finetune_router.py on a tiny model. Returns the model before, after, and the options."""
    prepare.main(["--domains=math", "--train_tokens=2000", "--val_tokens=300", "--tasks=2", f"--out={folder}"])
    config = GPTConfig(n_layer=2, n_head=1, n_embd=8, d_ff=8, block_size=16, n_expert=3, routing=routing)
    gpt = GPT(config, torch.Generator().manual_seed(0))
    mixed = {"state": gpt.state_dict(), "config": vars(config), "spec": load_domains(folder)["math"].meta["spec"],
             "experts": ["a", "b", "c"], "ledger": [{"id": "x", "settings": {}}], "log": []}
    save_checkpoint(folder / "mixed.pt", mixed)
    options = {"init": folder / "mixed.pt", "out": folder / "out.pt", "data": "math", "data_dir": folder, "steps": 8,
               "batch_size": 4, "grad_accum": 2, "alpha": 2, "lr": 0.3, "eval_windows": 1, "device": "cpu"}
    options = [f"--{name}={value}" for name, value in options.items()]
    finetune_router.main(options)
    return gpt, load_checkpoint(folder / "out.pt")["state"], finetune_router.parse(options)


def sgd(gpt, args):
    """SGD on the two groups of the project's AdamW, which would hide a gradient of the wrong size."""
    groups = [{"params": group["params"]} for group in make_optimizer(gpt, args).param_groups]
    return torch.optim.SGD(groups, lr=args.lr)


@points(10)
def test_stage3_step(tmp_path, monkeypatch):
    equation = "minimise NLL + alpha L_LB, the mean over --grad_accum parts of the batch: backward, clip, step, zero"
    monkeypatch.setattr(MoE, "forward", forward_by_hand)
    monkeypatch.setattr(training, "make_optimizer", sgd)
    monkeypatch.setattr(finetune_router, "load_balancing_loss", balance_by_hand)
    monkeypatch.setattr(finetune_router, "expert_load", lambda r: r.dense_gates().mean(0))
    gpt, found, args = finetune(tmp_path)
    math_text = load_domains(tmp_path)["math"].train
    optimizer = sgd(gpt, args)
    for step in range(8):
        training.set_learning_rate(optimizer, step, args)
        x, y = get_batch({"math": math_text}, args.data, (4, 16), (0, 0, step))
        for xs, ys in zip(x.chunk(2), y.chunk(2), strict=True):
            _, nll, routing = gpt(xs, ys)
            loss = nll + 2 * balance_by_hand(routing)
            (loss / 2).backward()
        torch.nn.utils.clip_grad_norm_(gpt.parameters(), training.CLIP)
        optimizer.step()
        optimizer.zero_grad()
    for name, p in gpt.named_parameters():
        far = (found[name] - p.detach()).abs().max().item()
        if not far < 1e-4:
            fail(equation, f"after eight steps {name} is {far:.3g} away from where it should be")


# ---- stage 4: load balancing (3.3)
@points(10)
def test_stage4_balance(monkeypatch):
    equation = "L_LB / alpha = N sum_i u_i p_i in each layer, summed over layers; u and p are means over all tokens"
    monkeypatch.setattr(model, "expert_load", lambda routing: routing.dense_gates().mean(0))
    small = Routing(paper([1.0, 0.0], [0.5, 0.5]), torch.tensor([[0, 1], [0, 1]]), paper([0.9, 0.1], [0.5, 0.5]))
    tasks = [("gates [[1, 0], [.5, .5]], probs [[.9, .1], [.5, .5]]", [small])]
    tasks += [("random, two layers", [random_routing(c, c.k), random_routing(c, c.k)]) for c in cases()]
    for case, layers in tasks:
        inputs = {}
        for i, routing in enumerate(layers):
            inputs |= {f"gates of layer {i}": routing.gates, f"probs of layer {i}": routing.probs}
        same(equation, case, call(model.load_balancing_loss, layers), balance_by_hand(layers), **inputs)


# ---- stage 5: Switch and Sample Top-1 (3.3)
@points(6)
def test_stage5_switch():
    equation = "Switch: the gate of the likeliest expert is its probability among all N; in training an expert keeps " \
               "ceil(1.5 M / N) tokens at most, the surest, and the gate of the others is 0"
    one_token = SimpleNamespace(rng=torch.Generator().manual_seed(3), M=1, N=8)  # 1.5 M / N is rounded up to 1
    for c in (one_token, *cases()):
        logits = numbers(c.rng, c.M, c.N)
        logits.data *= 0.05
        logits.data[:, 1] += 0.2
        # every third token chooses 2, and gives 1 a larger probability than the tokens that choose 1 do
        logits.data[::3, 1:3] += torch.tensor([3.1, 3.7])
        probs = softmax_by_hand(logits)
        for trains in (False, True):
            want = torch.zeros_like(probs)
            for i in range(c.N):
                mine = sorted((t for t in range(c.M) if probs[t].argmax() == i), key=lambda t: -probs[t, i].item())
                if trains:
                    mine = mine[:math.ceil(1.5 * c.M / c.N)]
                for t in mine:
                    want[t, i] = probs[t, i]
            routing = call(model.route_switch, logits, None, trains)
            case = f"{c.M} tokens, {c.N} experts, training={trains}"
            same(equation, case, dense(routing, logits), want, logits=logits)
            same(equation, f"{case}, probs", routing.probs, probs)


@points(6)
def test_stage5_sample():
    equation = "g = SoftMax((W x + G) / tau) with all but its largest value zeroed; in evaluation that value is 1"
    for c in cases():
        logits = numbers(c.rng, c.M, c.N)
        noise = Noise(2 * numbers(c.rng, c.M, c.N).detach(), torch.tensor(0.7))
        g = softmax_by_hand((logits + noise.G) / noise.tau)
        chosen = torch.nn.functional.one_hot(g.argmax(1), c.N)
        routing = call(model.route_sample, logits, None, True, noise)
        same(equation, "training", dense(routing, logits), g * chosen, logits=logits)
        same(equation, "probs, without noise", routing.probs, softmax_by_hand(logits))
        drawn, likeliest = call(model.route_sample, logits, None, False, noise), call(model.route_sample, logits)
        same(equation, "evaluation with noise", dense(drawn, logits), chosen.double())
        want = torch.nn.functional.one_hot(logits.argmax(1), c.N).double()
        same(equation, "evaluation without noise", dense(likeliest, logits), want)
    for share in (0.0, 0.1, 0.5, 1.0):
        got, want = finetune_router.temperature(share), tau_by_hand(share)
        same("tau = max(0.5, exp(-4 share))", f"share {share} of the steps", torch.tensor(got), torch.tensor(want))


@points(3)
def test_stage5_noise(tmp_path, monkeypatch):
    equation = "Sample Top-1's step draws noise for its tokens, with tau of step / steps, and gives it to the model"
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
    taus = [round(tau_by_hand(step / 8), 3) for step in range(8)]
    want = [(32, tau) for tau in taus for _ in range(2)]  # 4 sequences of 16 tokens in two parts
    if drawn != want:
        fail(equation, f"(tokens, tau): expected {want[:4]} ..., got {drawn[:4]} ...")
    if set(given) != {"noise"}:
        fail(equation, "the model does not get the noise")
    if len(seeds) != 8:
        fail(equation, "the noise is not drawn from the step's generator")


# ---- stage 6: splitting and blending (3.3)
@points(10)
def test_stage6_split_and_blend(monkeypatch):
    monkeypatch.setattr(mix, "average", lambda tensors: sum(t.float() for t in tensors) / len(tensors))

    def rule_for(name):
        if "router" in name:
            return "new"
        return "expert" if "w_" in name else "averaged"

    monkeypatch.setattr(mix, "rule_for", rule_for)
    for c in cases():  # 3 models with 12 hidden units each, cut into 2 parts of 6 (split) or 3 parts of 4 (blend)
        for name in ("w_up", "w_gate", "w_down"):
            units = [torch.randn(12, c.D, generator=c.rng).bfloat16() for _ in range(3)]  # a row for each unit
            halves = torch.stack([t.float()[i:i + 6] for t in units for i in (0, 6)])
            blended = torch.stack([torch.cat([t.float()[i:i + 4] for t in units]) for i in (0, 4, 8)])
            if name == "w_down":  # has them as columns, and is scaled by 2, the number of parts
                units, halves, blended = [t.T for t in units], 2 * halves.mT, blended.mT
            same("expert (i, c) is the c-th part of FF_i along d_ff; all C parts at gate 1 / C give FF_i",
                 f"split {name}", mix.split(f"blocks.0.ff.{name}", units, 2), halves)
            same("expert n has the n-th part of every feed-forward along d_ff",
                 f"blend {name}", mix.blend(f"blocks.0.ff.{name}", units), blended)
    shape = {"vocab_size": 8, "n_layer": 1, "n_head": 1, "n_embd": 6}
    states = [GPT(GPTConfig(**shape, d_ff=6), torch.Generator().manual_seed(i)).state_dict() for i in range(2)]
    for experts, n_expert, d_ff in (("split", 6, 2), ("blended", 2, 6)):
        config = GPTConfig(**shape, d_ff=d_ff, n_expert=n_expert)
        mixed = mix.mix(states, config, torch.Generator().manual_seed(5), experts)
        for name in ("blocks.0.ff.w_up", "blocks.0.ff.w_down"):
            if mixed[name].shape != GPT(config).state_dict()[name].shape:
                fail("mix calls split (C = n_expert / number of models) or blend", f"{name}: {mixed[name].shape}")
