"""The checks of the assignment: what students write, against the paper's equations for single numbers.

    python -m course.check --stage 1                # one stage; --seed 7 draws other random numbers

A check begins with fixed numbers that fit on paper. They tell right from wrong. Random numbers follow, which nobody can
know by heart. It replaces functions of other stages by stand-ins, so that a mistake costs points once. It runs in a
process of its own, so it need not put anything back.
"""
import re
import subprocess
import tempfile
from math import exp, fsum, inf
from types import SimpleNamespace

import torch
from torch.autograd import gradcheck
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import finetune_router
import mix
import model
from data import prepare
from data.loader import get_batch, load_domains
from model import GPT, GPTConfig, Noise, Routing, new_router
from support import training
from support.checkpoint import save_checkpoint

SEED = 0  # of the random cases; the grader sets another
MAKEFILE = "Makefile"


class Wrong(Exception):
    """Code that is not right: the equation that does not hold, and what differs."""


def same(equation, case, got, want, row="token"):
    """Raise Wrong with the first row that differs, unless the tensor `got` is `want`, a tensor or nested lists."""
    want = torch.as_tensor(want, dtype=torch.float64).detach()
    shape = got.shape if isinstance(got, torch.Tensor) else type(got).__name__
    if shape != want.shape:
        raise Wrong(f"{equation}\n  {case}: expected a tensor of shape {tuple(want.shape)}, got {shape}")
    n_rows = len(want) if want.ndim > 1 else 1
    rows = zip(want.reshape(n_rows, -1), got.detach().double().reshape(n_rows, -1), strict=True)
    for i, (expected, found) in enumerate(rows):
        if not torch.allclose(found, expected, rtol=1e-4, atol=1e-6):
            where = f"{row} {i}: " if want.ndim > 1 else ""
            raise Wrong(f"{equation}\n  {case}: {where}expected {shown(expected)}, got {shown(found)}")


def shown(values):
    """The first numbers of a tensor, short enough to read."""
    text = ", ".join(f"{value:.4g}" for value in values[:8].tolist())
    return f"[{text}]" if len(values) <= 8 else f"[{text}, ...]"


def call(function, *arguments):
    """Call a student's function. New tensors must land where its inputs are, and inputs must stay as they are."""
    rule = "create tensors on the device of the inputs: zeros_like(x), torch.zeros(..., device=x.device)"
    tensors = [x for x in tree_leaves(arguments) if isinstance(x, torch.Tensor)]
    before = [t.detach().clone() for t in tensors]
    try:
        with torch.device("meta"):  # a tensor that is made without device= lands there, not where the inputs are
            result = function(*arguments)
    except RuntimeError as error:
        raise Wrong(f"{rule}\n  {error}") if "meta" in str(error) else error from None
    if any(x.is_meta for x in tree_leaves(result) if isinstance(x, torch.Tensor)):
        raise Wrong(f"{rule}\n  the result is on another device")
    if not all(map(torch.equal, tensors, before)):
        raise Wrong("a function must not change what it is given\n  one of the inputs has other values now")
    return result


def verify(equation, case, function, want, **inputs):
    """Compare a student's function of these inputs with `want`, and its gradients with what small changes do."""
    same(equation, case, call(function, *inputs.values()), want)
    for name in inputs:
        tensors = [x.detach().clone().requires_grad_(key == name) for key, x in inputs.items()]
        if not gradcheck(function, tensors, fast_mode=True, raise_exception=False):
            raise Wrong(f"{equation}\n  {case}: the values are right, but not the gradient for {name}")


def rows(*numbers):
    """Numbers that fit on paper."""
    return torch.tensor(numbers, dtype=torch.float64)


