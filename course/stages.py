"""The checks of the assignment, which compare what students write with the paper's equations for single numbers.

A check begins with fixed numbers that fit on paper; random ones follow. check.py shows its docstring. Stand-ins replace
functions of other stages, so that a mistake costs points only once. A check calls a student's functions, and sets their
stand-ins, only within a function that it gives to `ask`, which calls it in a process of its own.
"""
from copy import deepcopy
from functools import partial
from math import ceil, inf
from unittest.mock import Mock, patch

import torch
from torch.autograd import gradcheck
from torch.func import functional_call
from torch.nn.functional import one_hot
from torch.utils.flop_counter import FlopCounterMode

import finetune_router
import mix
import model
from model import GPT, GPTConfig, Noise, Routing, new_router
from support import training

tensor = partial(torch.tensor, dtype=torch.float64)
draw = partial(torch.randn, dtype=torch.float64)  # random numbers; check.py sets the seed
torch.optim.SGD([torch.zeros(1)])  # the first optimizer imports 800 modules, for a second: here, not in each check


SPLIT, BLEND = mix.split, mix.blend  # of the handout


def ask(function):
    """Call a function. check.py replaces this by a call in a new process, which imports a student's files."""
    return function()


def same(case, got, want, dtypes=(torch.float32, torch.float64, torch.int64)):
    """Assert that the tensor `got` equals `want`, a tensor or nested lists. The message shows the first other row."""
    want = torch.as_tensor(want, dtype=torch.float64)
    assert isinstance(got, torch.Tensor) and got.shape == want.shape, (
        f"{case}: expected a tensor of shape {tuple(want.shape)}, got {getattr(got, 'shape', type(got))}")
    assert not got.is_meta and got.dtype in dtypes, (
        f"{case}: expected float32 on the device of the inputs, got {got.dtype} on {got.device}")
    got = got.detach().double()
    for i, (expected, found) in enumerate(zip(torch.atleast_1d(want), torch.atleast_1d(got), strict=True)):
        texts = [", ".join(f"{value:.4g}" for value in row.flatten()[:8].tolist()) for row in (expected, found)]
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6), (
            f"{case}, [{i}]: expected {texts[0]}, got {texts[1]}")


def tensor_on_meta(data, make=torch.tensor, **options):
    """torch.tensor, but a single number stays on the CPU: a GPU takes such a number, too."""
    if isinstance(data, (int, float)):
        options.setdefault("device", "cpu")
    return make(data, **options)


def call(function, *arguments):
    """Call a lambda that calls a student's function. It must not change its inputs. Tensors made without device= are on
    another device."""
    def call_it():
        before, result = repr(arguments), None  # repr shows all numbers, as inputs are small
        try:
            with torch.device("meta"), patch("torch.tensor", tensor_on_meta):
                result = function(*arguments)
        except RuntimeError as error:  # a copy from meta to the CPU, or .item() there, is not implemented, but right
            if not isinstance(error, NotImplementedError) and ".item()" not in str(error):
                raise
        if getattr(result, "shape", ()) == ():  # a single number may be on the CPU, and so may what is moved later
            result = function(*arguments)
        assert repr(arguments) == before, "do not change what a function is given: one of its inputs has other values"
        return result
    return ask(call_it)


def verify(case, function, want, *inputs):
    """Compare a student's function of these inputs with `want`, and its gradients with finite differences."""
    same(case, call(function, *inputs), want)
    xs = [x.clone().requires_grad_() for x in inputs]
    tolerance = {"eps": 1e-3, "atol": 1e-3, "rtol": 1e-2, "fast_mode": True}  # students may compute in float32
    assert ask(lambda: gradcheck(lambda *xs: function(*xs).double(), xs, **tolerance, raise_exception=False)), (
        f"{case}: the values are right, but not the gradients; is something detached?")


