"""Identities that the model must satisfy, in float64, where they hold to rounding."""
import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import model as model_file
from experiments import bench
from finetune_router import freeze
from model import GPT, GPTConfig, Routing, expert_load, ff_moe, gumbel, load_balancing_loss, route_soft, route_topk, swiglu
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


def random_moe(N=5, M=17, D=8, d_ff=6, k=2, seed=0, route=route_topk):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(M, D, generator=g, dtype=torch.float64).requires_grad_()
    router = torch.randn(N, D, generator=g, dtype=torch.float64).requires_grad_()
    shapes = (N, d_ff, D), (N, d_ff, D), (N, D, d_ff)
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


BOTH = pytest.mark.parametrize("ff_moe", [ff_moe, fast.ff_moe], ids=["readable", "fast"])


@BOTH
@pytest.mark.parametrize("N,M,k,route", [(5, 17, 2, route_topk), (5, 17, 1, route_topk), (5, 1, 2, route_topk),
                                         (3, 199, 2, route_topk), (4, 16, 2, route_topk),
                                         (1, 4, 1, route_topk), (40, 3, 2, route_topk), (4, 9, 4, route_topk),
                                         (4, 9, 1, route_soft)])
def test_output_and_all_gradients_equal_compute_every_expert(N, M, k, route, ff_moe):
    """Includes one token, one expert, far more experts than tokens, most of them unused."""
    x, router, weights, routing = random_moe(N, M, k=k, route=route)
    inputs = [x, router, *weights]
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(9), dtype=x.dtype)
    got, want = ff_moe(x, routing(), *weights), compute_every_expert(x, routing(), weights)
    torch.testing.assert_close(got, want)
    got_grads = torch.autograd.grad((got * direction).sum(), inputs, allow_unused=True)
    want_grads = torch.autograd.grad((want * direction).sum(), inputs, allow_unused=True)
    for a, b in zip(got_grads, want_grads, strict=True):
        torch.testing.assert_close(a, b)


@BOTH
def test_gradients_equal_finite_differences(ff_moe):
    x, router, weights, _ = random_moe(N=3, M=17, D=4, d_ff=3)
    assert torch.autograd.gradcheck(lambda x, r, *w: ff_moe(x, route_topk(F.linear(x, r), 2), *w), (x, router, *weights))


def test_routers_compute_in_float32_where_the_rest_is_in_bfloat16():
    with torch.autocast("cpu", torch.bfloat16):
        routing = new(n_expert=4).float()(tokens())[2]
    assert all(t.dtype == torch.float32 for layer in routing for t in (layer.probs, layer.gates)) and len(routing) == 2


def test_topk_over_all_experts_is_soft_routing():
    logits = torch.randn(7, 4, dtype=torch.float64)
    torch.testing.assert_close(route_topk(logits, 4).dense_gates(), route_soft(logits).dense_gates())
    a, b = new(n_expert=3, top_k=3), new(n_expert=3, routing="soft")
    torch.testing.assert_close(a(tokens())[0], b(tokens())[0])


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
def test_the_fast_sum_equals_the_readable_one(N, M, k, dtype):
    """Values and all gradients, with experts that no token chose among them; in bfloat16 by torch's own grouped product."""
    x, router, weights, _ = random_moe(N, M, D=16, d_ff=24, k=k)
    leaves = [t.detach().to(dtype).requires_grad_() for t in (x, *weights)]
    routing = route_topk(F.linear(x, router).detach().float(), k)
    results = []
    for function in (ff_moe, fast.ff_moe):
        y = function(leaves[0], routing, *leaves[1:])
        results.append([y, *torch.autograd.grad((y * y).sum(), leaves)])
    for want, got in zip(*results, strict=True):
        tolerance = {} if dtype == torch.float64 else {"rtol": 0.1, "atol": 0.1 * want.abs().max().item()}
        torch.testing.assert_close(got, want, **tolerance)


