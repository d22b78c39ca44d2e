"""The checks of the assignment: what students write, against the paper's equations for single numbers.

A check begins with fixed numbers that fit on paper. They tell right from wrong. Random numbers follow, which nobody can
know by heart. It replaces functions of other stages by stand-ins, so that a mistake costs points once. check.py runs
each in a process of its own, so none puts anything back. A message begins with the check's docstring, the equation.
"""
import re
import subprocess
from math import fsum, inf
from types import SimpleNamespace

import torch
from torch.autograd import gradcheck
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import finetune_router
import mix
import model
from model import GPT, GPTConfig, Noise, Routing, new_router
from support import training

SEED = 0  # of the random cases; the grader sets another
MAKEFILE = "Makefile"


class Wrong(Exception):
    """What differs in code that is not right."""


def same(case, got, want):
    """Raise Wrong with the first row that differs, unless the tensor `got` is `want`, a tensor or nested lists."""
    want = torch.as_tensor(want, dtype=torch.float64)
    shape = getattr(got, "shape", type(got))
    if shape != want.shape:
        raise Wrong(f"{case}: expected a tensor of shape {tuple(want.shape)}, got {shape}")
    rows = [t.detach().double().reshape(len(want) if want.ndim else 1, -1) for t in (want, got)]
    for i, (expected, found) in enumerate(zip(*rows, strict=True)):
        if not torch.allclose(found, expected, rtol=1e-4, atol=1e-6):
            raise Wrong(f"{case}, [{i}]: expected {shown(expected)}, got {shown(found)}")


def shown(values):
    return ", ".join(f"{value:.4g}" for value in values[:8].tolist())


def call(function, *arguments):
    """Call a student's function. New tensors must land where its inputs are, and inputs must stay as they are."""
    rule = "create tensors on the device of the inputs: zeros_like(x), torch.zeros(..., device=x.device)"
    tensors = [x for x in tree_leaves(arguments) if isinstance(x, torch.Tensor)]
    before = [t.clone() for t in tensors]
    try:
        with torch.device("meta"):  # a tensor that is made without device= lands there, not where the inputs are
            result = function(*arguments)
    except RuntimeError as error:
        raise Wrong(rule) if "meta" in str(error) else error from None
    if any(getattr(x, "is_meta", False) for x in tree_leaves(result)):
        raise Wrong(rule)
    if not all(map(torch.equal, tensors, before)):
        raise Wrong("a function must not change what it is given: one of the inputs has other values now")
    return result


def verify(case, function, want, **inputs):
    """Compare a student's function of these inputs with `want`, and its gradients with what small changes do."""
    same(case, call(function, *inputs.values()), want)
    for name in inputs:
        tensors = [x.clone().requires_grad_(key == name) for key, x in inputs.items()]
        if not gradcheck(function, tensors, fast_mode=True, raise_exception=False):
            raise Wrong(f"{case}: the values are right, but not the gradient for {name}")


def rows(*numbers):
    """Numbers that fit on paper."""
    return torch.tensor(numbers, dtype=torch.float64)


def random_case():
    """M tokens, N experts, widths D and d_ff, and draw(*shape)."""
    rng = torch.Generator().manual_seed(SEED)
    M, N, D, d_ff = (int(torch.randint(low, 2 * low, (), generator=rng)) for low in (6, 4, 3, 4))
    return SimpleNamespace(M=M, N=N, D=D, d_ff=d_ff,
                           draw=lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64))


def random_routing(c):
    """Three experts for each token, with gates that sum to 1/2, as Switch's need not sum to 1."""
    chosen = c.draw(c.M, c.N).argsort(1)[:, :3]
    return Routing(c.draw(c.M, 3).softmax(-1) / 2, chosen, c.draw(c.M, c.N).softmax(-1))


def visits(routing):
    """(token, expert, gate) for each expert that a token visits."""
    for t, (experts, gates) in enumerate(zip(routing.experts.tolist(), routing.gates.tolist(), strict=True)):
        for i, g in zip(experts, gates, strict=True):
            yield t, i, g


def load_of(routing):
    """u_i of each expert, visit by visit."""
    M, N = routing.probs.shape
    return [fsum(g for _, i, g in visits(routing) if i == expert) / M for expert in range(N)]


SMALL = Routing(rows([0.75, 0.25], [0.9, 0.1], [0.6, 0.2]), torch.tensor([[0, 1], [1, 2], [2, 0]]),
                rows([0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.2, 0.3, 0.5]))