def cases():
    """Yield two random cases: M tokens, N experts, k experts for each token, widths D and d_ff, and draw(*shape)."""
    for i in range(2):
        rng = torch.Generator().manual_seed(1000 * SEED + i)
        M, N, D, d_ff = (int(torch.randint(low, 2 * low, (), generator=rng)) for low in (6, 3, 3, 4))

        def draw(*shape, rng=rng):
            return torch.randn(*shape, generator=rng, dtype=torch.float64)

        yield SimpleNamespace(draw=draw, M=M, N=N, k=2 + i, D=D, d_ff=d_ff)


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
    """u_i of each expert, visit by visit."""
    M, N = routing.probs.shape
    return [fsum(g for _, i, g in visits(routing) if i == expert) / M for expert in range(N)]


def dense(routing):
    """The gates of all experts, (M, N), of a student's router."""
    gates, experts, probs = routing
    if gates.shape != experts.shape or gates.shape[:-1] != probs.shape[:1] or experts.dtype != torch.int64:
        raise Wrong("gates and experts are (M, k), also for k = 1; experts are int64\n"
                    f"  got {tuple(gates.shape)} and {tuple(experts.shape)}, {experts.dtype}")
    return Routing(*routing).dense_gates()


def random_routing(c, k):
    """k experts for each token of a case, whose gates sum to 1 / (k - 1), as Switch's need not sum to 1."""
    chosen = c.draw(c.M, c.N).argsort(1)[:, :k]
    return Routing(c.draw(c.M, k).softmax(-1) / (k - 1), chosen, c.draw(c.M, c.N).softmax(-1))


def matrices(c):
    return c.draw(c.N, c.d_ff, c.D), c.draw(c.N, c.d_ff, c.D), c.draw(c.N, c.D, c.d_ff)


SMALL = Routing(rows([0.75, 0.25], [0.9, 0.1], [0.6, 0.2]), torch.tensor([[0, 1], [1, 2], [2, 0]]),
                rows([0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.2, 0.3, 0.5]))
SMALL_TEXT = "gates [[.75, .25], [.9, .1], [.6, .2]] of experts [[0, 1], [1, 2], [2, 0]]"
LAYER = "FF_MoE(x) = sum_i g_i FF_i(x): the gate multiplies FF_i(x), not x; an expert computes the tokens that chose it"


# ---- stage 1: the MoE layer and its router (3.2)
def stage1_gates():
    equation = "g(W x) = SoftMax(TopK(W x)), and probs = SoftMax(W x) over all N experts"
    small = rows([2.0, 1.0, 0.0, -1.0], [0.0, 0.5, 3.0, 1.0], [-2.0, 1.0, -3.0, 0.5])
    for name, logits, k in [(small.tolist(), small, 2), *(("random", c.draw(c.M, c.N), c.k) for c in cases())]:
        kept = [[z if z in sorted(row)[-k:] else -inf for z in row] for row in logits.tolist()]
        case = f"W x = {name}, k = {k}"
        verify(equation, f"{case}, gates of all experts", lambda z, k=k: dense(model.route_topk(z, k)),
               [softmax_of(row) for row in kept], logits=logits)
        verify(equation, f"{case}, probs", lambda z, k=k: model.route_topk(z, k).probs,
               [softmax_of(row) for row in logits.tolist()], logits=logits)


def stage1_sum():
    ones, down = rows([[1.0]], [[1.0]], [[1.0]]), rows([[1.0]], [[2.0]], [[3.0]])
    case = f"x = [[1], [2], [3]], FF_i(x) = (i + 1) silu(x) x, {SMALL_TEXT}"
    tries = [(case, rows([1.0], [2.0], [3.0]), SMALL, (ones, ones, down))]
    for c in cases():
        tries.append(("random", c.draw(c.M, c.D), random_routing(c, c.k), matrices(c)))
    nobody_chose_0 = random_routing(c, 2)._replace(experts=torch.tensor([[c.N - 1, 1]] * c.M))
    tries.append(("nobody chose expert 0", c.draw(c.M, c.D), nobody_chose_0, matrices(c)))
    for case, x, routing, w in tries:
        want = torch.zeros_like(x)
        for t, i, g in visits(routing):
            want[t] += g * torch.tensor(swiglu_of(x[t].tolist(), *(matrix[i].tolist() for matrix in w)))
        verify(LAYER, case, lambda x, gates, *w, r=routing: model.ff_moe(x, r._replace(gates=gates), *w), want,
               x=x, gates=routing.gates, w_gate=w[0], w_up=w[1], w_down=w[2])
    rule = "under autocast, as on a GPU, FF_i(x) is bfloat16; convert it to the sum's dtype before adding: .to(y.dtype)"
    with torch.autocast("cpu", torch.bfloat16):
        try:
            y = model.ff_moe(x.float(), routing._replace(gates=routing.gates.float()), *(m.float() for m in w))
        except RuntimeError as error:
            raise Wrong(f"{rule}\n  {error}") from None
    if y.dtype != torch.float32:
        raise Wrong(f"{rule}\n  x is float32, but the result is {y.dtype}")


