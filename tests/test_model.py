"""Identities that the model must satisfy, in float64, where they hold to rounding."""
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import model as model_file
from experiments import bench
from finetune_router import freeze
from model import GPT, GPTConfig, Routing, expert_load, load_balancing_loss, mix_experts, route_soft, route_topk, swiglu
from support import fast

SMALL = dict(vocab_size=50, block_size=16, n_layer=2, n_head=4, n_embd=32, d_ff=24)


def new(seed=0, **changes):
    """A small random model in float64 with routers strong enough to have an opinion."""
    model = GPT(GPTConfig(**{**SMALL, **changes}), torch.Generator().manual_seed(seed)).double().eval()
    for name, p in model.named_parameters():
        if name.endswith("router"):
            p.data.mul_(50)
    return model


def tokens(B=3, T=9, seed=1):
    return torch.randint(0, SMALL["vocab_size"], (B, T), generator=torch.Generator().manual_seed(seed))


def random_moe(N=5, M=17, C=8, d_ff=6, k=2, seed=0, route=route_topk):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(M, C, generator=g, dtype=torch.float64).requires_grad_()
    router = torch.randn(N, C, generator=g, dtype=torch.float64).requires_grad_()
    shapes = (N, d_ff, C), (N, d_ff, C), (N, C, d_ff)
    weights = [torch.randn(*s, generator=g, dtype=torch.float64).requires_grad_() for s in shapes]
    return x, router, weights, lambda: route(F.linear(x, router), k)


def compute_every_expert(x, routing, weights):
    """The equation as printed: the sum over all N of g_i FF_i(x), with g_i = 0 for experts not chosen."""
    N = len(weights[0])
    gates = torch.zeros(len(x), N, dtype=x.dtype).scatter(1, routing.experts, routing.gates)
    return sum(gates[:, i, None] * swiglu(x, *(w[i] for w in weights)) for i in range(N))


# ---- mixture of experts ----


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_identical_experts_give_the_dense_models_logits(top_k):
    dense, moe = new(), new(seed=5, n_expert=3, top_k=top_k)
    for (name, p) in moe.named_parameters():
        if not name.endswith("router"):
            p.data.copy_(dense.state_dict()[name])  # broadcasts over the expert dimension
    torch.testing.assert_close(moe(tokens())[0], dense(tokens())[0])


MIXES = pytest.mark.parametrize("mix", [mix_experts, fast.mix_experts, partial(fast.mix_slices, align=8), fast.mix_grouped],
                                ids=["readable", "fast", "rounded", "grouped"])


@MIXES
@pytest.mark.parametrize("N,M,k,route", [(5, 17, 2, route_topk), (5, 17, 1, route_topk), (5, 1, 2, route_topk),
                                         (3, 199, 2, route_topk), (4, 16, 2, route_topk),
                                         (1, 4, 1, route_topk), (40, 3, 2, route_topk), (4, 9, 4, route_topk),
                                         (4, 9, 1, route_soft)])
def test_output_and_all_gradients_equal_compute_every_expert(N, M, k, route, mix):
    """Includes one token, one expert, far more experts than tokens, most of them unused, and slices that are rounded up."""
    x, router, weights, routing = random_moe(N, M, k=k, route=route)
    inputs = [x, router, *weights]
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(9), dtype=x.dtype)
    got, want = mix(x, routing(), *weights), compute_every_expert(x, routing(), weights)
    torch.testing.assert_close(got, want)
    got_grads = torch.autograd.grad((got * direction).sum(), inputs, allow_unused=True)
    want_grads = torch.autograd.grad((want * direction).sum(), inputs, allow_unused=True)
    for a, b in zip(got_grads, want_grads, strict=True):
        torch.testing.assert_close(a, b)


@MIXES
def test_gradients_equal_finite_differences(mix):
    x, router, weights, _ = random_moe(N=3, M=17, C=4, d_ff=3)
    assert torch.autograd.gradcheck(lambda x, r, *w: mix(x, route_topk(F.linear(x, r), 2), *w), (x, router, *weights))