SMALL_TEXT = "gates [[.75, .25], [.9, .1], [.6, .2]] of experts [[0, 1], [1, 2], [2, 0]]"


# ---- stage 1: the MoE layer and its router (3.2)
def stage1_gates():
    """g(W x) = SoftMax(TopK(W x)), and probs = SoftMax(W x) over all N experts"""
    c, small = random_case(), rows([2.0, 1.0, 0.0, -1.0], [0.0, 0.5, 3.0, 1.0])
    for name, logits, k in ((small.tolist(), small, 2), ("random", c.draw(c.M, c.N), 3)):
        kept = rows(*[[z if z in sorted(row)[-k:] else -inf for z in row] for row in logits.tolist()])
        verify(f"W x = {name}, k = {k}, gates of all experts", lambda z, k=k: model.route_topk(z, k).dense_gates(),
               kept.softmax(-1), logits=logits)
        verify(f"W x = {name}, k = {k}, probs", lambda z, k=k: model.route_topk(z, k).probs, logits.softmax(-1),
               logits=logits)


def stage1_sum():
    """FF_MoE(x) = sum_i g_i FF_i(x): the gate multiplies FF_i(x), not x, and gates of one token are added up"""
    ones, down, c = rows([[1.0]], [[1.0]], [[1.0]]), rows([[1.0]], [[2.0]], [[3.0]]), random_case()
    case = f"x = [[1], [2], [3]], FF_i(x) = (i + 1) silu(x) x, {SMALL_TEXT}"
    random_w = c.draw(c.N, c.d_ff, c.D), c.draw(c.N, c.d_ff, c.D), c.draw(c.N, c.D, c.d_ff)
    for name, x, routing, w in ((case, rows([1.0], [2.0], [3.0]), SMALL, (ones, ones, down)),
                                ("random", c.draw(c.M, c.D), random_routing(c), random_w)):
        want = torch.zeros_like(x)
        for t, i, g in visits(routing):
            want[t] += g * model.swiglu(x[t], w[0][i], w[1][i], w[2][i])
        verify(name, lambda x, gates, *w, r=routing: model.ff_moe(x, r._replace(gates=gates), *w), want,
               x=x, gates=routing.gates, w_gate=w[0], w_up=w[1], w_down=w[2])
    with torch.autocast("cpu", torch.bfloat16):
        try:
            y = model.ff_moe(x.float(), routing._replace(gates=routing.gates.float()), *(t.float() for t in w))
        except RuntimeError as error:
            raise Wrong(f"autocast, as on a GPU: FF_i(x) is bfloat16; add FF_i(x).to(y.dtype) ({error})") from None
    if y.dtype != torch.float32:
        raise Wrong(f"autocast, as on a GPU: x is float32, so the result is, too, but it is {y.dtype}")


def stage1_work():
    """an expert computes the tokens that chose it, and no others"""
    c = random_case()
    c.M, c.N = 512, 8
    with FlopCounterMode(display=False) as flops:
        model.ff_moe(c.draw(c.M, 32), random_routing(c), c.draw(8, 64, 32), c.draw(8, 64, 32), c.draw(8, 32, 64))
    want, got = 512 * 3 * 3 * 2 * 32 * 64, flops.get_total_flops()  # 3 experts of 3 matrices, 2 FLOPs for each weight
    if got != want:
        raise Wrong(f"512 tokens with 3 of 8 experts each: expected {want:,} FLOPs, got {got:,}")


def stage1_layer():
    """a layer gives W x of all tokens and the noise to self.route, then tokens, Routing, w_gate, w_up and w_down to
    self.ff_moe; it returns the result in the shape of x, and the Routing"""
    x = rows([[1.0, 2.0], [0.0, 1.0]], [[3.0, -1.0], [2.0, 2.0]])
    layer = model.MoE(GPTConfig(n_embd=2, d_ff=5, n_expert=3), layer=0).double()
    layer.router.data = rows([1.0, 0.0], [0.5, 0.5], [2.0, -1.0])
    names = {id(p): name for name, p in layer.named_parameters()} | {id(SMALL): "Routing", id("noise"): "noise"}
    seen = {"given": []}

    def route(logits, noise=None):
        seen.update(logits=logits, given=[noise])
        return SMALL

    def ff_moe(tokens, *given):
        seen.update(tokens=tokens, given=[*seen["given"], *given])
        return 3 * tokens + torch.arange(4, device=tokens.device)[:, None]

    layer.route, layer.ff_moe = route, ff_moe
    y, routing = call(layer.forward, x, "noise")
    case = "x = [[[1, 2], [0, 1]], [[3, -1], [2, 2]]], W = [[1, 0], [.5, .5], [2, -1]]"
    same(f"{case}: W x", seen.get("logits"), [[1, 1.5, 0], [0, 0.5, -1], [3, 1, 7], [2, 2, 2]])
    same(f"{case}: self.ff_moe's tokens", seen.get("tokens"), x.view(4, 2))
    given = [names.get(id(value), "another") for value in [*seen["given"], routing]]
    if given != ["noise", "Routing", "w_gate", "w_up", "w_down", "Routing"]:
        raise Wrong(f"given besides W x and tokens, and returned besides y: {given}")
    same(f"{case}: y, where self.ff_moe gives 3 x + the token's place", y, 3 * x + torch.arange(4).view(2, 2, 1))