def stage1_work():
    c = next(cases())
    c.M, c.N, c.D, c.d_ff = 512, 8, 32, 64
    with FlopCounterMode(display=False) as flops:
        model.ff_moe(c.draw(c.M, c.D), random_routing(c, 2), *matrices(c))
    want, got = 2 * 3 * c.M * 2 * c.D * c.d_ff, flops.get_total_flops()  # 2 for each weight of 3 matrices of 2 experts
    if got != want:
        raise Wrong(f"{LAYER}\n  512 tokens with 2 of 8 experts each: expected {want:,} FLOPs, got {got:,}")


def stage1_layer():
    equation = "a layer computes W x for all tokens of all sequences, gives it and the noise to self.route, then the " \
               "tokens, the Routing, w_gate, w_up and w_down to self.ff_moe; it returns that in the shape of x, and " \
               "the Routing"
    x = rows([[1.0, 2.0], [0.0, 1.0]], [[3.0, -1.0], [2.0, 2.0]])
    layer = model.MoE(GPTConfig(n_embd=2, d_ff=5, n_expert=3), layer=0).double()
    layer.router.data = rows([1.0, 0.0], [0.5, 0.5], [2.0, -1.0])
    seen = {}

    def route(logits, noise=None):
        seen.update(logits=logits, noise=noise)
        return "the Routing"

    def ff_moe(tokens, *given):
        seen.update(tokens=tokens, given=given)
        return 3 * tokens + torch.arange(4, device=tokens.device)[:, None]

    layer.route, layer.ff_moe = route, ff_moe
    result = call(layer.forward, x, "noise")
    case = "x = [[[1, 2], [0, 1]], [[3, -1], [2, 2]]], W = [[1, 0], [.5, .5], [2, -1]]"
    if seen.keys() != {"logits", "noise", "tokens", "given"} or seen["noise"] != "noise":
        raise Wrong(f"{equation}\n  {case}: self.route or self.ff_moe was not called, or without the noise")
    same(equation, f"{case}: W x", seen["logits"], [[1, 1.5, 0], [0, 0.5, -1], [3, 1, 7], [2, 2, 2]])
    same(equation, f"{case}: what self.ff_moe gets", seen["tokens"], x.view(4, 2))
    names = {id(p): name for name, p in layer.named_parameters()} | {id("the Routing"): "the Routing"}
    given = [names.get(id(value), "another") for value in seen["given"]]
    if given != ["the Routing", "w_gate", "w_up", "w_down"]:
        raise Wrong(f"{equation}\n  after the tokens self.ff_moe got {given}")
    if not (isinstance(result, tuple) and len(result) == 2 and result[1] == "the Routing"):
        raise Wrong(f"{equation}\n  it does not return two values, the second of which is the Routing")
    want = 3 * x + torch.arange(4).view(2, 2, 1)
    same(equation, f"{case}: the output, where self.ff_moe adds a token's place to 3 x", result[0], want, "sequence")


