"""The checks of the assignment: what students write, against the paper's equations for single numbers.

    python -m course.check --stage 1                # one stage; --seed 7 draws other random numbers

A check begins with fixed numbers that fit on paper. They tell right from wrong. Random numbers follow, which nobody can
know by heart. It replaces functions of other stages by stand-ins, so that a mistake costs points once.
"""
import re
import subprocess
from contextlib import contextmanager
from math import exp, fsum, sqrt
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import finetune_router
import mix
import model
from data import prepare
from data.loader import get_batch, load_domains
from model import GPT, GPTConfig, MoE, Noise, Routing, new_router, route_soft
from support import training
from support.checkpoint import load_checkpoint, save_checkpoint

SEED = 0  # of the random cases; the grader sets another
MAKEFILE = "Makefile"
points = pytest.mark.points  # of 100


def fail(equation, text):
    """Say which equation does not hold, and what differs."""
    pytest.fail(f"{equation}\n  {text}", pytrace=False)


def same(equation, case, got, want, row="token"):
    """Fail with the first row that differs, unless the tensor `got` is `want`, a tensor or nested lists."""
    want = torch.as_tensor(want, dtype=torch.float64).detach()
    shape = tuple(got.shape) if isinstance(got, torch.Tensor) else type(got).__name__
    if shape != tuple(want.shape):
        fail(equation, f"{case}: expected a tensor of shape {tuple(want.shape)}, got {shape}")
    n_rows = len(want) if want.ndim > 1 else 1
    rows = zip(*(t.detach().double().reshape(n_rows, -1).tolist() for t in (want, got)), strict=True)
    for i, (expected, found) in enumerate(rows):
        if not all(abs(a - b) < 1e-6 + 1e-4 * abs(a) for a, b in zip(expected, found, strict=True)):
            where = f"{row} {i}: " if want.ndim > 1 else ""
            fail(equation, f"{case}: {where}expected {shown(expected)}, got {shown(found)}")


def shown(values):
    """The first numbers of a list, short enough to read."""
    text = ", ".join(f"{value:.4g}" for value in values[:8])
    return f"[{text}]" if len(values) <= 8 else f"[{text}, ...]"


def check_gradients(equation, case, function, **inputs):
    """Fail unless backward tells what a small change of each input does to the output of `function`."""
    def output():
        y = function()
        return (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view(y.shape)).sum()

    for name, x in inputs.items():
        way = torch.linspace(1, 2, x.numel(), dtype=x.dtype).view(x.shape)
        ends = []
        for size in (1e-3, -2e-3):
            x.data += size * way
            ends.append(output().item())
        x.data += 1e-3 * way
        y, gradient = output(), 0 * x
        if y.requires_grad:
            gradient, = torch.autograd.grad(y, x, materialize_grads=True)
        if ends[0] == ends[1]:
            fail(equation, f"{case}: the values are right, but computed from other numbers than {name}")
        want, got = (ends[0] - ends[1]) / 2e-3, (gradient * way).sum().item()
        if not abs(got - want) < 3e-3 * (1 + abs(want)):
            fail(equation, f"{case}: the values are right, but not the gradient for {name}: along one line the output "
                           f"changes by {want:.4g}, and backward says {got:.4g}")


def call(function, *arguments):
    """Call a student's function. New tensors must land where its inputs are, and inputs must stay as they are."""
    rule = "create tensors on the device of the inputs: zeros_like(x), torch.zeros(..., device=x.device)"
    tensors = [x for x in tree_leaves(arguments) if isinstance(x, torch.Tensor)]
    before = [t.detach().clone() for t in tensors]
    try:
        with torch.device("meta"):  # a tensor that is made without device= lands there, not where the inputs are
            result = function(*arguments)
    except RuntimeError as error:
        if "meta" in str(error):
            fail(rule, str(error))
        raise
    if any(x.is_meta for x in tree_leaves(result) if isinstance(x, torch.Tensor)):
        fail(rule, "the result is on another device")
    if not all(map(torch.equal, tensors, before)):
        fail("a function must not change what it is given", "one of the inputs has other values now")
    return result


def verify(equation, case, function, arguments, want, row="token", **inputs):
    """Call a student's function, and compare its values, and its gradients for some inputs."""
    same(equation, case, call(function, *arguments), want, row)
    check_gradients(equation, case, lambda: function(*arguments), **inputs)


def by_hand(*rows):
    """Numbers that fit on paper."""
    return torch.tensor(rows, dtype=torch.float64, requires_grad=True)