# ---- stage 2: branch (3.1) and mix (3.2)
def stage2_branch():
    """a branch starts from the seed and reads its own domain, with 1 to 20 % of the seed's text (general, trivia), and
    nothing of the other experts' domains"""
    command = ["make", "-nB", "SHELL=false", f"-f{MAKEFILE}", "PY=python", "OUT=o", "DATA=d", "o/math.pt", "o/wiki.pt"]
    plan = subprocess.run(command, text=True, capture_output=True)
    if "stage 2: branch" in plan.stderr:
        raise NotImplementedError("stage 2: branch")
    for name in ("math", "wiki"):  # the line that trains this expert, and its mixture
        line = "".join(re.findall(rf"train_expert.*--out o/{name}\.pt.*", plan.stdout))
        mixture = "".join(re.findall(r"--data (\S+)", line))
        data = {domain: float(weight) for domain, weight in re.findall(r"(\w+)=([\d.]+)", mixture)}
        seeds = 100 - 100 * data.get(name, 0) / max(1e-9, sum(data.values()))
        if "--init o/seed.pt " not in line:
            raise Wrong(f"make o/{name}.pt: no --init o/seed.pt {plan.stderr.strip()}")
        if mixture.endswith(",") or {"math", "wiki", "code"} & data.keys() != {name} or not 1 <= seeds <= 20:
            raise Wrong(f"make o/{name}.pt: --data {mixture} has {seeds:.4g} % of other text")


def stage2_average():
    """the average of N tensors: their sum, taken in float32, divided by N; it is float32, too"""
    c, small = random_case(), [torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 2.0]]), torch.tensor([[6.0, 5.0]])]
    fine = [torch.tensor([1.0]).bfloat16(), torch.tensor([1.0078125]).bfloat16()]
    for case, tensors, want in (("[[1, 2]], [[2, 2]], [[6, 5]]", small, [[3, 3]]),
                                ("[1] and [1 + 2^-7] in bfloat16", fine, [1.00390625]),
                                ("random", [torch.full((2,), c.M), torch.full((2,), c.N)], [(c.M + c.N) / 2] * 2)):
        got = call(mix.average, tensors)
        same(case, got, want)
        if got.dtype != torch.float32:
            raise Wrong(f"{case}: expected float32, got {got.dtype}")


SPECIAL = re.compile(r"blocks\.\d+\.ff\.(w_\w+|router)")  # tensors that are not averaged


def mix_numbers(values, feed_forwards, **changes):
    """Mix models; all weights of one are the same number. Returns the mixed model, and a right one's config."""
    mix.average = lambda tensors: torch.full(tensors[0].shape, fsum(t.max().item() for t in tensors) / len(tensors))
    shape = {"vocab_size": 8, "n_layer": 2, "n_head": 1, "n_embd": 6, "d_ff": 12}
    tensors = GPT(GPTConfig(**shape)).state_dict()
    states = [{name: torch.full(t.shape, value).bfloat16() for name, t in tensors.items()} for value in values]
    config = GPTConfig(**(shape | changes))
    return mix.mix(states, config, torch.Generator().manual_seed(5), feed_forwards), config


