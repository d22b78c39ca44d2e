"""hf.py against transformers: logits, text and token ids are the same, and a model of another kind is refused."""
import pytest
import torch

pytest.importorskip("transformers")
import tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import hf
import mix
from cli import BadInput
from data.tokenizer import END, load_tokenizer, new_bpe, train_bpe
from support.checkpoint import build_model, load_checkpoint, save_checkpoint
from support.generation import generate

LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
REFUSED = {"a scaled RoPE": {"rope_parameters": LLAMA3}, "biases": {"attention_bias": True},
           "wide heads": {"head_dim": 16}, "no number": {"rms_norm_eps": float("nan")},
           "few embeddings": {"vocab_size": 300, "eos_token_id": 5}}
TEXTS = [hf.TEXT[i:i + 80] + "  \n\t👨‍👩‍👧日本٣" for i in range(0, 2000, 10)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_folder(folder, dtype=torch.float32, **config):
    """A random Llama of transformers and a byte-level BPE, whose file cuts texts and ends them with <|end|>."""
    shape = {"vocab_size": 400, "hidden_size": 48, "intermediate_size": 36, "num_hidden_layers": 2, "eos_token_id": 399,
             "max_position_embeddings": 600, "num_attention_heads": 6, "num_key_value_heads": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**shape | config)).to(dtype)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    model.save_pretrained(folder)
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator(TEXTS[:100], vocab_size=399, show_progress=False)
    bpe.add_special_tokens(["<|end|>"])
    bpe.post_processor = TemplateProcessing("$A <|end|>", special_tokens=[("<|end|>", 399)])
    bpe.enable_truncation(3)
    bpe.save(f"{folder}/tokenizer.json")
    bpe.no_truncation()
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32), bpe


@pytest.mark.parametrize(("tied", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
def test_a_llama_comes_in_and_goes_out(tied, dtype, here):
    theirs, bpe = make_folder("in", dtype, tie_word_embeddings=tied, rms_norm_eps=1e-3, rope_theta=300.0)
    hf.main(["import", "in", "--out", "a.pt", "--block_size", "500"])
    hf.main(["export", "a.pt", "deeper/out"])
    checkpoint, idx = load_checkpoint("a.pt"), torch.randint(400, (2, 500))
    torch.testing.assert_close(build_model(checkpoint)(idx)[0], theirs(idx).logits, atol=1e-4, rtol=1e-4)
    ours = load_tokenizer(checkpoint["spec"])
    assert ours.eot == 399 and [ours.encode(text) + [399] for text in TEXTS] == [bpe.encode(text).ids for text in TEXTS]
    assert ours.decode(ours.encode("<|end|>")) == "<|end|>" and 399 not in ours.encode("<|end|>")
    back = AutoModelForCausalLM.from_pretrained("deeper/out", dtype="auto")
    assert back.dtype == dtype and back.config.max_position_embeddings == 500 and back.config.eos_token_id == 399
    assert '\n  "rope_theta": 300.0' in (here / "deeper/out/config.json").read_text()  # where transformers 4 looks
    assert all(torch.equal(p, back.get_parameter(name)) for name, p in theirs.named_parameters())


def test_a_mixture_is_a_mixtral(tiny, here):
    """With a tokenizer of own text. The same logits, token ids and greedy text there."""
    mixed = load_checkpoint(tiny / "btx_mixed.pt")
    mixed["state"] = {name: p + torch.randn(p.shape) / 2 for name, p in mixed["state"].items()}
    mixed["spec"] = new_bpe(train_bpe(TEXTS[:100], 500), "own")
    save_checkpoint("mixed.pt", mixed)
    hf.main(["export", "mixed.pt", "out"])
    ours, theirs = build_model(mixed), AutoModelForCausalLM.from_pretrained("out")
    idx = torch.randint(1024, (2, 32))
    torch.testing.assert_close(ours(idx)[0], theirs(idx).logits, atol=1e-4, rtol=1e-4)
    written = theirs.generate(idx[:1, :8], max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(generate(ours, idx[:1, :8], 24), written)
    ours, theirs = load_tokenizer(mixed["spec"]), AutoTokenizer.from_pretrained("out")
    assert theirs.eos_token_id == ours.eot and theirs(TEXTS).input_ids == [ours.encode(text) for text in TEXTS]


@pytest.mark.parametrize("what", [*REFUSED, "a Mixtral", "no folder"])
def test_refused_imports(what, tiny, here):
    if what == "a Mixtral":
        hf.main(["export", str(tiny / "btx_mixed.pt"), "in"])
    elif what != "no folder":
        make_folder("in", **REFUSED.get(what, {}))
    with pytest.raises(BadInput, match="^in"):
        hf.main(["import", "in", "--out", "a.pt"])
    assert not (here / "a.pt").exists()


def test_refused_exports_leave_nothing(tiny, here, monkeypatch):
    """Another router, a folder that exists, other tokens (END is a special one there), other logits."""
    for name, folder, text, tolerance in [("sample_mixed", "out", "a", 1), ("seed", here, "a", 1),
                                          ("seed", "out", END, 1), ("seed", "out", "a", -1)]:
        monkeypatch.setattr(hf, "TEXT", text)
        monkeypatch.setattr(hf, "TOLERANCE", tolerance)
        with pytest.raises(BadInput):
            hf.main(["export", f"{tiny}/{name}.pt", str(folder)])
    assert not list(here.iterdir())


def test_a_branch_that_went_out_and_came_back_is_a_branch_of_its_seed(tiny, here):
    hf.main(["export", f"{tiny}/math.pt", "math"])
    hf.main(["import", "math", "--out", "math.pt"])
    mix.main([f"{tiny}/seed.pt", "math.pt", "--out", "mixed.pt"])
    torch.testing.assert_close(load_checkpoint("math.pt")["state"], load_checkpoint(tiny / "math.pt")["state"])