def numbers(rng, *shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()


def cases():
    """Yield two random cases: a generator rng, M tokens, N experts, k experts for each token, widths D and d_ff."""
    for i in range(2):
        rng = torch.Generator().manual_seed(1000 * SEED + i)
        M, N, D, d_ff = (int(torch.randint(low, 2 * low, (), generator=rng)) for low in (6, 3, 3, 4))
        yield SimpleNamespace(rng=rng, M=M, N=N, k=2 + i, D=D, d_ff=d_ff)


# ---- the equations, number by number
def softmax_of(row):
    """The softmax of a list of numbers, as a list."""
    return [exp(z) / fsum(map(exp, row)) for z in row]


def largest_only(row):
    """A list with 0 for all but the largest number."""
    return [value * (value == max(row)) for value in row]


def swiglu_of(x, w_gate, w_up, w_down):
    """FF(x) for lists of numbers, hidden unit after hidden unit."""
    hidden = []
    for gate, up in zip(w_gate, w_up, strict=True):
        a, b = (sum(map(float.__mul__, w, x)) for w in (gate, up))
        hidden.append(a / (1 + exp(-a)) * b)
    return [sum(map(float.__mul__, w, hidden)) for w in w_down]


def visits(routing):
    """(token, expert, gate) for each expert that a token visits."""
    for t, (experts, gates) in enumerate(zip(routing.experts.tolist(), routing.gates.tolist(), strict=True)):
        for i, g in zip(experts, gates, strict=True):
            yield t, i, g


def load_of(routing):
    """What each expert is given, visit by visit."""
    M, N = routing.probs.shape
    return [fsum(g for _, i, g in visits(routing) if i == expert) / M for expert in range(N)]


def balance_of(routing, load):
    """L_LB / alpha of a layer, token by token, where u is `load`."""
    M, N = routing.probs.shape
    return N * fsum(u * row[i] for i, u in enumerate(load) for row in routing.probs.tolist()) / M


def gates_by(route, logits, *settings):
    """The gates of all experts, (M, N), by a student's router."""
    gates, experts, _ = route(logits, *settings)
    if gates.shape != experts.shape or gates.shape[:-1] != logits.shape[:1] or experts.dtype != torch.int64:
        fail("gates and experts are (M, k), also for k = 1; experts are int64",
             f"got {tuple(gates.shape)} and {tuple(experts.shape)}, {experts.dtype}")
    return Routing(gates, experts, logits).dense_gates()


def probs_by(route, logits, *settings):
    return route(logits, *settings).probs


def random_routing(c, k):
    chosen = torch.rand(c.M, c.N, generator=c.rng).argsort(1)[:, :k]
    gates, probs = (numbers(c.rng, c.M, n).detach().softmax(-1) for n in (k, c.N))
    gates = gates / (k - 1)  # three gates sum to 1/2, as Switch's need not sum to 1
    return Routing(gates.requires_grad_(), chosen, probs.requires_grad_())


def matrices(c):
    return numbers(c.rng, c.N, c.d_ff, c.D), numbers(c.rng, c.N, c.d_ff, c.D), numbers(c.rng, c.N, c.D, c.d_ff)


SMALL = Routing(by_hand([0.75, 0.25], [0.9, 0.1], [0.6, 0.2]), torch.tensor([[0, 1], [1, 2], [2, 0]]),
                by_hand([0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.2, 0.3, 0.5]))
SMALL_TEXT = "gates [[.75, .25], [.9, .1], [.6, .2]] of experts [[0, 1], [1, 2], [2, 0]]"
LAYER = "FF_MoE(x) = sum_i g_i FF_i(x): the gate multiplies FF_i(x), not x; an expert computes the tokens that chose it"


# ---- stage 1: the MoE layer and its router (3.2)
@points(8)
def test_stage1_gates():
    equation = "g(W x) = SoftMax(TopK(W x)), and probs = SoftMax(W x) over all N experts"
    small = by_hand([2.0, 1.0, 0.0, -1.0], [0.0, 0.5, 3.0, 1.0], [-2.0, 1.0, -3.0, 0.5])
    tries = [(f"W x = {small.tolist()}", small, 2), (f"W x = {small.tolist()}", small, 3)]
    tries += [("W x random", numbers(c.rng, c.M, c.N), c.k) for c in cases()]
    for name, logits, k in tries:
        kept = [[z if z in sorted(row)[-k:] else float("-inf") for z in row] for row in logits.tolist()]
        for what, part, rows in (("gates of all experts", gates_by, kept), ("probs", probs_by, logits.tolist())):
            verify(equation, f"{name}, k = {k}, {what}", part, (model.route_topk, logits, k),
                   list(map(softmax_of, rows)), logits=logits)


@points(10)
def test_stage1_sum():
    w = by_hand(*[[[1.0]]] * 3), by_hand(*[[[1.0]]] * 3), by_hand([[1.0]], [[2.0]], [[3.0]])
    case = f"x = [[1], [2], [3]], FF_i(x) = (i + 1) silu(x) x, {SMALL_TEXT}"
    tries = [(case, by_hand([1.0], [2.0], [3.0]), SMALL, w)]
    for c in cases():
        nobody_chose_0 = random_routing(c, 2)._replace(experts=torch.tensor([[c.N - 1, 1]] * c.M))
        for routing in (random_routing(c, c.k), nobody_chose_0):
            tries.append(("random", numbers(c.rng, c.M, c.D), routing, matrices(c)))
    for case, x, routing, w in tries:
        want = [[0.0] * x.shape[1] for _ in x]
        for t, i, g in visits(routing):
            FF_i = swiglu_of(x[t].tolist(), *(matrix[i].tolist() for matrix in w))
            want[t] = [y + g * new for y, new in zip(want[t], FF_i, strict=True)]
        verify(LAYER, case, model.ff_moe, (x, routing, *w), want, x=x, gates=routing.gates, w_gate=w[0], w_down=w[2])
    check_autocast()


def check_autocast():
    """On a GPU matrix products give bfloat16, while x, the gates and the weights are float32."""
    rule = "under autocast FF_i(x) is bfloat16; convert it to the sum's dtype before adding: .to(y.dtype)"
    c = next(cases())
    inputs = [t.detach().float() if t.is_floating_point() else t for t in (numbers(c.rng, c.M, c.D), *matrices(c))]
    routing = random_routing(c, 2)
    routing = routing._replace(gates=routing.gates.detach().float(), probs=routing.probs.detach().float())
    with torch.autocast("cpu", torch.bfloat16):
        try:
            y = model.ff_moe(inputs[0], routing, *inputs[1:])
        except RuntimeError as error:
            fail(rule, str(error))
    if y.dtype != torch.float32:
        fail(rule, f"x is float32, but the result is {y.dtype}")


@points(4)
def test_stage1_work():
    c = SimpleNamespace(rng=torch.Generator().manual_seed(2), M=512, N=8, D=32, d_ff=64)
    k, n_matrices = 2, 3
    inputs = numbers(c.rng, c.M, c.D).detach(), random_routing(c, k), *matrices(c)
    with FlopCounterMode(display=False) as flops:
        model.ff_moe(*inputs)
    want = 2 * n_matrices * c.M * k * c.D * c.d_ff  # 2 FLOPs for each weight and token
    got = flops.get_total_flops()
    if got != want:
        fail(LAYER, f"{c.M} tokens with {k} of {c.N} experts each: expected {want:,} FLOPs, got {got:,}")


@points(8)
def test_stage1_layer():
    equation = "a layer computes W x for all tokens of all sequences, calls self.route once, then self.ff_moe, and " \
               "returns what that gives, in the shape of x, and the Routing"
    small = by_hand([[1.0, 2.0], [0.0, 1.0]], [[3.0, -1.0], [2.0, 2.0]]), by_hand([1.0, 0.0], [0.5, 0.5], [2.0, -1.0])
    tries = [("x = [[[1, 2], [0, 1]], [[3, -1], [2, 2]]], W = [[1, 0], [.5, .5], [2, -1]]", *small)]
    tries += [("random", numbers(c.rng, 2, c.M, c.D), numbers(c.rng, c.N, c.D)) for c in cases()]
    for case, x, W in tries:
        (B, T, D), N = x.shape, len(W)
        layer = model.MoE(GPTConfig(n_embd=D, d_ff=5, n_expert=N, top_k=2), layer=0).double()
        layer.train(case == "random")
        layer.router = torch.nn.Parameter(W.detach())
        calls = []

        def route(logits, *args, calls=calls, **kwargs):
            calls.append(("self.route", logits, [*args, *kwargs.values()]))
            return "the Routing"

        def ff_moe(tokens, *args, calls=calls):
            calls.append(("self.ff_moe", tokens, args))
            return 3 * tokens + torch.arange(len(tokens), device=tokens.device)[:, None]

        layer.route, layer.ff_moe = route, ff_moe
        y, returned = call(layer.forward, x, "noise")
        if [name for name, *_ in calls] != ["self.route", "self.ff_moe"]:
            fail(equation, f"{case}: it called {[name for name, *_ in calls]}")
        (_, logits, settings), (_, tokens, given) = calls
        if settings != ["noise"]:
            fail(equation, f"self.route gets logits and noise; after the logits came {settings}")
        rows = [[sum(map(float.__mul__, w, token)) for w in W.tolist()] for row in x.tolist() for token in row]
        same(equation, f"{case}: W x", logits, rows)
        same(equation, f"{case}: what self.ff_moe gets", tokens, [token for row in x.tolist() for token in row])
        names = {id(p): name for name, p in layer.named_parameters()}
        got = [names.get(id(w), w if w == "the Routing" else "another") for w in given]
        if got != ["the Routing", "w_gate", "w_up", "w_down"]:
            fail(equation, f"self.ff_moe gets tokens, Routing, w_gate, w_up, w_down; after the tokens came {got}")
        want = 3 * x + torch.arange(B * T).view(B, T, 1)
        same(equation, f"{case}: the output, where self.ff_moe adds a token's place to 3 x", y, want, "sequence")
        if returned != "the Routing":
            fail(equation, "the second value is not the Routing that self.route gave")
        for what, i in (("W x", 0), ("what self.ff_moe gets", 1)):
            inputs = {"x": x, "W": layer.router} if i == 0 else {"x": x}
            check_gradients(equation, what, lambda x=x, c=calls, f=layer.forward, i=i: f(x, "noise") and c[i - 2][1],
                            **inputs)


# ---- stage 2: branch (3.1) and mix (3.2)
@points(4)
def test_stage2_branch():
    equation = "a branch starts from the seed and reads its own domain, with a little of the seed's text (general, " \
               "trivia), 1 to 20 %, and nothing of the other experts' domains"
    command = ["make", "-nB", "SHELL=false", f"-f{MAKEFILE}", "PY=python", "OUT=o", "DATA=d", "o/math.pt", "o/wiki.pt"]
    plan = subprocess.run(command, text=True, capture_output=True, cwd=Path(__file__).parent.parent)
    if "stage 2: branch" in plan.stderr:
        raise NotImplementedError("stage 2: branch")
    for name in ("math", "wiki"):  # the line that trains this expert, and its mixture
        line = "".join(re.findall(rf"train_expert.*--out o/{name}\.pt.*", plan.stdout))
        start = "".join(re.findall(r"--init (\S+)", line))
        weights = re.findall(r"(\w+)=([\d.e-]+)", "".join(re.findall(r"--data (\S+)", line)))
        data = {domain: float(weight) for domain, weight in weights}
        if re.search(r"--data \S*, ", line):
            problem = "a mixture has no spaces: what follows one is another option"
        elif start != "o/seed.pt":
            problem = f"expected --init o/seed.pt, got {start or plan.stderr.strip() or 'none'}"
        elif name not in data:
            problem = f"its domain {name} is missing from {data}"
        elif {"math", "wiki", "code"} & data.keys() != {name}:
            problem = f"{data} has other experts' domains"
        elif not 0.01 <= 1 - data[name] / sum(data.values()) <= 0.2:
            problem = f"{100 - 100 * data[name] / sum(data.values()):.4g} % of the seed's text"
        else:
            continue
        fail(equation, f"make o/{name}.pt: {problem}")


@points(4)
def test_stage2_average():
    equation = "the average of N tensors: their sum, taken in float32, divided by N; it is float32, too"
    small = [torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[2.0, 2.0], [2.0, 2.0]]),
             torch.tensor([[6.0, 5.0], [4.0, 0.0]])]
    fine = [torch.tensor([1.0, 3.0]).bfloat16(), torch.tensor([1.0078125, 3.0]).bfloat16()]
    tries = [("[[1, 2], [3, 4]], [[2, 2], [2, 2]], [[6, 5], [4, 0]]", small, [[3, 3], [3, 2]]),
             ("[1, 3] and [1 + 2^-7, 3] in bfloat16", fine, [1.00390625, 3])]
    for c in cases():
        tensors = [numbers(c.rng, c.M, c.D).detach().float() for _ in range(c.N)]
        rows = zip(*(t.tolist() for t in tensors), strict=True)
        want = [[fsum(column) / c.N for column in zip(*row, strict=True)] for row in rows]
        tries.append(("random", tensors, want))
    for case, tensors, want in tries:
        got = call(mix.average, tensors)
        if got.dtype != torch.float32:
            fail(equation, f"{case}: expected float32, got {got.dtype}")
        same(equation, case, got, want, "row")