def stage2_mix():
    """feed-forwards become experts (or are averaged, too), routers are new, all else is averaged; all float32"""
    c = random_case()
    for feed_forwards, values in (("stacked", [1.0, 2.0, 6.0]), ("averaged", [1.0, 2.0, 6.0]),
                                  ("stacked", [float(c.M), float(c.N), float(c.D)])):
        mixed, config = mix_numbers(values, feed_forwards, n_expert=3 * (feed_forwards == "stacked"))
        right, rng = GPT(config).state_dict(), torch.Generator().manual_seed(5)
        if mixed.keys() != right.keys():
            raise Wrong(f"the names of GPT(config) differ, {feed_forwards}: {sorted(mixed.keys() ^ right.keys())}")
        for name, tensor in right.items():
            want, special = torch.full(tensor.shape, fsum(values) / 3), SPECIAL.fullmatch(name)
            if special and special[1] == "router":
                want = new_router(3, 6, rng)
            elif special and feed_forwards == "stacked":
                want = torch.tensor(values).view(3, 1, 1).expand(tensor.shape)
            case = f"models whose weights all are {values}, {feed_forwards}: {name}"
            same(case, mixed[name], want)
            if mixed[name].dtype != torch.float32:
                raise Wrong(f"{case}: it is {mixed[name].dtype}")


# ---- stage 3: a step of MoE finetuning (3.2, 3.3)
def stage3_load():
    """u_i is the mean of the gate g_i over all tokens"""
    for case, routing in ((SMALL_TEXT, SMALL), ("random", random_routing(random_case()))):
        verify(case, lambda gates, r=routing: model.expert_load(r._replace(gates=gates)), load_of(routing),
               gates=routing.gates)


def batch(step):
    """The stand-in for the batch of a step: four texts of 16 tokens, and the next tokens."""
    x = (7 * torch.arange(64) ** 2 % (90 + step)).view(4, 16)
    return x, x + 1 + step


def features(x, y):
    """A batch as 8 numbers, the mean over its texts."""
    return (x[:, :8] + 2 * y[:, :8]).float().mean(0) / 100


def finetune(routing, parts, clip):
    """Run four steps of finetune_router.py with stand-ins: NLL is features · w for 8 weights w, and L_LB is w · w / 2.

    Returns w, the log, and for each micro-batch whether autocast was on, and noise and recompute.
    """
    config = GPTConfig(n_layer=2, n_head=1, n_embd=8, d_ff=8, block_size=16, n_expert=3, routing=routing)
    network, seen, log = GPT(config, torch.Generator()), [], []
    w = network.norm.weight  # ones

    def forward(x, y, noise=None, recompute=False):
        seen.append((torch.is_autocast_enabled("cpu"), noise, recompute))
        return None, (features(x, y) * w).sum(), w

    def not_model(*args, **kwargs):
        raise Wrong("call forward(...), not model(...): it may be compiled or sharded")

    GPT.forward = not_model
    training.CLIP = clip
    training.read_texts = lambda *args: ({}, {})
    training.validate = lambda *args: {}
    training.make_optimizer = lambda *args: torch.optim.SGD(network.parameters())  # AdamW hides a gradient's size
    finetune_router.load_domains = lambda folder: {}
    finetune_router.load_checkpoint = lambda path: {"spec": {}, "experts": ["a", "b", "c"], "ledger": [{"id": "x"}]}
    training.count_runs = lambda *args: 0
    finetune_router.build_model = lambda checkpoint: network
    finetune_router.wrap = lambda *args: forward
    finetune_router.get_batch = lambda texts, mixture, shape, key, *ranks: batch(step=key[2])
    finetune_router.load_balancing_loss = lambda w: (w * w).sum() / 2
    finetune_router.expert_load = lambda layer: torch.zeros(3)
    finetune_router.save_trained = lambda out, model, optimizer, fields: log.extend(fields["log"])
    finetune_router.main(f"--init=mixed.pt --out=out.pt --data=math --steps=4 --batch_size=4 --grad_accum={parts} "
                         "--alpha=3 --lr=0.1 --device=cpu --dtype=bfloat16 --recompute".split())
    return w, log, seen


def stage3_step():
    """minimise NLL + alpha L_LB, the mean over --grad_accum parts of the batch: backward, clip, step, zero"""
    for parts, clip in ((4, 1e6), (2, 0.5)):
        found, log, seen = finetune("topk", parts, clip)
        if seen != [(True, None, True)] * 4 * parts:
            raise Wrong("each part goes through forward once, within autocast, with recompute=args.recompute, and noise "
                        f"is None for top-k; in 4 steps of {parts} parts with --recompute (autocast, noise, recompute) "
                        f"are {seen[:2]} ..., {len(seen)} times")
        w = torch.ones(8)
        for step, entry in enumerate(log):
            x, y = batch(step)
            last = features(x.chunk(parts)[-1], y.chunk(parts)[-1]) @ w
            same(f"train_loss in the log, step {step + 1}, is nll of the last part", torch.tensor(entry["train_loss"]),
                 last)
            gradient = features(x, y) + 3 * w  # alpha is 3
            w = w - entry["lr"] * min(1, clip / gradient.norm()) * gradient
        same(f"weights after four steps of SGD, gradients clipped to length {clip:g}", found, w)