# ---- stage 2: branch (3.1) and mix (3.2)
def stage2_branch():
    equation = "a branch starts from the seed and reads its own domain, with a little of the seed's text (general, " \
               "trivia), 1 to 20 %, and nothing of the other experts' domains"
    command = ["make", "-nB", "SHELL=false", f"-f{MAKEFILE}", "PY=python", "OUT=o", "DATA=d", "o/math.pt", "o/wiki.pt"]
    plan = subprocess.run(command, text=True, capture_output=True)
    if "stage 2: branch" in plan.stderr:
        raise NotImplementedError("stage 2: branch")
    for name in ("math", "wiki"):  # the line that trains this expert, and its mixture
        line = "".join(re.findall(rf"train_expert.*--out o/{name}\.pt.*", plan.stdout))
        mixture = "".join(re.findall(r"--data (\S+)", line))
        data = {domain: float(weight) for domain, weight in re.findall(r"(\w+)=([\d.]+)", mixture)}
        own = data.get(name, 0) / (sum(data.values()) or 1)
        if "--init o/seed.pt " not in line:
            problem = f"it does not start from --init o/seed.pt {plan.stderr.strip()}"
        elif mixture.endswith(","):
            problem = "a mixture has no spaces: what follows one is another option"
        elif {"math", "wiki", "code"} & data.keys() != {name}:
            problem = f"{data} lacks its domain {name}, or has other experts' domains"
        elif not 0.01 <= 1 - own <= 0.2:
            problem = f"{100 - 100 * own:.4g} % of the seed's text"
        else:
            continue
        raise Wrong(f"{equation}\n  make o/{name}.pt: {problem}")


def stage2_average():
    equation = "the average of N tensors: their sum, taken in float32, divided by N; it is float32, too"
    small = [rows([1.0, 2.0], [3.0, 4.0]), rows([2.0, 2.0], [2.0, 2.0]), rows([6.0, 5.0], [4.0, 0.0])]
    tries = [("[[1, 2], [3, 4]], [[2, 2], [2, 2]], [[6, 5], [4, 0]]", [t.float() for t in small]),
             ("[1, 3] and [1 + 2^-7, 3] in bfloat16", [rows(1.0, 3.0).bfloat16(), rows(1.0078125, 3.0).bfloat16()])]
    tries += [("random", [c.draw(c.M).float() for _ in range(c.N)]) for c in cases()]
    for case, tensors in tries:
        got = call(mix.average, tensors)
        numbers = zip(*(t.flatten().tolist() for t in tensors), strict=True)
        want = rows(*(fsum(values) / len(values) for values in numbers)).view(tensors[0].shape)
        same(equation, case, got, want, "row")
        if got.dtype != torch.float32:
            raise Wrong(f"{equation}\n  {case}: expected float32, got {got.dtype}")


RULES = {name: "averaged" for name in ("embed.weight", "head.weight", "norm.weight", "attn_norm.weight",
                                       "ff_norm.weight", *(f"attn.w{part}.weight" for part in "qkvo"))}
RULES |= {"ff.w_gate": "stacked", "ff.w_up": "stacked", "ff.w_down": "stacked", "ff.router": "new"}


def right_rule(name, feed_forwards="stacked"):
    """What mix.rule_for should say."""
    rule = RULES[re.sub(r"blocks\.\d+\.", "", name)]
    return feed_forwards if rule == "stacked" else rule


def stage2_rules():
    for name in GPT(GPTConfig(n_layer=12, n_embd=4, d_ff=4, n_expert=2)).state_dict():
        for feed_forwards in ("stacked", "averaged"):
            got, want = mix.rule_for(name, feed_forwards), right_rule(name, feed_forwards)
            if repr(got) != repr(want):
                raise Wrong("feed-forwards are stacked (or what the second argument says), routers are new, all else "
                            f"is averaged\n  {name}, {feed_forwards}: expected {want!r}, got {got!r}")


def mix_numbers(values, feed_forwards, **changes):
    """Mix models; all weights of one are the same number. Returns the mixed model, and a right one's config."""
    mix.average = lambda tensors: torch.full(tensors[0].shape, fsum(t.max().item() for t in tensors) / len(tensors))
    mix.rule_for = right_rule
    shape = {"vocab_size": 8, "n_layer": 2, "n_head": 1, "n_embd": 6, "d_ff": 12}
    dense_model = GPT(GPTConfig(**shape)).state_dict()
    states = [{name: torch.full(t.shape, value).bfloat16() for name, t in dense_model.items()} for value in values]
    config = GPTConfig(**(shape | changes))
    return mix.mix(states, config, torch.Generator().manual_seed(5), feed_forwards), config