RULES = {"embed.weight": "averaged", "head.weight": "averaged", "norm.weight": "averaged"}
for layer in (0, 1):
    RULES |= {f"blocks.{layer}.{name}.weight": "averaged" for name in
              ("attn_norm", "ff_norm", "attn.wq", "attn.wk", "attn.wv", "attn.wo")}
    RULES |= {f"blocks.{layer}.ff.{name}": "feed-forward" for name in ("w_gate", "w_up", "w_down")}
    RULES[f"blocks.{layer}.ff.router"] = "new"


def right_rule(name, feed_forwards="stacked"):
    """What mix.rule_for should say."""
    return feed_forwards if RULES[name] == "feed-forward" else RULES[name]


@points(4)
def test_stage2_rules():
    for name in RULES:
        for name_there in (name, name.replace("blocks.1", "blocks.31")):
            for feed_forwards in ("stacked", "averaged"):
                got, want = mix.rule_for(name_there, feed_forwards), right_rule(name, feed_forwards)
                if got != want:
                    fail("feed-forwards are stacked (or what the second argument says), routers are new, all else is "
                         "averaged", f"{name_there}, {feed_forwards}: expected {want!r}, got {got!r}")


def mix_numbers(monkeypatch, feed_forwards, values=(1.0, 2.0, 6.0), stand_in=None):
    """Mix three models; all weights of one are the same number. Returns what comes out, and the config."""
    monkeypatch.setattr(mix, "average", lambda ts: torch.full(ts[0].shape, sum(t.max().item() for t in ts) / len(ts)))
    monkeypatch.setattr(mix, "rule_for", right_rule)
    shape = {"vocab_size": 8, "n_layer": 2, "n_head": 1, "n_embd": 6, "d_ff": 12}
    names = GPT(GPTConfig(**shape)).state_dict()
    states = [{name: torch.full(t.shape, value).bfloat16() for name, t in names.items()} for value in values]
    config = GPTConfig(**shape, n_expert={"averaged": 0, "split": 12}.get(feed_forwards, 3))
    config.d_ff = 3 if feed_forwards == "split" else 12
    shapes = {name: t.shape for name, t in GPT(config).state_dict().items()}
    if stand_in:
        monkeypatch.setattr(mix, feed_forwards.removesuffix("ed"), lambda *args, **kw: stand_in(shapes, *args, **kw))
    torch.manual_seed(0)  # of what is not drawn from the generator given
    mixed = mix.mix(states, config, torch.Generator().manual_seed(5), feed_forwards)
    for state, value in zip(states, values, strict=True):
        if not all((t == value).all() for t in state.values()):
            fail("mix must not change what it is given", f"a tensor of the model of {value}s has other values now")
    wrong = sorted(mixed.keys() ^ shapes.keys())
    if wrong:
        fail("the mixed model has the names of GPT(config)", f"{feed_forwards}: {wrong} missing, or too many")
    for name, shape in shapes.items():
        if mixed[name].shape != shape:
            fail("the mixed model has the shapes of GPT(config)",
                 f"{feed_forwards}, {name}: expected {tuple(shape)}, got {tuple(mixed[name].shape)}")
    return mixed, config