def verify_router(case, route, logits, gates, experts):
    """Compare a student's router with probs = SoftMax(W x), the gates of all experts, (M, N), and experts, (M, k)."""
    verify(f"{case}, probs", lambda z: route(z).probs, logits.softmax(-1), logits)
    verify(f"{case}, gates of all experts", lambda z: route(z).dense_gates(), gates, logits)
    same(f"{case}, experts, sorted", ask(lambda: route(logits).experts.sort()[0]), experts.sort()[0])


def apart(M, N):
    """Random logits that differ by 0.5 or more within a row, so that the steps of finite differences swap none."""
    return draw(M, N).argsort(1) + draw(M, N).sigmoid() / 2


def random_routing(M=7):
    """Three of five experts for each of M tokens, never the last. Their gates sum to 1/2, because those of Switch need
    not sum to 1."""
    return Routing(draw(M, 3).softmax(-1) / 2, draw(M, 4).topk(3)[1], draw(M, 5).softmax(-1))


SMALL = Routing(tensor([[0.75, 0.25], [0.9, 0.1], [0.6, 0.2]]), torch.tensor([[0, 1], [1, 2], [2, 0]]),
                tensor([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.2, 0.3, 0.5]]))
SMALL_TEXT = "gates [[.75, .25], [.9, .1], [.6, .2]] of experts [[0, 1], [1, 2], [2, 0]]"


# ---- stage 1: the MoE layer and its router (3.2)
def stage1_gates():
    """g(W x) = SoftMax(TopK(W x)), and probs = SoftMax(W x) over all N experts"""
    small = tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 0.5, 3.0, 1.0]])
    for name, logits, k in ((small.tolist(), small, 2), ("random", apart(7, 5), 3), ("one token", apart(1, 5), 5)):
        kept = tensor([[z if z in sorted(row)[-k:] else -inf for z in row] for row in logits.tolist()])
        verify_router(f"W x = {name}, k = {k}", lambda z, k=k: model.route_topk(z, k), logits, kept.softmax(-1),
                      logits.topk(k)[1])


def stage1_sum():
    """FF_MoE(x) = sum_i g_i FF_i(x): the gate multiplies FF_i(x), not x, and what a token's experts give is added up;
    under autocast FF_i(x) is bfloat16, but x, the gates and the result are float32; a single token is possible, and so
    is an expert that no token chose"""
    five = draw(5, 6, 4), draw(5, 6, 4), draw(5, 4, 6)
    ones, small = tensor([[[1.0]], [[1.0]], [[1.0]]]), f"x = [[1], [2], [3]], FF_i(x) = (i + 1) silu(x) x, {SMALL_TEXT}"
    for case, x, routing, w in (
            (small, tensor([[1.0], [2.0], [3.0]]), SMALL, (ones, ones, tensor([[[1.0]], [[2.0]], [[3.0]]]))),
            ("M = 1, experts 4, 0, 2", draw(1, 4), random_routing(1)._replace(experts=torch.tensor([[4, 0, 2]])), five),
            ("random", draw(7, 4), random_routing(), five)):
        experts = [model.swiglu(x, *matrices) for matrices in zip(*w, strict=True)]  # each computes every token
        want = (routing.dense_gates()[..., None] * torch.stack(experts, 1)).sum(1)
        verify(case, lambda x, gates, *w, r=routing: model.ff_moe(x, r._replace(gates=gates), *w), want,
               x, routing.gates, *w)
    inputs = x.float(), routing._replace(gates=routing.gates.float()), *(matrix.float() for matrix in w)
    autocast = torch.autocast("cpu", torch.bfloat16)  # as on a GPU: FF_i(x) is bfloat16, x and the gates are float32
    y = ask(lambda: autocast(model.ff_moe)(*inputs))
    assert y.dtype == torch.float32, f"under autocast x is float32, so the result is, too, but it is {y.dtype}"