def test_fast_is_installed_in_every_layer_of_one_model_alone():
    ours, other = fast.install(new(n_expert=3)), new(n_expert=3)
    assert all(block.ff.ff_moe is fast.ff_moe for block in ours.blocks)
    assert all(block.ff.ff_moe is ff_moe for block in other.blocks)
    torch.testing.assert_close(ours(tokens())[0], other(tokens())[0])


def attention_written_out(x, attn, n_head, angles, n_past):
    """SoftMax(q k^T / sqrt(d)) v of the tokens after the first n_past, one query at a time, each reading up to its own place."""
    B, S, D = x.shape
    d = D // n_head
    q, k, v = (w(x).view(B, S, -1, d).transpose(1, 2) for w in (attn.wq, attn.wk, attn.wv))
    q, k = model_file.rope(q, angles), model_file.rope(k, angles)
    k, v = (t.repeat_interleave(n_head // t.shape[1], 1) for t in (k, v))
    y = [torch.einsum("bhs,bhsd->bhd", (torch.einsum("bhd,bhsd->bhs", q[:, :, t], k[:, :, :t + 1]) / d**0.5).softmax(-1),
                      v[:, :, :t + 1]).reshape(B, D) for t in range(n_past, S)]
    return attn.wo(torch.stack(y, 1))


@pytest.mark.parametrize("T,S", [(7, 7), (3, 7), (1, 7), (1, 1)])
def test_attention_equals_the_equation(T, S):
    """Values and gradients, with cached tokens before the new ones, and two readers for each key."""
    model = new(n_kv_head=2)
    attn, past = model.blocks[0].attn, []
    x = torch.randn(2, S, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    cos, sin = model_file.rope_angles(model.config, 0, S, "cpu")
    want = attention_written_out(x, attn, 4, (cos, sin), S - T)
    if T < S:
        attn(x[:, :S - T], (cos[:S - T], sin[:S - T]), past)
    got = attn(x[:, S - T:], (cos[S - T:], sin[S - T:]), past)
    torch.testing.assert_close(got, want)
    inputs = [x, *attn.parameters()]
    for a, b in zip(*(torch.autograd.grad((y * y).sum(), inputs) for y in (got, want)), strict=True):
        torch.testing.assert_close(a, b)


@BOTH
@pytest.mark.parametrize("frozen", [[0], [1], [2], [0, 1], [0, 1, 2]])
def test_frozen_weights_change_no_other_gradient(ff_moe, frozen):
    x, router, weights, route = random_moe()
    want = torch.autograd.grad(ff_moe(x, route(), *weights).square().sum(), [x, router, *weights])
    given = [w.detach() if i in frozen else w for i, w in enumerate(weights)]
    left = [i for i in range(3) if i not in frozen]
    got = torch.autograd.grad(ff_moe(x, route(), *given).square().sum(), [x, router, *(weights[i] for i in left)])
    for a, b in zip(got, [*want[:2], *(want[2 + i] for i in left)], strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("config", [{}, *({"n_expert": 3, "routing": method} for method in ("topk", "switch", "sample"))])
def test_what_saves_memory_changes_no_gradient(config):
    model, idx = new(**config).train(), tokens(3, 9)
    targets = idx.roll(-1, 1)
    noise = gumbel(model.config, 27, 0.7, torch.Generator().manual_seed(0)) if config else None

    def loss_and_gradients(**options):
        loss = model(idx, targets, noise=noise, **options)[1]
        return [loss, *torch.autograd.grad(loss, list(model.parameters()))]
    def bytes_kept(**options):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
            logits = model(idx, targets, noise=noise, **options)[0]
        return sum(sizes), logits
    assert bytes_kept(recompute=True)[0] < bytes_kept()[0] / 2 and bytes_kept(loss_chunk=5)[1] is None
    want = loss_and_gradients()
    for options in ({"recompute": True}, {"loss_chunk": 5}, {"loss_chunk": 100, "recompute": True}):
        for a, b in zip(loss_and_gradients(**options), want, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("config", [{}, {"n_expert": 4}])
def test_the_fast_model_is_one_graph_for_torch_compile(config, dtype):
    """fullgraph=True raises at a graph break. This backend needs no compiler."""
    model, idx = fast.install(new(**config, n_embd=32, d_ff=48)), tokens(3, 8)
    half = dtype == torch.bfloat16
    model = model.float() if half else model
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        got, want = compiled(idx, idx)[1], model(idx, idx)[1]
    torch.testing.assert_close(got, want)
    a, b = (torch.autograd.grad(loss, list(model.parameters())) for loss in (got, want))
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, **({"rtol": 0.05, "atol": 0.05 * y.abs().max().item()} if half else {}))


# ---- load balancing ----


def routing_from(logits, k):
    return [route_topk(logits, k)]


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
    config = GPTConfig(n_layer=8, n_expert=2)
    model, other = (GPT(config, torch.Generator().manual_seed(0)) for _ in range(2))  # the global one is elsewhere by now
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    D, d_ff, attn, ff = 128, 352, model.blocks[0].attn, model.blocks[0].ff
    for p, std in ((model.embed.weight, 1), (model.head.weight, D**-0.5), (attn.wq.weight, D**-0.5), (ff.w_up, D**-0.5),
                   (attn.wo.weight, (D * 16)**-0.5), (ff.w_down, (d_ff * 16)**-0.5), (ff.router, model_file.ROUTER_STD)):
        assert p.std().item() == pytest.approx(std, rel=0.1)


def test_sampling_repeats_with_the_same_generator_and_keeps_to_top_k():
    model, idx = new(), tokens(1, 4)
    draws = [model.generate(idx, 8, temperature=1.5, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(model.generate(idx, 8, temperature=1.0, top_k=1), model.generate(idx, 8))


@pytest.mark.parametrize("config", [{}, {"tie_weights": True}, {"n_expert": 4, "top_k": 2},
                                    {"n_expert": 8, "top_k": 4, "d_ff": 12},
                                    *({"n_expert": 3, "routing": method} for method in ("switch", "soft", "sample"))])
@pytest.mark.parametrize("train", ["all", "all-but-experts"])
def test_flops_agree_with_torchs_counter(config, train):
    """Of a training step, within 2 %: the counter sees every matrix product, attention included."""
    model = GPT(GPTConfig(**{**SMALL, **config})).double()
    idx = tokens(4, 16)
    noise = gumbel(model.config, 64, 0.7, torch.Generator().manual_seed(0)) if config.get("routing") == "sample" else None
    if config.get("n_expert"):
        freeze(model, train)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model(idx, idx, noise=noise)[1].backward()
    assert model.flops_per_token() * idx.numel() == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_number_of_parameters_by_hand():
    D, d_ff, V, L, N = 32, 24, 50, 2, 4
    ff, shared = 3 * D * d_ff, 2 * V * D + D + L * (4 * D * D + 2 * D)
    assert new().num_params() == shared + L * ff
    moe = new(n_expert=N, top_k=2)
    assert moe.num_params() == shared + L * (N * ff + N * D)
    assert moe.num_params(active=True) == shared + L * (2 * ff + N * D)


@pytest.mark.parametrize("config", [{"n_kv_head": 2}, {"n_expert": 4, "top_k": 2}])
def test_llama_and_mixtral_of_transformers_give_the_same_logits(config):
    """Parity with an independent implementation, grouped-query attention included; the models that make bench measures."""
    pytest.importorskip("transformers")
    ours = new(**config).float()
    torch.testing.assert_close(ours(tokens())[0], bench.hf_twin(ours)(tokens()).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [{"n_head": 3}, {"n_kv_head": 3}, {"n_expert": 2, "top_k": 3}, {"n_expert": 2, "top_k": 0},
                                 {"routing": "best"}, {"n_layer": 0}, {"n_kv_head": -1}, {"rope_theta": -1.0},
                                 {"norm_eps": -9.0}])
def test_impossible_configs_are_refused(bad):
    with pytest.raises(ValueError, match=next(k for k in ("top_k", *bad) if k in bad)):
        GPTConfig(**{**SMALL, **bad})