@points(8)
def test_stage2_mix(monkeypatch):
    equation = "feed-forwards become experts (or are averaged, too), routers are new, all else is averaged; all float32"
    tries = [("stacked", [1.0, 2.0, 6.0]), ("averaged", [1.0, 2.0, 6.0])]
    tries += [("stacked", torch.randint(99, (3,), generator=c.rng).double().tolist()) for c in cases()]
    for feed_forwards, values in tries:
        mixed, config = mix_numbers(monkeypatch, feed_forwards, values)
        rng = torch.Generator().manual_seed(5)
        for name, tensor in GPT(config).state_dict().items():
            case = f"models whose weights all are {values}, {feed_forwards}: {name}"
            want = torch.full(tensor.shape, sum(values) / 3)
            if RULES[name] == "new":
                want, case = new_router(3, 6, rng), f"{case}: new_router's numbers, layer after layer"
            elif right_rule(name, feed_forwards) == "stacked":
                want = torch.stack([torch.full(tensor.shape[1:], value) for value in values])
            same(equation, case, mixed[name], want, "expert" if want.ndim == 3 else "row")
            if mixed[name].dtype != torch.float32:
                fail(equation, f"{case}: it is {mixed[name].dtype}")


# ---- stage 3: a step of MoE finetuning (3.2, 3.3)
@points(4)
def test_stage3_load():
    equation = "u_i is the mean of the gate g_i over all tokens"
    for case, routing in [(SMALL_TEXT, SMALL), *(("random", random_routing(c, c.k)) for c in cases())]:
        verify(equation, case, model.expert_load, (routing,), load_of(routing), gates=routing.gates)