def stage1_work():
    """an expert computes the tokens that chose it, and no others, all at once: loop over experts, not over tokens"""
    M = torch.randint(15, 29, ()).item()  # nobody can know the FLOPs before
    x, routing, w = draw(M, 32), random_routing(M), (draw(5, 64, 32), draw(5, 64, 32), draw(5, 32, 64))

    def count():
        model.swiglu = Mock(wraps=model.swiglu)
        with FlopCounterMode(display=False) as flops:
            model.ff_moe(x, routing, *w)
        return flops.get_total_flops(), model.swiglu.call_count
    want = M * 3 * 3 * 2 * 32 * 64  # 3 experts of 3 matrices, 2 FLOPs for each weight
    got, calls = ask(count)  # an expert may compute first, second and third choices apart
    assert want <= got < 1.01 * want and calls <= 15, (  # sums may be matrix products; one more token is 1.2 % or more
        f"{M} tokens with 3 of 5 experts each: expected {want:,} FLOPs in at most 15 calls of swiglu, "
        f"got {got:,} in {calls}")


def layer_output(x, noise, W):
    """The gates and the output for each token of an MoE layer of three experts with stand-ins. W: its router."""
    with torch.device("cpu"):
        layer = model.MoE(GPTConfig(n_embd=2, d_ff=2, n_expert=3), layer=0).double()
    for number, p in enumerate((layer.w_gate, layer.w_up, layer.w_down), 1):
        p.data.fill_(number)
    layer.route = lambda logits, noise=0: Routing(logits - logits.mean(0) + noise, logits.argsort(1), logits)
    layer.ff_moe = lambda x, routing, w_gate, w_up, w_down: (
        x * routing.gates[:, :2] + 10 * w_gate.max() - w_up.max() / w_down.max())
    y, routing = functional_call(layer, {"router": W}, (x, noise))
    assert y.shape == x.shape, f"the result has the shape of x, {(*x.shape,)}, but it is {(*y.shape,)}"
    return torch.cat([routing.gates, y.view(-1, 2)], 1)


def stage1_layer():
    """MoE.forward gives W x of all B T tokens, and the noise, to self.route; it gives the tokens, the Routing, w_gate,
    w_up and w_down to self.ff_moe; it returns the result in the shape of x, and the Routing"""
    small, noise = tensor([[[1.0, 2.0], [0.0, 1.0]], [[3.0, -1.0], [2.0, 2.0]]]), tensor([[0.5, 0.0, 0.0]])
    W = tensor([[1.0, 0.0], [0.5, 0.5], [2.0, -1.0]])
    for name, x in (("[[[1, 2], [0, 1]], [[3, -1], [2, 2]]]", small), ("random", draw(3, 4, 2))):
        W_x = torch.stack([(x.view(-1, 2) * row).sum(1) for row in W], 1)
        gates = W_x - W_x.mean(0) + noise
        y = x.view(-1, 2) * gates[:, :2] + 10 - 2 / 3
        case = (f"x = {name}, W = [[1, 0], [.5, .5], [2, -1]], noise [[.5, 0, 0]]; a stand-in of route gives the gates "
                "W x - (its mean over all tokens) + noise, one of ff_moe gives x * (the gates of experts 0 and 1) + "
                "10 w_gate - w_up / w_down, where all w_gate are 1, all w_up 2 and all w_down 3")
        verify(f"{case}; for each token its 3 gates, then the result", lambda x, W: layer_output(x, noise, W),
               torch.cat([gates, y], 1), x, W)


# ---- stage 2: mix (3.2)
def stage2_average():
    """the average of N tensors: their sum, taken in float32, divided by N; it is float32, too"""
    small, fine = torch.tensor([[[1.0, 2.0]], [[2.0, 2.0]], [[6.0, 5.0]]]), tensor([[1.0], [1.0078125]]).bfloat16()
    noise = draw(4, 2).float()
    for case, tensors, want in (("[[1, 2]], [[2, 2]], [[6, 5]]", small, [[3, 3]]),
                                ("[1] and [1 + 2^-7] in bfloat16", fine, [1.00390625]),
                                ("random", noise, noise.mean(0))):
        same(case, call(lambda tensors: mix.average(tensors), list(tensors)), want, [torch.float32])