def test_topk_over_all_experts_is_soft_routing():
    logits = torch.randn(7, 4, dtype=torch.float64)
    topk, soft = route_topk(logits, 4), route_soft(logits, 1)
    dense = [torch.zeros(7, 4, dtype=torch.float64).scatter(1, r.experts, r.gates) for r in (topk, soft)]
    torch.testing.assert_close(*dense)
    a, b = new(n_expert=3, top_k=3), new(n_expert=3, routing="soft")
    torch.testing.assert_close(a(tokens())[0], b(tokens())[0])


def test_gates_are_the_softmax_of_the_kept_logits():
    """By hand: of the logits 0, ln 3, ln 1 the top two are ln 3 (expert 1) and one of the zeros."""
    routing = route_topk(torch.tensor([[0.0, math.log(3), -9.0]]), 2)
    assert routing.experts.tolist() == [[1, 0]]
    torch.testing.assert_close(routing.gates, torch.tensor([[0.75, 0.25]]))
    torch.testing.assert_close(routing.probs, torch.tensor([[0.0, math.log(3), -9.0]]).softmax(-1))


def test_forced_to_one_expert_with_shared_weights_it_is_that_model():
    dense = [new(seed) for seed in (1, 2, 3)]
    moe = new(n_expert=3, top_k=1)
    state = dense[0].state_dict()
    for i, model in enumerate(dense):
        for name, p in model.named_parameters():
            if ".ff." in name:
                moe.state_dict()[name][i] = p.data
            else:
                p.data.copy_(state[name])
                moe.state_dict()[name].copy_(state[name])
    for i, model in enumerate(dense):
        for block in moe.blocks:  # a route that always says i; with k = 1 the gate is 1
            block.ff.route = lambda logits, *_, i=i: Routing(torch.ones(len(logits), 1, dtype=logits.dtype),
                                                            torch.full((len(logits), 1), i), logits.softmax(-1))
        torch.testing.assert_close(moe(tokens())[0], model(tokens())[0])


def test_routing_has_the_promised_shapes():
    logits, loss, routing = new(n_expert=3)(tokens(2, 5), tokens(2, 5))
    assert logits.shape == (2, 5, 50) and loss.ndim == 0 and len(routing) == 2
    for r in routing:
        assert r.gates.shape == r.experts.shape == (10, 2) and r.probs.shape == (10, 3)
        torch.testing.assert_close(r.gates.sum(-1), torch.ones(10).to(r.gates))
    assert new()(tokens())[1:] == (None, [])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("N,M,k", [(4, 33, 2), (4, 300, 2), (6, 2, 1), (3, 9, 3)])
def test_fast_mixing_equals_the_readable_one(N, M, k, dtype):
    """Values and all gradients, with experts that no token chose among them."""
    x, router, weights, _ = random_moe(N, M, C=16, d_ff=24, k=k)
    leaves = [t.detach().to(dtype).requires_grad_() for t in (x, *weights)]
    routing = route_topk(F.linear(x, router).detach().float(), k)
    results = []
    for mix in (mix_experts, fast.mix_experts, fast.mix_grouped):
        y = mix(leaves[0], routing, *leaves[1:])
        results.append([y, *torch.autograd.grad((y * y).sum(), leaves)])
    for same in zip(*results, strict=True):
        for other in same[1:]:
            tolerance = {} if dtype == torch.float64 else {"rtol": 0.1, "atol": 0.1 * same[0].abs().max().item()}
            torch.testing.assert_close(other, same[0], **tolerance)


@pytest.mark.parametrize("T,S", [(7, 7), (3, 7), (1, 7), (1, 1)])
def test_the_attention_kernel_equals_the_equation(T, S):
    """Values and gradients, with cached tokens before the new ones, and two readers for each key."""
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, n, 8, generator=g, dtype=torch.float64).requires_grad_()
               for heads, n in ((4, T), (2, S), (2, S)))
    want = torch.zeros(2, 4, T, 8, dtype=torch.float64)
    for t in range(T):  # query t stands at place S - T + t
        seen = S - T + t + 1
        scores = torch.einsum("bhd,bhsd->bhs", q[:, :, t], k[:, :, :seen].repeat_interleave(2, 1)) / 8 ** 0.5
        want[:, :, t] = torch.einsum("bhs,bhsd->bhd", scores.softmax(-1), v[:, :, :seen].repeat_interleave(2, 1))
    for function in (model_file.attention, fast.attention_kernel):
        got = function(q, k, v)
        torch.testing.assert_close(got, want)
        for a, b in zip(*(torch.autograd.grad((y * y).sum(), (q, k, v), retain_graph=True) for y in (got, want)), strict=True):
            torch.testing.assert_close(a, b)