def finetune(folder, monkeypatch, routing="topk", clip=1.0, parts=2):
    """Run four steps of finetune_router.py on a tiny model, with stand-ins for all that other stages write.

    With --grad_accum 2 it runs --recompute, too.

    Returns the model before, the checkpoint after, the options, what the model was given in each micro-batch, and after
    how many of them the optimizer made its steps. (torch makes one more when it saves the optimizer.)
    """
    monkeypatch.undo()
    prepare.main(["--domains=math", "--train_tokens=2000", "--val_tokens=300", "--tasks=2", f"--out={folder}"])
    config = GPTConfig(n_layer=2, n_head=1, n_embd=8, d_ff=8, block_size=16, n_expert=3, routing=routing)
    gpt = GPT(config, torch.Generator().manual_seed(0))
    mixed = {"state": gpt.state_dict(), "config": vars(config), "spec": load_domains(folder)["math"].meta["spec"],
             "experts": ["a", "b", "c"], "ledger": [{"id": "x", "settings": {}}], "log": []}
    save_checkpoint(folder / "mixed.pt", mixed)
    options = {"init": folder / "mixed.pt", "out": folder / "out.pt", "data": "math", "data_dir": folder, "steps": 4,
               "batch_size": 4, "grad_accum": parts, "alpha": 3, "lr": 0.1, "eval_windows": 1, "device": "cpu",
               "dtype": "float32"}
    options = [*["--recompute"][:parts == 2], *(f"--{name}={value}" for name, value in options.items())]
    seen, steps, inside, plain_forward = [], [], [], GPT.forward

    @contextmanager
    def within(what):
        inside.append(what)
        yield
        inside.remove(what)

    def wrap(module, device, shard):
        return lambda *args, **kwargs: within("forward")(module)(*args, **kwargs)

    def forward(gpt, *args, **kwargs):
        if gpt.training:
            seen.append({"noise": kwargs.get("noise"), "recompute": kwargs.get("recompute"), "within": set(inside)})
        return plain_forward(gpt, *args, **kwargs)

    def sgd(gpt, args):  # in the place of AdamW, which would hide a gradient of the wrong size
        params = list(gpt.parameters())
        optimizer = torch.optim.SGD([{"params": params[:1]}, {"params": params[1:]}], lr=args.lr)
        optimizer.register_step_post_hook(lambda *_: steps.append(len(seen)))
        return optimizer

    monkeypatch.setattr(GPT, "forward", forward)
    monkeypatch.setattr(MoE, "forward", lambda layer, x, noise=None: (x, route_soft(3 * x.flatten(0, 1)[:, :3])))
    monkeypatch.setattr(training, "make_optimizer", sgd)
    monkeypatch.setattr(training, "CLIP", clip)
    monkeypatch.setattr(finetune_router, "load_balancing_loss", uneven)
    monkeypatch.setattr(finetune_router, "expert_load", lambda layer: layer.probs[0])
    monkeypatch.setattr(finetune_router, "wrap", wrap)
    monkeypatch.setattr(finetune_router, "autocast", lambda *given: within(f"autocast{given}"))
    finetune_router.main(options)
    return gpt, load_checkpoint(folder / "out.pt"), finetune_router.parse(options), seen, steps


