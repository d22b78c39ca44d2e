"""The transformer, against a second implementation of one head, one query and one sequence at a time, in float64."""
import math

import pytest
import torch
from torch.autograd import grad
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from finetune_router import freeze
from model import GPT, ROUTERS, GPTConfig, gumbel
from support.generation import generate

SMALL = {"vocab_size": 50, "block_size": 16, "n_layer": 2, "n_head": 4, "n_embd": 32, "d_ff": 24}


def new_model(seed=0, **changes):
    """A small random model in float64. Its norms are not all 1, and its routers are strong enough to differ."""
    generator = torch.Generator().manual_seed(seed)
    model = GPT(GPTConfig(**{**SMALL, **changes}), generator).double().eval()
    for name, p in model.named_parameters():
        if name.endswith("router"):
            p.data.mul_(50)
        if name.endswith("norm.weight"):
            p.data.add_(0.3 * torch.randn(p.shape, generator=generator))
    return model


def random_tokens(B=3, T=9, seed=1):
    return torch.randint(0, SMALL["vocab_size"], (B, T), generator=torch.Generator().manual_seed(seed))


def norm_by_hand(x, norm, eps):
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * norm.weight


def rope_by_hand(x, theta):
    """A pair (x_j, x_{j+d/2}) at position t is one complex number, turned by the angle t * theta^(-2j/d). x: (T, d)."""
    T, d = x.shape
    pairs = torch.complex(x[:, :d // 2], x[:, d // 2:])                        # (T, d/2)
    rates = theta ** (-2 * torch.arange(d // 2, dtype=torch.float64) / d)      # (d/2,)
    angles = torch.arange(T)[:, None] * rates                                  # (T, d/2)
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=1)


def attention_by_hand(x, attn, config):
    """SoftMax(q k / sqrt(d)) v, where a query reads the keys up to its own position. x: (T, D)."""
    d = config.n_embd // config.n_head
    heads = []
    for h in range(config.n_head):
        h_kv = h * config.n_kv_head // config.n_head  # neighbours share a key/value head
        q = rope_by_hand(x @ attn.wq.weight[h * d:h * d + d].T, config.rope_theta)        # (T, d)
        k = rope_by_hand(x @ attn.wk.weight[h_kv * d:h_kv * d + d].T, config.rope_theta)  # (T, d)
        v = x @ attn.wv.weight[h_kv * d:h_kv * d + d].T                                   # (T, d)
        rows = []
        for t in range(len(x)):
            scores = (k[:t + 1] @ q[t] / math.sqrt(d)).exp()
            rows.append(scores / scores.sum() @ v[:t + 1])
        heads.append(torch.stack(rows))
    return torch.cat(heads, dim=1) @ attn.wo.weight.T


def logits_by_hand(model, idx):
    """The logits of a dense model for one sequence, (T,) -> (T, V)."""
    config, eps = model.config, model.config.norm_eps
    x = model.embed.weight[idx]  # (T, D)
    for block in model.blocks:
        x = x + attention_by_hand(norm_by_hand(x, block.attn_norm, eps), block.attn, config)
        normed = norm_by_hand(x, block.ff_norm, eps)
        gate = normed @ block.ff.w_gate.T
        x = x + (gate * gate.sigmoid() * (normed @ block.ff.w_up.T)) @ block.ff.w_down.T
    head = model.embed if config.tie_weights else model.head
    return norm_by_hand(x, model.norm, eps) @ head.weight.T


@pytest.mark.parametrize("changes", [{}, {"n_kv_head": 2, "tie_weights": True}, {"rope_theta": 100.0, "norm_eps": 0.1}])
def test_dense_model_equals_the_second_implementation(changes):
    """Logits, loss and all gradients."""
    model, idx, targets = new_model(**changes), random_tokens(), random_tokens(seed=2)
    logits, loss, routing = model(idx, targets)
    want = torch.stack([logits_by_hand(model, row) for row in idx])  # (B, T, V)
    probs = want.exp() / want.exp().sum(-1, keepdim=True)
    want_loss = -probs.gather(2, targets[:, :, None]).log().mean()
    close = {"rtol": 1e-5, "atol": 1e-5}  # angles are computed in float32
    assert_close(logits, want, **close)
    assert_close(model(idx[:, :2])[0], want[:, :2], **close)  # two tokens are not one new token: they need a mask
    assert_close(loss, want_loss, **close)
    assert_close(grad(loss, model.parameters()), grad(want_loss, model.parameters()), **close)
    assert routing == []
    assert model(idx)[1] is None
    assert len(model.blocks[0].attn.wk.weight) == 8 * changes.get("n_kv_head", 4)  # 8 numbers a head


def test_routers_compute_in_float32_where_the_rest_is_in_bfloat16():
    model = new_model(n_expert=4).float()
    with torch.autocast("cpu", torch.bfloat16):
        logits, _, routing = model(random_tokens())
    assert logits.dtype == torch.bfloat16
    for layer in routing:
        assert layer.probs.dtype == layer.gates.dtype == torch.float32


@pytest.mark.parametrize("changes", [{"n_kv_head": 2, "tie_weights": True}, {"n_expert": 3},
                                     {"n_expert": 3, "routing": "switch"}, {"n_expert": 3, "routing": "sample"}])
def test_cache_changes_nothing(changes):
    """A prompt of four tokens, then one token at a time."""
    model, idx, cache = new_model(**changes), random_tokens(), {}
    parts = [model(part, cache=cache)[0] for part in idx.split([4, 1, 1, 1, 1, 1], dim=1)]
    assert_close(torch.cat(parts, dim=1), model(idx)[0])


@pytest.mark.parametrize("block_size", [8, 9])
def test_generation_goes_on_beyond_the_block_size(block_size):
    """As without a cache. When the context is full, only its newer half and the token after it are read."""
    model, want, start = new_model(block_size=block_size), random_tokens(2, 5), 0
    got = generate(model, want, 40)
    for _ in range(40):
        if want.shape[1] - start > block_size:
            start = want.shape[1] - (block_size // 2 + 1)
        likeliest = model(want[:, start:])[0][:, -1:].argmax(-1)
        want = torch.cat([want, likeliest], dim=1)
    assert torch.equal(got, want)


def test_sampling_follows_the_probabilities():
    """4,000 first tokens, with the logits divided by the temperature."""
    model, idx = new_model(), random_tokens(1, 4)
    logits = model(idx)[0][0, -1]  # (V,)
    generator = torch.Generator().manual_seed(0)
    tokens = generate(model, idx.expand(4000, -1), 1, temperature=2.0, generator=generator)[:, -1]
    shares = tokens.bincount(minlength=len(logits)) / 4000
    assert_close(shares, (logits / 2.0).softmax(-1).float(), atol=0.03, rtol=0)


def test_new_weights_have_the_promised_size():
    model = GPT(GPTConfig(n_layer=8, n_expert=2), torch.Generator().manual_seed(0))
    D, d_ff, n_layer = 128, 352, 8
    want = {"embed.weight": 1, "head.weight": D**-0.5, "blocks.3.attn.wk.weight": D**-0.5,
            "blocks.3.ff.router": 0.16 * D**-0.5, "blocks.3.ff.w_gate": D**-0.5,
            "blocks.3.ff.w_down": (2 * n_layer * d_ff)**-0.5, "blocks.3.attn.wo.weight": (2 * n_layer * D)**-0.5}
    for name, std in want.items():
        assert model.get_parameter(name).std().item() == pytest.approx(std, rel=0.1), name
    assert (model.norm.weight == 1).all()
    tied = GPT(GPTConfig(tie_weights=True), torch.Generator().manual_seed(0))
    assert tied.embed.weight.std().item() == pytest.approx(D**-0.5, rel=0.1)  # it is the head, too


@pytest.mark.parametrize("train", ["all", "all-but-experts"])
@pytest.mark.parametrize("changes", [{}, {"tie_weights": True, "n_kv_head": 2},
                                     *({"n_expert": 4, "routing": method} for method in ROUTERS)])
def test_flops_agree_with_torchs_counter(changes, train):
    """Of a training step, within 2 %. The counter sees every matrix product, those of attention included."""
    model, idx, noise = new_model(**changes), random_tokens(4, 16), None
    freeze(model, train)
    if model.config.n_expert:
        noise = gumbel(model.config, idx.numel(), 0.7, torch.Generator().manual_seed(0))
    naive_attention = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, naive_attention:
        model(idx, idx, noise=noise)[1].backward()
    assert model.flops_per_token() * idx.numel() == pytest.approx(counter.get_total_flops(), rel=0.02)
