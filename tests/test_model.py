"""The transformer against the Llama of transformers; generation, new weights, and the FLOP count."""
import pytest
import torch
from torch.autograd import grad
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

import hf
from finetune_router import freeze
from model import GPT, ROUTERS, GPTConfig
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


@pytest.mark.parametrize("changes", [{}, {"n_kv_head": 2, "tie_weights": True}, {"rope_theta": 100.0, "norm_eps": 0.1}])
def test_dense_model_equals_llama(changes):
    """Logits, loss and all gradients are equal."""
    transformers = pytest.importorskip("transformers")
    model, idx, targets = new_model(**changes), random_tokens(), random_tokens(seed=2)
    fields = {theirs: getattr(model.config, ours) for ours, theirs in hf.FIELDS.items()}
    config = transformers.LlamaConfig(**fields, rope_theta=model.config.rope_theta, attn_implementation="eager")
    llama = transformers.LlamaForCausalLM(config).double().eval()
    llama.load_state_dict({hf.name_in_folder(name): p for name, p in model.state_dict().items()}, strict=False)

    logits, loss, routing = model(idx, targets)
    want = llama(idx).logits  # (B, T, V)
    want_loss = torch.nn.functional.cross_entropy(want.flatten(0, 1), targets.flatten())
    theirs = [llama.get_parameter(hf.name_in_folder(name)) for name, _ in model.named_parameters()]
    close = {"rtol": 1e-5, "atol": 1e-5}  # Llama norms in float32
    assert_close(logits, want, **close)
    assert_close(model(idx[:, :2])[0], want[:, :2], **close)  # two tokens are not one new token: they need a mask
    assert_close(loss, want_loss, **close)
    assert_close(grad(loss, model.parameters()), grad(want_loss, theirs), **close)
    assert routing == []


def test_routers_compute_in_float32_where_the_rest_is_in_bfloat16():
    model = new_model(n_expert=4).float()
    with torch.autocast("cpu", torch.bfloat16):
        logits, _, routing = model(random_tokens())
    assert logits.dtype == torch.bfloat16
    for layer in routing:
        assert layer.probs.dtype == layer.gates.dtype == torch.float32


def test_sampling_follows_the_probabilities():
    """4,000 first tokens are drawn. Their probabilities come from the logits divided by the temperature."""
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
    """Those of a training step agree within 2 %. The counter sees every matrix product, those of attention included."""
    model, idx = new_model(**changes), random_tokens(4, 16)
    freeze(model, train)
    naive_attention = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, naive_attention:
        model(idx, idx)[1].backward()
    assert model.flops_per_token() * idx.numel() == pytest.approx(counter.get_total_flops(), rel=0.02)