def uneven(layers):
    """A stand-in for L_LB, of all layers: its value is no matter of stage 3."""
    return sum((8 + 4 * i) * layer.probs[:, i].square().mean() for i, layer in enumerate(layers))


@points(6)
def test_stage3_step(tmp_path, monkeypatch):
    for clip, parts, text in ((1e6, 4, "no gradient is long enough to be clipped"),
                              (0.5, 2, "gradients are clipped to length 0.5")):
        gpt, found, args, seen, steps = finetune(tmp_path / text, monkeypatch, clip=clip, parts=parts)
        want = [parts * step for step in (1, 2, 3, 4)]
        if len(seen) != want[-1] or steps[:4] != want:
            fail("each of the --grad_accum parts of a batch goes through the model, then optimizer.step() comes once",
                 f"4 steps of {parts} parts: expected {want[-1]} passes, steps after {want} of them; got {len(seen)}, "
                 f"{steps[:4]}")
        for what in ("forward", "autocast('float32', device(type='cpu'))"):
            if what not in seen[0]["within"]:
                fail("call forward(...), which may be compiled or sharded, within autocast, as train_expert.py does",
                     f"the model was called without {what}")
        if bool(seen[0]["recompute"]) != args.recompute:
            fail("forward is told recompute=args.recompute", f"{args.recompute}, but it got {seen[0]['recompute']}")
        if seen[0]["noise"] is not None:
            fail("noise is None unless config.routing is \"sample\"", "a top-k router was given noise")
        check_weights(gpt, found, args, load_domains(tmp_path / text)["math"].train, clip, text)


def check_weights(gpt, found, args, text, clip, case):
    """Take the four steps by the equation, and compare."""
    equation = "minimise NLL + alpha L_LB, the mean over --grad_accum parts of the batch: backward, clip, step, zero"
    weights, logged, n = dict(gpt.named_parameters()), [], args.grad_accum
    for step in range(4):
        x, y = get_batch({"math": text}, args.data, (4, 16), (0, 0, step))
        mean = 0
        for xs, ys in zip(x.chunk(n), y.chunk(n), strict=True):
            _, language, layers = gpt(xs, ys)
            mean = mean + (language + 3 * uneven(layers)) / n  # alpha is 3
        logged.append(language.item())
        gradients = torch.autograd.grad(mean, weights.values(), materialize_grads=True)
        length = sqrt(sum(g.square().sum().item() for g in gradients))
        rate = training.learning_rate(step, 4, 0.1) * min(1, clip / length)
        with torch.no_grad():
            for p, g in zip(weights.values(), gradients, strict=True):
                p.copy_(p - rate * g)
    for name in sorted(weights, key=lambda name: weights[name].numel()):
        same(equation, f"{case}; after four steps of SGD {name}", found["state"][name], weights[name], "row")
    same("the log's train_loss is nll, the language model's loss of the last part", "four steps",
         torch.tensor([entry["train_loss"] for entry in found["log"]]), logged)


# ---- stage 4: load balancing (3.3)
@points(10)
def test_stage4_balance(monkeypatch):
    equation = "L_LB / alpha = N sum_i u_i p_i in each layer, summed over layers; u and p are means over all tokens"
    used = []

    def expert_load(routing):  # a stand-in: what all gates give, times 1, 2, 3 ...
        used.append(routing)
        (M, N), gates = routing.probs.shape, routing.gates
        return gates.sum() / M * torch.arange(1, N + 1, dtype=gates.dtype, device=gates.device)

    monkeypatch.setattr(model, "expert_load", expert_load)
    halves = (SMALL.gates.detach() / 2).requires_grad_()
    other = Routing(halves, torch.tensor([[0, 1], [0, 1], [0, 1]]), SMALL.probs.detach().flip(1).requires_grad_())
    probs = "probs [[.7, .2, .1], [.3, .6, .1], [.2, .3, .5]]"
    tries = [(f"one layer, {SMALL_TEXT}, {probs}", [SMALL]),
             ("two layers: this one, and one with half the gates, experts [0, 1] and probs reversed", [SMALL, other])]
    tries += [("random, two layers", [random_routing(c, c.k), random_routing(c, c.k)]) for c in cases()]
    for case, layers in tries:
        used.clear()
        if call(model.load_balancing_loss, list(layers)).item() == 0:
            raise NotImplementedError("stage 4: load_balancing_loss")
        if used:  # else the student computes u again
            case += ", where a stand-in for expert_load gives sum(gates) / M times [1, 2, ..., N]"
        loads = [expert_load(layer).tolist() if used else load_of(layer) for layer in layers]
        want = fsum(map(balance_of, layers, loads))
        for i, layer in enumerate(layers):
            inputs = {f"gates of layer {i}": layer.gates, f"probs of layer {i}": layer.probs}
            verify(equation, case, model.load_balancing_loss, (list(layers),), want, **inputs)