def mix_numbers(values, feed_forwards, **changes):
    """Mix models in which all weights are one number. Returns the mixed model, and the config of a right one."""
    def mix_them():
        mix.average = lambda tensors: torch.stack([*tensors]).float().mean(0)  # they may be a generator
        return mix.mix(states, config, torch.Generator().manual_seed(5), feed_forwards)
    shape = {"vocab_size": 8, "n_layer": 2, "n_head": 1, "n_embd": 6, "d_ff": 12}
    tensors = GPT(GPTConfig(**shape)).state_dict()
    states = [{name: torch.full(t.shape, value).bfloat16() for name, t in tensors.items()} for value in values]
    config = GPTConfig(**(shape | changes))
    return ask(mix_them), config


def stage2_mix():
    """feed-forwards become experts (or are averaged, too; split and blend are given), routers are new, all else is
    averaged; all float32"""
    for feed_forwards, values, changes in (
            ("stacked", [1.0, 2.0, 6.0], {"n_expert": 3}), ("averaged", [1.0, 2.0, 6.0], {"n_expert": 0}),
            ("stacked", (8 * draw(3)).round().tolist(), {"n_expert": 3}),
            ("split", [1.0, 2.0, 6.0], {"n_expert": 6, "d_ff": 6}), ("blended", [1.0, 2.0, 6.0], {"n_expert": 3})):
        mixed, config = mix_numbers(values, feed_forwards, **changes)
        right, rng = GPT(config).state_dict(), torch.Generator().manual_seed(5)
        assert mixed.keys() == right.keys(), f"{feed_forwards}, missing or surplus: {mixed.keys() ^ right.keys()}"
        for name, t in right.items():
            want = torch.full(t.shape, sum(values) / 3)
            if name.endswith("router"):
                want = new_router(config.n_expert, 6, rng)
            elif ".ff.w_" in name and feed_forwards != "averaged":
                experts = [torch.full((6, 12) if name.endswith("w_down") else (12, 6), value) for value in values]
                stacked = {"stacked": torch.stack, "split": partial(SPLIT, name, C=2), "blended": partial(BLEND, name)}
                want = stacked[feed_forwards](experts)
            same(f"models whose weights all are {values}, {feed_forwards}: {name}", mixed[name], want, [torch.float32])


# ---- stage 3: a step of MoE finetuning (3.2, 3.3)
def stage3_load():
    """u_i is the mean of the gate g_i over all tokens, p_i that of the probability SoftMax_i(W x); both have a row for
    each layer"""
    text = f"two layers, each {SMALL_TEXT}, probs [[.7, .2, .1], [.3, .6, .1], [.2, .3, .5]]"
    for case, *others, last in ((text, SMALL, SMALL), ("random", *(random_routing() for layer in range(3)))):
        def means(gates, probs, others=others, last=last):
            u, p = model.mean_gates_and_probs([*others, last._replace(gates=gates, probs=probs)])
            return torch.stack([u, p])
        layers = [*others, last]
        want = [[[sum(column) / len(column) for column in zip(*rows.tolist(), strict=True)] for rows in kind]
                for kind in ([layer.dense_gates() for layer in layers], [layer.probs for layer in layers])]
        verify(f"{case}; u, then p", means, want, last.gates, last.probs)


def features(x, y):
    """Eight numbers that describe texts and their next tokens, averaged over the texts."""
    return (x[:, :8] + 2 * y[:, :8]).double().mean(0) / 10