# ---- stage 4: load balancing (3.3)
def stage4_balance():
    """L_LB / alpha = N sum_i u_i p_i in each layer, summed over layers; u and p are means over all tokens"""
    used, c = [], random_case()

    def expert_load(routing):  # a stand-in: what all gates give, times 1, 2, 3 ...
        used.append(routing)
        (M, N), gates = routing.probs.shape, routing.gates
        return gates.sum() / M * torch.arange(1, N + 1, dtype=gates.dtype, device=gates.device)

    model.expert_load = expert_load
    one = f"one layer, {SMALL_TEXT}, probs [[.7, .2, .1], [.3, .6, .1], [.2, .3, .5]]"
    for case, layers in ((one, [SMALL]), ("two layers, random", [random_routing(c), random_routing(c)])):
        def loss(*tensors, layers=layers):
            return model.load_balancing_loss([layer._replace(gates=gates, probs=probs) for layer, gates, probs in
                                              zip(layers, tensors[::2], tensors[1::2], strict=True)])

        used.clear()
        if call(model.load_balancing_loss, layers).item() == 0:
            raise NotImplementedError("stage 4: load_balancing_loss")
        if used:  # else the student computes u again
            case += ", where a stand-in for expert_load gives sum(gates) / M times [1, 2, ..., N]"
        want, inputs = 0, {}
        for number, layer in enumerate(layers):
            load = expert_load(layer).tolist() if used else load_of(layer)
            want += len(load) * fsum(map(float.__mul__, load, layer.probs.mean(0).tolist()))
            inputs |= {f"gates of layer {number}": layer.gates, f"probs of layer {number}": layer.probs}
        verify(case, loss, want, **inputs)


# ---- stage 5: Switch and Sample Top-1 (3.3)
def largest_only(table):
    """A matrix as nested lists, with 0 for all but the largest number of a row."""
    return [[value * (value == max(row)) for value in row] for row in table.tolist()]