def test_the_fast_loss_is_torchs():
    logits = torch.randn(9, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    targets = torch.tensor([0, 4, -1, 2, 2, -1, 1, 0, 3])
    assert torch.autograd.gradcheck(lambda logits: fast.cross_entropy(logits, targets), logits)
    torch.testing.assert_close(fast.cross_entropy(logits, targets), F.cross_entropy(logits, targets, ignore_index=-1))


@MIXES
@pytest.mark.parametrize("frozen", [[0], [1], [2], [0, 1], [0, 1, 2]])
def test_frozen_weights_change_no_other_gradient(mix, frozen):
    x, router, weights, route = random_moe()
    want = torch.autograd.grad(mix(x, route(), *weights).square().sum(), [x, router, *weights])
    given = [w.detach() if i in frozen else w for i, w in enumerate(weights)]
    left = [i for i in range(3) if i not in frozen]
    got = torch.autograd.grad(mix(x, route(), *given).square().sum(), [x, router, *(weights[i] for i in left)])
    for a, b in zip(got, [*want[:2], *(want[2 + i] for i in left)], strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("config", [{}, {"n_expert": 3}])
def test_second_derivatives_are_refused(config):
    """They would be wrong: the fast functions' backward passes are written for one."""
    model = new(**config)
    parameters = list(model.parameters())
    for output in (model(tokens(), tokens())[1], *([model(tokens())[0].sum()] if config else [])):
        with pytest.raises(RuntimeError, match="second derivative"):
            torch.autograd.grad(output, parameters, create_graph=True)


@pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this torch has no oneDNN")
def test_onednn_multiplies_like_torch(monkeypatch):
    """Values and gradients of a layer and of an MoE's slices: many rows, or few and a large matrix, which oneDNN is asked for."""
    g = torch.Generator().manual_seed(0)
    x, w = torch.randn(2, 600, 64, generator=g).requires_grad_(), torch.randn(256, 64, generator=g).requires_grad_()
    weights = [torch.randn(3, *shape, generator=g).requires_grad_() for shape in ((704, 64), (704, 64), (64, 704))]
    logits = torch.randn(1200, 3, generator=g) + torch.tensor([0.0, 1.0, -99.0])  # nobody asks the third expert
    routing, few_routing, results = route_topk(logits, 1), route_topk(logits[:4], 2), []
    few, large = torch.randn(4, 512, generator=g).requires_grad_(), torch.randn(3, 512, 512, generator=g).requires_grad_()
    assert large[0].numel() == fast.MATRIX and x.numel() * len(w) > fast.WEIGHTS < 400 * 704 * 64
    asked, product = [], fast.product
    monkeypatch.setattr(fast, "product", lambda x, w, onednn, out=None: asked.append(onednn) or product(x, w, onednn, out))
    for slow in (True, False):
        monkeypatch.setattr(fast, "mkl_is_slow", lambda slow=slow: slow)
        for arguments in ((w.numel(),), (704 * 64, fast.SLICE, 400), (fast.MATRIX, fast.SLICE, 0)):
            assert fast.by_onednn(x, *arguments) == slow and not fast.by_onednn(x.double(), *arguments)
        assert not fast.by_onednn(few, fast.MATRIX - 1) and not fast.by_onednn(x, fast.MATRIX - 1, rows=0)
        a, b = fast.linear(x, w), fast.mix_experts(x.flatten(0, 1), routing, *weights)
        asked.clear()
        c, d = fast.linear(few, large[0]), fast.mix_experts(few / 512, few_routing, large, large, large)
        assert asked == [True] * 10 if slow else not any(asked)
        e = fast.mix_grouped(x.flatten(0, 1), routing, *weights)
        losses = sum((y * y).mean() for y in (a, b, c, d, e))
        results.append([a, b, c, d, e, *torch.autograd.grad(losses, (x, w, *weights, few, large))])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-5 * want.abs().max().item())


@pytest.mark.parametrize("config", [{}, {"n_expert": 3}, {"n_expert": 3, "routing": "switch"}])
def test_what_saves_memory_changes_no_gradient(config):
    model, idx = new(**config).train(), tokens(3, 9)
    targets = idx.roll(-1, 1)
    targets[0, :4] = -1

    def loss_and_gradients(**options):
        loss = model(idx, targets, **options)[1]
        return [loss, *torch.autograd.grad(loss, list(model.parameters()))]
    def bytes_kept(**options):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
            logits = model(idx, targets, **options)[0]
        return sum(sizes), logits
    assert bytes_kept(recompute=True)[0] < bytes_kept()[0] / 2 and bytes_kept(loss_chunk=5)[1] is None
    want = loss_and_gradients()
    for options in ({"recompute": True}, {"loss_chunk": 5}, {"loss_chunk": 100, "recompute": True}):
        for a, b in zip(loss_and_gradients(**options), want, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("config", [{}, {"n_expert": 4}])
def test_the_model_is_one_graph_for_torch_compile(config, dtype, monkeypatch):
    """fullgraph=True raises at a graph break. This backend needs no compiler."""
    model, idx = new(**config, n_embd=32, d_ff=48), tokens(3, 8)
    half = dtype == torch.bfloat16
    model = model.float() if half else model
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(fast, "mix_slices", fast.mix_grouped)  # which rounds as the compiled model does
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        got, want = compiled(idx, idx)[1], model(idx, idx)[1]
    torch.testing.assert_close(got, want)
    a, b = (torch.autograd.grad(loss, list(model.parameters())) for loss in (got, want))
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, **({"rtol": 0.05, "atol": 0.05 * y.abs().max().item()} if half else {}))


# ---- load balancing ----


def routing_from(logits, k):
    return [route_topk(logits, k)]


def test_balancing_loss_is_1_at_balance_and_n_at_collapse():
    N = 4
    balanced = torch.eye(N, dtype=torch.float64) * 7 + torch.eye(N, dtype=torch.float64).roll(1, 1) * 7
    assert load_balancing_loss(routing_from(balanced, 2)).item() == pytest.approx(1)
    collapsed = torch.zeros(6, N, dtype=torch.float64)
    collapsed[:, 2] = 60
    assert load_balancing_loss(routing_from(collapsed, 1)).item() == pytest.approx(N)
    assert load_balancing_loss(routing_from(collapsed, 1) * 3).item() == pytest.approx(3 * N)  # summed over layers


def test_balancing_loss_is_a_product_of_means_not_a_mean_of_products():
    """Every token sure of itself, experts used evenly: no penalty, where a mean of products would give N."""
    sure = torch.eye(4, dtype=torch.float64) * 60
    assert load_balancing_loss(routing_from(sure, 1)).item() == pytest.approx(1)


def test_balancing_loss_uses_the_gates():
    """One token, logits ln 3 and 0 of N = 2 with k = 2: u = p = (3/4, 1/4), so 2 (9/16 + 1/16)."""
    assert load_balancing_loss(routing_from(torch.tensor([[math.log(3), 0.0]]), 2)).item() == pytest.approx(1.25)


def test_descending_the_balancing_loss_evens_the_load_out():
    logits = torch.randn(64, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bias = torch.tensor([3.0, 1.0, 0.0, -2.0], dtype=torch.float64, requires_grad=True)
    spread = []
    for _ in range(300):
        routing = routing_from(logits + bias, 2)
        spread.append(expert_load(routing[0]).std().item())
        loss = load_balancing_loss(routing)
        bias.data -= 0.3 * torch.autograd.grad(loss, bias)[0]
    assert spread[-1] < 0.15 * spread[0] and loss.item() < 1.01


# ---- the transformer ----


@pytest.mark.parametrize("config", [{}, {"n_expert": 3}, {"n_kv_head": 2}])
def test_causality(config):
    """A token changes no logits before it, and those at it."""
    model, idx = new(**config), tokens()
    changed = idx.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 50
    difference = (model(idx)[0].float() - model(changed)[0].float()).abs().amax((0, 2))  # a slice of other tokens rounds anew
    assert difference[:5].max() == 0 and difference[5] > 0


def test_rope_depends_on_relative_position_alone():
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)

    def angles(m):
        return model_file.rope_angles(GPTConfig(n_embd=16, n_head=2), m, m + 1, "cpu")

    def dot(m, n):
        return (model_file.rope(q, angles(m)) * model_file.rope(k, angles(n))).sum().item()
    assert dot(7, 3) == pytest.approx(dot(104, 100), abs=1e-5)
    assert dot(7, 3) != pytest.approx(dot(7, 4), abs=1e-3)
    torch.testing.assert_close(model_file.rope(q, angles(0)), q)


def test_grouped_query_attention_equals_repeated_heads():
    grouped, full = new(n_kv_head=2), new()
    state = grouped.state_dict()
    for name in state:
        if name.endswith(("wk.weight", "wv.weight")):  # head h of the full model reads group h // 2
            state[name] = state[name].view(2, 8, 32).repeat_interleave(2, dim=0).reshape(32, 32)
    full.load_state_dict(state)
    torch.testing.assert_close(grouped(tokens())[0], full(tokens())[0])


@pytest.mark.parametrize("config", [{}, {"n_expert": 3}, {"n_kv_head": 2}, {"tie_weights": True}])
def test_cached_generation_equals_uncached(config):
    model, idx = new(**config), tokens(2, 5)
    want = idx
    for _ in range(10):
        want = torch.cat([want, model(want)[0][:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(model.generate(idx, 10), want)
    cache, parts = [], [want[:, :4], want[:, 4:5], want[:, 5:9]]  # also several tokens behind cached ones
    logits = torch.cat([model(part, cache=cache)[0] for part in parts], dim=1)
    torch.testing.assert_close(logits, model(want[:, :9])[0])


def test_a_large_model_has_no_other_decoder():
    model = new(d_ff=fast.MATRIX // SMALL["n_embd"])
    assert fast.decoder(model) is model


def test_one_thread_is_for_the_block_alone():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(KeyError), fast.one_thread():
            assert torch.get_num_threads() == 1
            raise KeyError
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("B", [1, 3, 20])
@pytest.mark.parametrize("config", [{}, {"n_kv_head": 2, "norm_eps": 0.1}, {"tie_weights": True, "n_expert": 4, "top_k": 3},
                                    *({"n_expert": 3, "routing": method} for method in ("switch", "soft", "sample"))])
def test_the_fast_decoder_equals_the_model(config, B, dtype):
    """Logits and routing of one new token after another, also beyond the block size, with norms that are not all 1."""
    model, idx = new(**config).to(dtype), tokens(B, 19)
    for name, p in model.named_parameters():
        if "norm" in name:
            p.data.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(0))
    decode, caches = fast.decoder(model), ([], [])
    assert decode is not model
    for part in idx.split([4, 1, 1, 2, 1, 6, 1, 1, 1, 1], dim=1):
        with torch.no_grad():
            got, want = decode(part, cache=caches[0]), model(part, cache=caches[1])
        close = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}
        torch.testing.assert_close(got[0], want[0], **close)
        for a, b in zip(got[2], want[2], strict=True):
            torch.testing.assert_close(tuple(a), tuple(b), **close)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model, cache = model.float(), []
        fast.decoder(model)(idx[:, :4], cache=cache)
        assert fast.decoder(model)(idx[:, :1], cache=cache)[0].dtype == torch.float32


@pytest.mark.parametrize("block_size", [8, 9])
def test_generation_goes_on_beyond_the_block_size(block_size):
    """As without a cache: when the context is full, its newer half and the token after it are read again."""
    model, want = new(block_size=block_size), tokens(2, 5)
    got, start = model.generate(want, 40), 0
    for _ in range(40):
        if want.shape[1] - start > block_size:
            start = want.shape[1] - (block_size // 2 + 1)
        want = torch.cat([want, model(want[:, start:])[0][:, -1:].argmax(-1)], dim=1)
    assert torch.equal(got, want)


def test_temperature_divides_the_logits():
    model, cool = new(), new()
    cool.head.weight.data.mul_(4)
    draws = [m.generate(tokens(3, 4), 9, temperature=t, generator=torch.Generator().manual_seed(0))
             for m, t in ((model, 0.25), (cool, 1.0), (model, 1.0))]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_new_weights_have_the_promised_size_and_come_from_the_generator_alone():
    before = torch.get_rng_state()
    model = GPT(GPTConfig(n_layer=8, n_expert=2), torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)
    C, d_ff, attn, ff = 128, 352, model.blocks[0].attn, model.blocks[0].ff
    for p, std in ((model.embed.weight, 1), (model.head.weight, C**-0.5), (attn.wq.weight, C**-0.5), (ff.w_up, C**-0.5),
                   (attn.wo.weight, (C * 16)**-0.5), (ff.w_down, (d_ff * 16)**-0.5), (ff.router, model_file.ROUTER_STD)):
        assert p.std().item() == pytest.approx(std, rel=0.1)


def test_sampling_repeats_with_the_same_generator_and_keeps_to_top_k():
    model, idx = new(), tokens(1, 4)
    draws = [model.generate(idx, 8, temperature=1.5, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(model.generate(idx, 8, temperature=1.0, top_k=1), model.generate(idx, 8))


def test_loss_ignores_targets_of_minus_one():
    model, idx = new(), tokens(2, 6)
    targets = idx.roll(-1, 1)
    targets[:, 3:] = -1
    want = F.cross_entropy(model(idx)[0][:, :3].reshape(-1, 50), targets[:, :3].reshape(-1))
    torch.testing.assert_close(model(idx, targets)[1], want)


@pytest.mark.parametrize("config", [{}, {"tie_weights": True}, {"n_expert": 4, "top_k": 2},
                                    {"n_expert": 8, "top_k": 4, "d_ff": 12},
                                    *({"n_expert": 3, "routing": method} for method in ("switch", "soft", "sample"))])
@pytest.mark.parametrize("train", ["all", "all-but-experts"])
def test_flops_agree_with_torchs_counter(config, train, monkeypatch):
    """Of the forward pass and of a training step, within 2 %: the counter sees every matrix product, attention included."""
    model = GPT(GPTConfig(**{**SMALL, **config})).double()
    monkeypatch.setattr(fast, "mix_experts", mix_experts)  # the counter does not look inside
    idx = tokens(4, 16)
    if config.get("n_expert"):
        freeze(model, train)
    for training in (False, True):
        with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            loss = model(idx, idx, generator=torch.Generator().manual_seed(0))[1]
            if training:
                loss.backward()
        assert model.flops_per_token(16, training) * idx.numel() == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_number_of_parameters_by_hand():
    C, d_ff, V, L, N = 32, 24, 50, 2, 4
    ff, shared = 3 * C * d_ff, 2 * V * C + C + L * (4 * C * C + 2 * C)
    assert new().num_params() == shared + L * ff
    moe = new(n_expert=N, top_k=2)
    assert moe.num_params() == shared + L * (N * ff + N * C)
    assert moe.num_params(active=True) == shared + L * (2 * ff + N * C)


@pytest.mark.parametrize("config", [{"n_kv_head": 2}, {"n_expert": 4, "top_k": 2}])
def test_llama_and_mixtral_of_transformers_give_the_same_logits(config):
    """Parity with an independent implementation, grouped-query attention included."""
    pytest.importorskip("transformers")
    ours = new(**config).float()
    torch.testing.assert_close(ours(tokens())[0], bench.hf_twin(ours)(tokens()).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [{"n_head": 3}, {"n_kv_head": 3}, {"n_expert": 2, "top_k": 3}, {"n_expert": 2, "top_k": 0},
                                 {"routing": "best"}, {"n_layer": 0}])
def test_impossible_configs_are_refused(bad):
    with pytest.raises(ValueError, match=next(k for k in ("top_k", *bad) if k in bad)):
        GPTConfig(**{**SMALL, **bad})