def finetune(parts, clip, x, y):
    """Four steps of finetune_router.py with stand-ins: NLL is features · w for 8 weights w, and L_LB / alpha is
    r · r / 2, half in each layer; r is w plus a number for each part of the batch; their mean is 0. Returns the
    gradients of w, the losses in the log, and for each micro-batch whether autocast was on, recompute and noise. With
    one part, it asks for neither autocast nor recompute."""
    config = GPTConfig(n_layer=2, n_head=1, n_embd=8, d_ff=8, block_size=16, n_expert=3)
    network, seen, gradients, log = GPT(config, torch.Generator()), [], [], []
    w = network.norm.weight  # ones
    optimizer = torch.optim.SGD(network.parameters())  # AdamW hides a gradient's size
    optimizer.register_step_pre_hook(lambda *_: gradients.append(deepcopy(w.grad)))

    def forward(idx, targets=None, cache=None, noise=None, recompute=False, n_last=0):
        r = w + len(seen) % parts - (parts - 1) / 2
        seen.append((torch.is_autocast_enabled("cpu"), recompute, noise))
        layer = Routing(r[:, None], torch.zeros(8, 1, dtype=torch.int64), torch.ones(8, 3))  # its gates are r
        return torch.zeros(*idx.shape, 8), (features(idx, targets) * w).sum(), [layer, layer]

    GPT.forward = Mock(side_effect=TypeError("call forward(...), not model(...): it may be inside DDP"))
    training.CLIP = finetune_router.CLIP = clip  # a student may import it
    finetune_router.read_texts = lambda *args: ({}, {})
    finetune_router.run_settings = lambda *args: {}
    training.make_optimizer = lambda *args: optimizer
    training.batch_means = lambda *args: 2 * [w.detach().expand(2, 8)]  # a student may do without them
    finetune_router.load_domains = lambda folder: {}
    finetune_router.load_checkpoint = lambda path: {"spec": {}, "experts": [*"abcdefgh"], "ledger": []}
    finetune_router.build_model = lambda checkpoint, share: network
    finetune_router.wrap = lambda *args: forward
    finetune_router.get_batch = lambda *args: (x, y)
    finetune_router.draw_noise = lambda config, n_tokens, share, generator: (
        n_tokens, share, torch.rand(1, generator=generator).item())
    finetune_router.mean_gates_and_probs = lambda routing: 2 * [torch.stack([layer.gates[:, 0] for layer in routing])]
    finetune_router.load_balancing_loss = lambda u, p: (u * p).sum() / 4
    finetune_router.save_trained = lambda out, model, **fields: log.extend(fields["log"])
    precision = "--dtype=float32" if parts == 1 else "--dtype=bfloat16 --recompute"
    finetune_router.main(f"--init=mixed.pt --out=out.pt --data=math --steps=4 --batch_size=4 --grad_accum={parts} "
                         f"--alpha=3 --lr=0.1 --device=cpu {precision}".split())
    return gradients, [entry["train_loss"] for entry in log], seen