def stage2_mix():
    equation = "feed-forwards become experts (or are averaged, too), routers are new, all else is averaged; all float32"
    tries = [("stacked", [1.0, 2.0, 6.0]), ("averaged", [1.0, 2.0, 6.0])]
    tries += [("stacked", (8 * c.draw(3)).round().tolist()) for c in cases()]
    for feed_forwards, values in tries:
        mixed, config = mix_numbers(values, feed_forwards, n_expert=3 * (feed_forwards == "stacked"))
        right, rng = GPT(config).state_dict(), torch.Generator().manual_seed(5)
        if mixed.keys() != right.keys():
            raise Wrong(f"the mixed model has the names of GPT(config)\n  {feed_forwards}: {sorted(mixed)}")
        for name, tensor in right.items():
            case = f"models whose weights all are {values}, {feed_forwards}: {name}"
            want = torch.full(tensor.shape, fsum(values) / 3)
            if right_rule(name) == "new":
                want, case = new_router(3, 6, rng), f"{case}: new_router's numbers, layer after layer"
            elif right_rule(name, feed_forwards) == "stacked":
                want = torch.tensor(values).view(3, 1, 1).expand(tensor.shape)
            same(equation, case, mixed[name], want, "expert" if want.ndim == 3 else "row")
            if mixed[name].dtype != torch.float32:
                raise Wrong(f"{equation}\n  {case}: it is {mixed[name].dtype}")


# ---- stage 3: a step of MoE finetuning (3.2, 3.3)
def stage3_load():
    equation = "u_i is the mean of the gate g_i over all tokens"
    for case, routing in [(SMALL_TEXT, SMALL), *(("random", random_routing(c, c.k)) for c in cases())]:
        verify(equation, case, lambda gates, r=routing: model.expert_load(r._replace(gates=gates)), load_of(routing),
               gates=routing.gates)


def features(x, y):
    """A batch as 8 numbers, the mean over its sequences."""
    return (x[:, :8] + 2 * y[:, :8]).float().mean(0) / 1000


def finetune(routing, parts, clip):
    """Run four steps of finetune_router.py with stand-ins: NLL is features · w for 8 weights w, and L_LB is w · w / 2.

    Returns w, the log, the four batches, and for each micro-batch whether autocast was on, and noise and recompute.
    """
    seen, saved = [], {}

    def wrap(network, device, shard):
        def forward(x, y, noise=None, recompute=False):
            seen.append((torch.is_autocast_enabled("cpu"), noise, recompute))
            return None, (features(x, y) * network.norm.weight).sum(), network.norm.weight

        return forward

    def not_this(*args, **kwargs):
        raise Wrong("call forward(...), which may be compiled or sharded, as train_expert.py does\n  it calls model(...)")

    GPT.forward, finetune_router.wrap, training.CLIP = not_this, wrap, clip
    finetune_router.load_balancing_loss = lambda w: (w * w).sum() / 2
    finetune_router.expert_load = lambda layer: torch.zeros(3)
    training.make_optimizer = lambda network, args: torch.optim.SGD(network.parameters())  # AdamW hides a gradient's size
    training.validate = lambda *args: {}
    finetune_router.save_trained = lambda out, network, _, fields: saved.update(fields, w=network.norm.weight)
    with tempfile.TemporaryDirectory() as folder:
        prepare.main(["--domains=math", "--train_tokens=2000", "--val_tokens=300", "--tasks=2", f"--out={folder}"])
        domain = load_domains(folder)["math"]
        config = GPTConfig(n_layer=2, n_head=1, n_embd=8, d_ff=8, block_size=16, n_expert=3, routing=routing)
        save_checkpoint(f"{folder}/mixed.pt", {
            "state": GPT(config, torch.Generator()).state_dict(), "config": vars(config), "spec": domain.meta["spec"],
            "experts": ["a", "b", "c"], "ledger": [{"id": "x", "settings": {}}], "log": []})
        options = {"init": f"{folder}/mixed.pt", "out": f"{folder}/out.pt", "data": "math", "data_dir": folder,
                   "steps": 4, "batch_size": 4, "grad_accum": parts, "alpha": 3, "lr": 0.1, "device": "cpu",
                   "dtype": "bfloat16"}
        finetune_router.main(["--recompute"] * (parts == 2) + [f"--{name}={value}" for name, value in options.items()])
        batches = [get_batch({"math": domain.train}, {"math": 1.0}, (4, 16), (0, 0, step)) for step in range(4)]
    return saved["w"], saved["log"], batches, seen