def stage5_switch():
    """Switch: the gate of the likeliest expert is its probability among all N; in training an expert keeps
    ceil(1.5 M / N) of its tokens at most, the surest, and the gate of the others is 0"""
    c, queue = random_case(), rows([1.0], [3.0], [2.0], [5.0], [4.0], [1.5], [2.5])
    tries = [("random", c.draw(c.M, c.N))]
    for M in (7, 6):  # 1.5 M / 5 is 2.1 and 1.8
        tries.insert(0, (f"W x = {queue[:M, 0].tolist()} for expert 0, 0 for four others",
                         torch.cat([queue[:M], torch.zeros(M, 4)], 1)))
    for name, logits in tries:
        M, N = logits.shape
        gates = largest_only(logits.softmax(-1))
        for trains in (False, True):
            if trains:  # a gate stays if fewer than the capacity are above it
                gates = [[g * (sum(row[i] > g for row in gates) < -(-3 * M // (2 * N))) for i, g in enumerate(mine)]
                         for mine in gates]
            case = f"{name}, training={trains}"
            verify(f"{case}, probs", lambda z, trains=trains: model.route_switch(z, trains).probs, logits.softmax(-1),
                   logits=logits)
            verify(f"{case}, gates of all experts",
                   lambda z, trains=trains: model.route_switch(z, trains).dense_gates(), gates, logits=logits)


def stage5_sample():
    """g = SoftMax((W x + G) / tau) with all but its largest value zeroed; in evaluation that value is 1"""
    small, noise, c = rows([2.0, 1.0, 0.0], [0.0, 0.5, 3.0]), rows([0.0, 2.0, -1.0], [1.0, 0.0, 0.5]), random_case()
    for name, logits, G, tau in ((f"W x = {small.tolist()}, G = {noise.tolist()}, tau = 0.5", small, noise, 0.5),
                                 ("random", c.draw(c.M, c.N), 2 * c.draw(c.M, c.N), 0.7)):
        def route(z, training=True, noise=Noise(G, torch.tensor(tau))):  # noqa: B008
            return model.route_sample(z, training, noise)

        gates = largest_only(((logits + G) / tau).softmax(-1))
        verify(f"{name}, training, probs, without noise", lambda z: route(z).probs, logits.softmax(-1), logits=logits)
        verify(f"{name}, training, gates of all experts", lambda z: route(z).dense_gates(), gates, logits=logits)
        same(f"{name}, evaluation with noise, gates of all experts", call(route, logits, False).dense_gates(),
             rows(*gates) > 0)
        same(f"{name}, evaluation without noise, gates of all experts", call(route, logits, False, None).dense_gates(),
             rows(*largest_only(logits.softmax(-1))) > 0)


def stage5_temperature():
    """tau = max(0.5, exp(-4 share))"""
    got = torch.tensor([float(finetune_router.temperature(share)) for share in (0.0, 0.05, 0.1, 0.5, 1.0)])
    same("shares 0, 0.05, 0.1, 0.5, 1 of the steps", got, [1, 0.818731, 0.670320, 0.5, 0.5])


def stage5_noise():
    """Sample Top-1's step draws noise for the tokens of each part, with tau of step / steps, from the step's generator,
    and gives it to forward"""
    drawn, expected = [], []

    def gumbel(config, n_tokens, tau, generator):
        drawn.append((n_tokens, tau, generator.initial_seed()))
        return drawn[-1]

    finetune_router.gumbel, finetune_router.temperature = gumbel, lambda share: share
    given = [noise for _, noise, _ in finetune("sample", parts=2, clip=1.0)[2]]
    for step in range(4):  # of 2 parts, of 2 texts of 16 tokens each
        expected += [(32, step / 4, training.step_generator("cpu", 0, 0, step, 0).initial_seed())] * 2
    if drawn != expected or given != expected:
        raise Wrong("(tokens, step / steps, seed of the generator): "
                    f"expected {expected[:2]}, drew {drawn[:2]}, gave {given[:2]}")


# ---- stage 6: splitting and blending (3.3)
TENSORS = [[10.0, 11.0, 12.0, 13.0], [20.0, 21.0, 22.0, 23.0]]


def units(name, numbers, shift):
    """Matrices whose hidden units are known by numbers: a row of w_up for each, or a column of w_down."""
    matrices = (rows(*numbers) + shift)[..., None] + rows(0.0, 0.25)  # (..., units, D = 2)
    return matrices.mT if name == "w_down" else matrices


def cut(function, name, shift, *arguments):
    """What split or blend makes of two models' matrices."""
    return call(function, f"blocks.0.ff.{name}", list(units(name, TENSORS, shift).bfloat16()), *arguments)


def stage6_split():
    """expert (i, c) is the c-th part of FF_i along d_ff, first all parts of model 0; with gates of 1 / C the C parts
    together give FF_i"""
    for C, shift, parts in ((2, 0, [[10.0, 11.0], [12.0, 13.0], [20.0, 21.0], [22.0, 23.0]]),
                            (4, random_case().M, [[number] for row in TENSORS for number in row])):
        for name in ("w_up", "w_gate", "w_down"):
            got, want = cut(mix.split, name, shift, C), units(name, parts, shift)
            case = f"split {name}, C = {C}, hidden units {TENSORS} + {shift}"
            if name == "w_down" and got.shape == want.shape:
                whole = units(name, TENSORS, shift)[0].sum(1)
                same(f"{case}, all of which are 1: FF_0(x)", got[:C].double().sum((0, 2)) / C, whole)
                got = got / got[0, 0, 0] * want[0, 0, 0]
            same(case, got, want)
    mix.split = lambda name, tensors, C: torch.tensor([*(t.max().item() for t in tensors), C])
    mixed, _ = mix_numbers([1.0, 2.0, 6.0], "split", n_expert=12, d_ff=3)
    same("mix gives split the models' tensors, and C = n_expert / 3; models of 1s, 2s and 6s, 12 experts",
         mixed["blocks.1.ff.w_up"], [1, 2, 6, 4])


def stage6_blend():
    """expert n has the n-th part of every feed-forward along d_ff; the gates are not made up for"""
    for shift in (0, random_case().M):
        for name in ("w_up", "w_gate", "w_down"):
            same(f"blend {name}, hidden units {TENSORS} + {shift}", cut(mix.blend, name, shift),
                 units(name, [[10.0, 11.0, 20.0, 21.0], [12.0, 13.0, 22.0, 23.0]], shift))
    mix.blend = lambda name, tensors: torch.tensor([t.max().item() for t in tensors])
    mixed, _ = mix_numbers([1.0, 2.0, 6.0], "blended", n_expert=3)
    same("mix gives blend the models' tensors; models of 1s, 2s and 6s", mixed["blocks.1.ff.w_up"], [1, 2, 6])