def stage3_step():
    """minimise NLL + alpha load_balancing_loss, the mean over --grad_accum parts of the batch: backward, clip, step,
    zero; here NLL = f · w, load_balancing_loss = w · w / 2 and alpha = 3, so the gradient is f + 3 w"""
    fixed, random = torch.arange(128).view(2, 4, 16), (40 + 10 * draw(2, 4, 16)).abs().long()
    for (x, y), parts, clip in ((fixed, 4, 1e6), (fixed, 2, 0.5), (random, 2, 1e6), (random, 2, 0.5), (random, 1, 1e6)):
        gradients, log, seen = ask(lambda x=x, y=y, parts=parts, clip=clip: finetune(parts, clip, x, y))
        assert [entry[:2] for entry in seen] == [(parts > 1, parts > 1)] * 4 * parts, (
            "each part goes through forward once a step, with args.dtype and args.recompute; (autocast, recompute) are "
            f"{[entry[:2] for entry in seen]}, expected {4 * parts} times {(parts > 1, parts > 1)}")
        drawn = []
        for step in range(4):
            generator = training.step_generator("cpu", 0, 0, step, 0)
            drawn += [(64 // parts, step / 4, torch.rand(1, generator=generator).item()) for part in range(parts)]
        assert [entry[2] for entry in seen] == drawn, (
            f"noise for {parts} parts of 4 steps, drawn by draw_noise in turn for the tokens of each part, with the "
            f"share of the steps, from the step's generator: expected {drawn}, got {[entry[2] for entry in seen]}")
        assert len(gradients) == 4, f"4 steps call optimizer.step() once each: it was called {len(gradients)} times"
        w, f, losses = torch.ones(8, dtype=torch.float64), features(x, y), []
        for step in range(4):
            losses.append(features(x[-(4 // parts):], y[-(4 // parts):]) @ w)
            gradient = f + 3 * w
            gradient *= min(1, clip / gradient.norm())
            same(f"f = {f.tolist()}, {parts} parts, gradient of step {step + 1} (in step 1, w = 1), clipped "
                 f"to length {clip:g}", gradients[step], gradient)
            w = w - training.learning_rate(step, 4, 0.1) * gradient
        same("train_loss in the log is nll of the last part; its four values", torch.tensor(log), torch.stack(losses))


# ---- stage 4: load balancing (3.3)
def stage4_balance():
    """L_LB / alpha = N sum_i u_i p_i in each layer, summed over layers"""
    small = tensor([[0.5, 0.3, 0.2], [0.6, 0.4, 0.0]]), tensor([[0.4, 0.4, 0.2], [0.5, 0.2, 0.3]])
    if ask(lambda: model.load_balancing_loss(*small).item()) == 0:
        raise NotImplementedError("stage 4: load_balancing_loss")
    for case, (u, p) in ((f"two layers, u = {small[0].tolist()}, p = {small[1].tolist()}", small),
                         ("random", (draw(3, 5).sigmoid(), draw(3, 5).softmax(1)))):
        want = u.shape[1] * sum(row_u @ row_p for row_u, row_p in zip(u, p, strict=True))
        verify(case, lambda u, p: model.load_balancing_loss(u, p), want, u, p)


# ---- stage 5: Switch and Sample Top-1 (3.3)
def stage5_switch():
    """Switch: the gate of the likeliest expert is its probability among all N; in training an expert keeps
    ceil(1.5 M / N) of its tokens at most, the surest, and the gate of the others is 0"""
    queue = torch.cat([tensor([[1.0], [3.0], [2.0], [5.0], [4.0], [1.5]]), torch.zeros(6, 4)], 1)
    few = torch.cat([tensor([*3 * [[5.1, 5.0]], [0.0, 0.3], [0.0, 0.4], [0.0, 0.2], [0.0, 0.1]]), torch.zeros(7, 3)], 1)
    for name, logits in ((f"W x = {queue.tolist()}", queue), (f"W x = {few.tolist()}", few), ("random", apart(7, 5)),
                         ("one token", apart(1, 5)), ("10 tokens", apart(10, 5) + tensor([9, 0, 0, 0, 0]))):
        likeliest = logits.argmax(1, keepdim=True)
        gates = logits.softmax(-1) * one_hot(likeliest[:, 0], 5)
        verify_router(f"{name}, training=False", lambda z: model.route_switch(z, False), logits, gates, likeliest)
        C = ceil(1.5 * len(logits) / 5)  # a gate stays if fewer than C are above it
        kept = gates * ((gates > gates[:, None]).sum(1) < C)
        verify_router(f"{name}, training=True", lambda z: model.route_switch(z, True), logits, kept, likeliest)


def stage5_sample():
    """g = SoftMax((W x + G) / tau) with all but its largest value zeroed; in evaluation that value is 1"""
    small, noise = tensor([[2.0, 1.0, 0.0], [0.0, 0.5, 3.0]]), tensor([[0.0, 2.0, -1.0], [1.0, 0.0, 0.5]])
    for name, total, G, tau in ((f"W x = {small.tolist()}, G = {noise.tolist()}, tau = 0.5", small + noise, noise, 0.5),
                                ("random", apart(7, 5), 2 * draw(7, 5), 0.7),
                                ("one token", apart(1, 5), 2 * draw(1, 5), 0.7)):
        logits, given = total - G, Noise(G, tau)
        gates = (total / tau).softmax(-1) * one_hot(total.argmax(1), total.shape[1])
        verify_router(f"{name}, training", lambda z, n=given: model.route_sample(z, True, n), logits, gates,
                      total.argmax(1, keepdim=True))
        for n, seen in ((given, total), (None, logits)):
            got = call(lambda z, n: model.route_sample(z, False, n).dense_gates(), logits, n)
            want = one_hot(seen.argmax(1), seen.shape[1])
            same(f"{name}, evaluation, {'with' if n else 'without'} noise, all gates", got, want)