def stage3_step():
    equation = "minimise NLL + alpha L_LB, the mean over --grad_accum parts of the batch: backward, clip, step, zero"
    for parts, clip in ((4, 1e6), (2, 0.5)):
        found, log, batches, seen = finetune("topk", parts, clip)
        if seen != [(True, None, parts == 2)] * 4 * parts:
            raise Wrong("each of the --grad_accum parts goes through forward once, within autocast, with "
                        f"recompute=args.recompute, and noise is None for top-k\n  4 steps of {parts} parts: (autocast, "
                        f"noise, recompute) are {seen[:2]} ..., {len(seen)} times")
        w = torch.ones(8)
        for (x, y), entry in zip(batches, log, strict=True):
            last = features(x.chunk(parts)[-1], y.chunk(parts)[-1]) @ w
            same("the log's train_loss is nll, the language model's loss of the last part", f"step {entry['step']}",
                 torch.tensor(entry["train_loss"]), last)
            gradient = features(x, y) + 3 * w  # alpha is 3
            w = w - entry["lr"] * min(1, clip / gradient.norm()) * gradient
        same(equation, f"weights after four steps of SGD, where gradients are clipped to length {clip:g}", found, w)


# ---- stage 4: load balancing (3.3)
def stage4_balance():
    equation = "L_LB / alpha = N sum_i u_i p_i in each layer, summed over layers; u and p are means over all tokens"
    used = []

    def expert_load(routing):  # a stand-in: what all gates give, times 1, 2, 3 ...
        used.append(routing)
        (M, N), gates = routing.probs.shape, routing.gates
        return gates.sum() / M * torch.arange(1, N + 1, dtype=gates.dtype, device=gates.device)

    model.expert_load = expert_load
    other = Routing(SMALL.gates / 2, torch.tensor([[0, 1], [0, 1], [0, 1]]), SMALL.probs.flip(1))
    tries = [(f"one layer, {SMALL_TEXT}, probs [[.7, .2, .1], [.3, .6, .1], [.2, .3, .5]]", [SMALL]),
             ("two layers: this one, and one with half the gates, experts [0, 1] and probs reversed", [SMALL, other])]
    tries += [("random, two layers", [random_routing(c, c.k), random_routing(c, c.k)]) for c in cases()]
    for case, layers in tries:
        used.clear()
        if call(model.load_balancing_loss, layers).item() == 0:
            raise NotImplementedError("stage 4: load_balancing_loss")
        if used:  # else the student computes u again
            case += ", where a stand-in for expert_load gives sum(gates) / M times [1, 2, ..., N]"
        loads = [expert_load(layer).tolist() if used else load_of(layer) for layer in layers]
        want = 0
        for load, (_, _, probs) in zip(loads, layers, strict=True):
            M, N = probs.shape
            want += N * fsum(u * row[i] for i, u in enumerate(load) for row in probs.tolist()) / M

        def loss(*tensors, layers=layers):
            pairs = zip(layers, tensors[::2], tensors[1::2], strict=True)
            return model.load_balancing_loss([layer._replace(gates=gates, probs=probs) for layer, gates, probs in pairs])

        inputs = {}
        for i, layer in enumerate(layers):
            inputs |= {f"gates of layer {i}": layer.gates, f"probs of layer {i}": layer.probs}
        verify(equation, case, loss, want, **inputs)