# ---- stage 5: Switch and Sample Top-1 (3.3)
QUEUE = [1.0, 3.0, 2.0, 5.0, 4.0, 1.5, 2.5, 1.2, 1.7]  # logits of expert 1, which all tokens choose
KEPT = [(6, 5, [3, 4]), (8, 4, [1, 3, 4]), (7, 5, [1, 3, 4]), (9, 4, [1, 3, 4, 6]), (1, 4, [0])]  # M, N, who is kept


@points(8)
def test_stage5_switch():
    equation = "Switch: the gate of the likeliest expert is its probability among all N; in training an expert keeps " \
               "ceil(1.5 M / N) of its tokens at most, the surest, and the gate of the others is 0"
    small = by_hand([5.0, 5.1, 0.0, 0.0], [5.0, 5.1, 0.0, 0.0], [0.3, 0.0, 0.0, 0.0], [0.4, 0.0, 0.0, 0.0],
                  [0.2, 0.0, 0.0, 0.0])
    tries = [(f"W x = {small.tolist()}", small)]
    for c in cases():
        logits = numbers(c.rng, c.M, c.N)
        logits.data[:, 1] += 2
        tries.append((f"random, {c.M} tokens, {c.N} experts", logits))
    for case, logits in tries:
        M, N = logits.shape
        probs = list(map(softmax_of, logits.tolist()))
        gates = list(map(largest_only, probs))
        for trains in (False, True):
            where = f"{case}, training={trains}"
            if trains:  # a gate stays if fewer than the capacity are above it
                gates = [[g * (sum(row[i] > g for row in gates) < -(-3 * M // (2 * N))) for i, g in enumerate(mine)]
                         for mine in gates]
            if trains and logits is small:
                check_capacity(equation)
            for what, part, want in (("probs", probs_by, probs), ("gates of all experts", gates_by, gates)):
                verify(equation, f"{where}, {what}", part, (model.route_switch, logits, trains), want,
                       logits=logits)


def check_capacity(equation):
    """Who is kept, in cases where ceil, floor and round differ."""
    for M, N, kept in KEPT:
        logits = torch.zeros(M, N, dtype=torch.float64)
        logits[:, 1] = torch.tensor(QUEUE[:M])
        gates = call(gates_by, model.route_switch, logits, True)
        got = [t for t, gate in enumerate(gates[:, 1].tolist()) if gate > 0]
        if got != kept:
            fail(equation, f"training, {M} tokens, {N} experts, W x is {QUEUE[:M]} for expert 1 and 0 for all others: "
                           f"expected expert 1 to keep the tokens {kept}, got {got}")


@points(6)
def test_stage5_sample():
    equation = "g = SoftMax((W x + G) / tau) with all but its largest value zeroed; in evaluation that value is 1"
    small = by_hand([2.0, 1.0, 0.0], [0.0, 0.5, 3.0]), torch.tensor([[0.0, 2.0, -1.0], [1.0, 0.0, 0.5]])
    tries = [(f"W x = {small[0].tolist()}, G = {small[1].tolist()}, tau = 0.5", *small, 0.5)]
    tries += [("random", numbers(c.rng, c.M, c.N), 2 * numbers(c.rng, c.M, c.N).detach(), 0.7) for c in cases()]
    for case, logits, G, tau in tries:
        noise = Noise(G.double(), torch.tensor(tau))
        pairs = zip(logits.tolist(), G.tolist(), strict=True)
        sample = [largest_only(softmax_of([(a + b) / tau for a, b in zip(*pair, strict=True)])) for pair in pairs]
        drawn, likeliest = ([[float(value == max(row)) for value in row] for row in rows]
                            for rows in (sample, logits.tolist()))
        probs = list(map(softmax_of, logits.tolist()))
        for where, part, given, want in (("training, probs, without noise", probs_by, (True, noise), probs),
                                         ("training, gates of all experts", gates_by, (True, noise), sample),
                                         ("evaluation with noise, gates", gates_by, (False, noise), drawn),
                                         ("evaluation without noise, gates", gates_by, (False, None), likeliest)):
            inputs = {"logits": logits} if "evaluation" not in where else {}
            verify(equation, f"{case}, {where}", part, (model.route_sample, logits, *given), want, **inputs)


@points(2)
def test_stage5_temperature():
    shares, want = [0.0, 0.05, 0.1, 0.5, 1.0], [1, 0.818731, 0.670320, 0.5, 0.5]
    got = torch.tensor([float(finetune_router.temperature(share)) for share in shares])
    same("tau = max(0.5, exp(-4 share))", f"shares {shares} of the steps", got, want)


@points(4)
def test_stage5_noise(tmp_path, monkeypatch):
    equation = "Sample Top-1's step draws noise for the tokens of each part, with tau of step / steps, from the " \
               "step's generator, and gives it to the model"
    drawn, expected = [], []

    def gumbel(config, n_tokens, tau, generator):
        drawn.append((n_tokens, float(tau), generator.initial_seed()))
        return [drawn[-1]] * 2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune_router, "gumbel", gumbel)
        patch.setattr(finetune_router, "temperature", lambda share: 10 + share)
        seen = finetune(tmp_path, monkeypatch, "sample")[3]
    for step in range(4):  # of 2 parts, of 2 sequences of 16 tokens each
        expected += [(32, 10 + step / 4, training.step_generator("cpu", 0, 0, step, 0).initial_seed())] * 2
    if drawn != expected:
        pairs = [[(n, tau - 10, "own" if seed == expected[0][2] else "other") for n, tau, seed in some[:4]]
                 for some in (expected, drawn)]
        fail(equation, f"(tokens, step / steps, generator of step 0): expected {pairs[0]} ..., got {pairs[1]} ...")
    given = [one["noise"] for one in seen]
    if given != [[noise] * 2 for noise in expected]:
        fail(equation, f"the model gets {given[0]} in the first part, not what gumbel gave")


# ---- stage 6: splitting and blending (3.3)
def units(name, rows, shift):
    """Matrices whose hidden units are known by numbers: a row of w_up for each, or a column of w_down."""
    rows = torch.tensor(rows, dtype=torch.float32)[..., None] + torch.tensor([0.0, 0.25]) + shift  # (..., units, D = 2)
    return rows.mT if name == "w_down" else rows


def check_call(monkeypatch, feed_forwards):
    """mix calls split or blend with what it says in the docstring."""
    calls = []

    def stand_in(shapes, *args, **kwargs):
        calls.append([args[0].split(".")[-1], [t.max().item() for t in args[1]], *args[2:], *kwargs.values()])
        return torch.zeros(shapes[args[0]])

    mix_numbers(monkeypatch, feed_forwards, stand_in=stand_in)
    want = [[name, [1, 2, 6], *([4] if feed_forwards == "split" else [])] for name in ("w_gate", "w_up", "w_down")] * 2
    if calls != want:
        fail("mix calls split(name, tensors, C), C = n_expert / number of models, or blend(name, tensors)",
             f"{feed_forwards}, 3 models, 12 experts if split: expected the arguments {want[:3]}, got {calls[:3]}")


@points(5)
def test_stage6_split(monkeypatch):
    equation = "expert (i, c) is the c-th part of FF_i along d_ff, first all parts of model 0; with gates of 1 / C " \
               "the C parts together give FF_i"
    tensors = [[10, 11, 12, 13], [20, 21, 22, 23]]
    parts = {2: [[10, 11], [12, 13], [20, 21], [22, 23]], 1: tensors,
             4: [[10], [11], [12], [13], [20], [21], [22], [23]]}
    for C, shift in ((2, 0), (4, 0), (1, 0), *((2, c.M) for c in cases())):
        for name in ("w_up", "w_gate", "w_down"):
            got = call(mix.split, f"blocks.0.ff.{name}", list(units(name, tensors, shift).bfloat16()), C)
            case, want = f"hidden units {tensors} + {shift}", units(name, parts[C], shift)
            if name == "w_down" and isinstance(got, torch.Tensor) and got.shape == want.shape:
                sums = got[:C].sum((0, 2)) / C, units(name, tensors, shift)[0].sum(1)
                same(equation, f"split {name}, C = {C}, {case}, all 1: FF_0(x)", *sums)
                got = got / got[0, 0, 0] * want[0, 0, 0]
            same(equation, f"split {name}, C = {C}, {case}", got, want, "expert")
    check_call(monkeypatch, "split")


@points(5)
def test_stage6_blend(monkeypatch):
    equation = "expert n has the n-th part of every feed-forward along d_ff; the gates are not made up for"
    tries = [([[10, 11, 12, 13], [20, 21, 22, 23]], [[10, 11, 20, 21], [12, 13, 22, 23]]),
             ([[10, 11, 12], [20, 21, 22], [30, 31, 32]], [[10, 20, 30], [11, 21, 31], [12, 22, 32]])]
    for tensors, parts, shift in (*((*one, 0) for one in tries), *((*tries[0], c.M) for c in cases())):
        for name in ("w_up", "w_gate", "w_down"):
            got = call(mix.blend, f"blocks.0.ff.{name}", list(units(name, tensors, shift).bfloat16()))
            same(equation, f"blend {name}, hidden units {tensors} + {shift}", got, units(name, parts, shift), "expert")
    check_call(monkeypatch, "blended")