# ---- stage 5: Switch and Sample Top-1 (3.3)
def stage5_switch():
    equation = "Switch: the gate of the likeliest expert is its probability among all N; in training an expert keeps " \
               "ceil(1.5 M / N) of its tokens at most, the surest, and the gate of the others is 0"
    few = rows([5.0, 5.1, 0.0], [0.3, 0.0, 0.0], [0.4, 0.0, 0.0], [0.2, 0.0, 0.0], [0.0, 0.2, 0.0])
    tries = [(f"W x = {few.tolist()}", few)]
    for M in (6, 7):  # 1.5 M / 5 is 1.8 and 2.1
        one = torch.zeros(M, 5, dtype=torch.float64)
        one[:, 1] = rows(1.0, 3.0, 2.0, 5.0, 4.0, 1.5, 2.5)[:M]
        tries.append((f"W x = {one[:, 1].tolist()} for expert 1, 0 for four others", one))
    tries += [("random", c.draw(c.M, c.N)) for c in cases()]
    for name, logits in tries:
        M, N = logits.shape
        probs = [softmax_of(row) for row in logits.tolist()]
        gates = [largest_only(row) for row in probs]
        for training_now in (False, True):
            if training_now:  # a gate stays if fewer than the capacity are above it
                gates = [[g * (sum(row[i] > g for row in gates) < -(-3 * M // (2 * N))) for i, g in enumerate(mine)]
                         for mine in gates]
            case = f"{name}, training={training_now}"
            verify(equation, f"{case}, probs", lambda z, t=training_now: model.route_switch(z, t).probs, probs,
                   logits=logits)
            verify(equation, f"{case}, gates of all experts",
                   lambda z, t=training_now: dense(model.route_switch(z, t)), gates, logits=logits)


def stage5_sample():
    equation = "g = SoftMax((W x + G) / tau) with all but its largest value zeroed; in evaluation that value is 1"
    small = rows([2.0, 1.0, 0.0], [0.0, 0.5, 3.0]), rows([0.0, 2.0, -1.0], [1.0, 0.0, 0.5])
    tries = [(f"W x = {small[0].tolist()}, G = {small[1].tolist()}, tau = 0.5", *small, 0.5)]
    tries += [("random", c.draw(c.M, c.N), 2 * c.draw(c.M, c.N), 0.7) for c in cases()]
    for case, logits, G, tau in tries:
        noise = Noise(G, torch.tensor(tau))
        gates = [largest_only(softmax_of(row)) for row in ((logits + G) / tau).tolist()]
        drawn = [[float(g > 0) for g in row] for row in gates]
        likeliest = [[float(z == max(row)) for z in row] for row in logits.tolist()]
        verify(equation, f"{case}, training, probs, without noise",
               lambda z, noise=noise: model.route_sample(z, True, noise).probs,
               [softmax_of(row) for row in logits.tolist()], logits=logits)
        verify(equation, f"{case}, training, gates of all experts",
               lambda z, noise=noise: dense(model.route_sample(z, True, noise)), gates, logits=logits)
        for where, given, want in (("with noise", noise, drawn), ("without noise", None, likeliest)):
            got = dense(call(model.route_sample, logits, False, given))
            same(equation, f"{case}, evaluation {where}, gates of all experts", got, want)


def stage5_temperature():
    shares = [0.0, 0.05, 0.1, 0.5, 1.0]
    got = torch.tensor([float(finetune_router.temperature(share)) for share in shares])
    want = [1, 0.818731, 0.670320, 0.5, 0.5]
    same("tau = max(0.5, exp(-4 share))", f"shares {shares} of the steps", got, want)


def stage5_noise():
    equation = "Sample Top-1's step draws noise for the tokens of each part, with tau of step / steps, from the " \
               "step's generator, and gives it to forward"
    drawn, expected = [], []

    def gumbel(config, n_tokens, tau, generator):
        drawn.append((n_tokens, tau - 10, generator.initial_seed()))
        return drawn[-1]

    finetune_router.gumbel, finetune_router.temperature = gumbel, lambda share: 10 + share
    seen = finetune("sample", parts=2, clip=1.0)[3]
    for step in range(4):  # of 2 parts, of 2 sequences of 16 tokens each
        expected += [(32, step / 4, training.step_generator("cpu", 0, 0, step, 0).initial_seed())] * 2
    if drawn != expected:
        raise Wrong(f"{equation}\n  (tokens, step / steps, seed of the generator): expected {expected[:3]} ..., "
                    f"got {drawn[:3]} ...")
    if [noise for _, noise, _ in seen] != expected:
        raise Wrong(f"{equation}\n  forward gets {seen[0][1]}, not what gumbel gave")


# ---- stage 6: splitting and blending (3.3)
def units(name, numbers, shift):
    """Matrices whose hidden units are known by numbers: a row of w_up for each, or a column of w_down."""
    matrices = (torch.tensor(numbers) + shift)[..., None] + torch.tensor([0.0, 0.25])  # (..., units, D = 2)
    return matrices.mT if name == "w_down" else matrices


def stage6_split():
    equation = "expert (i, c) is the c-th part of FF_i along d_ff, first all parts of model 0; with gates of 1 / C " \
               "the C parts together give FF_i"
    tensors = [[10.0, 11.0, 12.0, 13.0], [20.0, 21.0, 22.0, 23.0]]
    parts = {2: [[10.0, 11.0], [12.0, 13.0], [20.0, 21.0], [22.0, 23.0]],
             4: [[10.0], [11.0], [12.0], [13.0], [20.0], [21.0], [22.0], [23.0]]}
    for C, shift in ((2, 0), (4, 0), *((2, c.M) for c in cases())):
        for name in ("w_up", "w_gate", "w_down"):
            got = call(mix.split, f"blocks.0.ff.{name}", list(units(name, tensors, shift).bfloat16()), C)
            case, want = f"split {name}, C = {C}, hidden units {tensors} + {shift}", units(name, parts[C], shift)
            if name == "w_down" and got.shape == want.shape:
                whole = units(name, tensors, shift)[0].sum(1)
                same(equation, f"{case}, all of which are 1: FF_0(x)", got[:C].sum((0, 2)) / C, whole)
                got = got / got[0, 0, 0] * want[0, 0, 0]
            same(equation, case, got, want, "expert")
    mix.split = lambda name, tensors, C: torch.tensor([*(t.max().item() for t in tensors), C])
    mixed, _ = mix_numbers([1.0, 2.0, 6.0], "split", n_expert=12, d_ff=3)
    same("mix gives split the three models' tensors, and C = n_expert / 3", "models of 1s, 2s and 6s, 12 experts",
         mixed["blocks.1.ff.w_up"], [1, 2, 6, 4])


def stage6_blend():
    equation = "expert n has the n-th part of every feed-forward along d_ff; the gates are not made up for"
    two = [[10.0, 11.0, 12.0, 13.0], [20.0, 21.0, 22.0, 23.0]], [[10.0, 11.0, 20.0, 21.0], [12.0, 13.0, 22.0, 23.0]]
    three = [[10.0, 11.0, 12.0], [20.0, 21.0, 22.0], [30.0, 31.0, 32.0]], \
            [[10.0, 20.0, 30.0], [11.0, 21.0, 31.0], [12.0, 22.0, 32.0]]
    for (tensors, parts), shift in ((two, 0), (three, 0), *((two, c.M) for c in cases())):
        for name in ("w_up", "w_gate", "w_down"):
            got = call(mix.blend, f"blocks.0.ff.{name}", list(units(name, tensors, shift).bfloat16()))
            same(equation, f"blend {name}, hidden units {tensors} + {shift}", got, units(name, parts, shift), "expert")
    mix.blend = lambda name, tensors: torch.tensor([t.max().item() for t in tensors])
    mixed, _ = mix_numbers([1.0, 2.0, 6.0], "blended", n_expert=3)
    same("mix gives blend the three models' tensors", "models of 1s, 2s and 6s", mixed["blocks.1.ff.w_up"], [1, 2, 6])
