"""hf.py against transformers: logits, text and token ids are the same, and a model of another kind is refused."""
import json
from unittest.mock import patch

import pytest
import torch

pytest.importorskip("transformers")
from cli import BadInput

import tokenizers
from safetensors import SafetensorError
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, MistralConfig

import hf
import mix
from data.tokenizer import END, encode_prompt, load_tokenizer, new_bpe, train_bpe
from support.checkpoint import build_model, load_checkpoint, save_checkpoint

LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
REFUSED = {"a scaled RoPE": {"rope_parameters": LLAMA3}, "biases": {"attention_bias": True},
           "wide heads": {"head_dim": 16}, "no number": {"rms_norm_eps": float("nan")},
           "few embeddings": {"vocab_size": 300, "eos_token_id": 5}, "no end": {"eos_token_id": None},
           "a foreign end": {"eos_token_id": 10**9}}
FILES = {"an adapter": "adapter_config.json", "GGUF": "model.gguf", "a damaged config": "config.json",  # that hold "{"
         "damaged weights": "model.safetensors", "a damaged tokenizer": "tokenizer.json"}
TEXTS = [hf.TEXT[i:i + 80] + "  \n\t👨‍👩‍👧日本٣" for i in range(0, 2000, 10)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_folder(folder, dtype=torch.float32, kind=LlamaConfig, std=0.1, **config):
    """A random Llama of transformers and a BPE with single digits, whose file cuts texts and ends them with <|end|>."""
    shape = {"vocab_size": 400, "hidden_size": 48, "intermediate_size": 36, "num_hidden_layers": 2, "eos_token_id": 399,
             "max_position_embeddings": 600, "num_attention_heads": 6, "num_key_value_heads": 2}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(kind(**shape | config)).to(dtype)
    for p in model.parameters():
        torch.nn.init.normal_(p, mean=float(p.ndim == 1), std=std)
    model.save_pretrained(folder)
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator(TEXTS[:100], vocab_size=399, show_progress=False)
    bpe.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    bpe.add_special_tokens(["<|end|>"])
    bpe.post_processor = TemplateProcessing("$A <|end|>", special_tokens=[("<|end|>", 399)])
    bpe.enable_truncation(3)
    bpe.save(f"{folder}/tokenizer.json")
    bpe.no_truncation()
    options = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), bpe


@pytest.mark.parametrize("tied, dtype, more", [
    (False, torch.float32, {}),
    (True, torch.bfloat16, {"kind": MistralConfig, "sliding_window": None, "eos_token_id": [399, 5]})])
def test_a_llama_or_a_mistral_comes_in_and_goes_out(tied, dtype, more, here):
    """Its generation ends with another token, and its class of tokenizers would not split digits."""
    theirs, bpe = make_folder(here / "in", dtype, tie_word_embeddings=tied, rms_norm_eps=1e-3, rope_theta=300.0, **more)
    (here / "in/generation_config.json").write_text('{"eos_token_id": 5}')
    options = here / "in/tokenizer_config.json"
    options.write_text(options.read_text().replace("PreTrainedTokenizerFast", "GPT2Tokenizer"))
    hf.main(["import", "in", "--out", "a.pt", "--block_size", "500"])
    hf.main(["export", "a.pt", "deeper/out"])
    checkpoint, idx = load_checkpoint("a.pt"), torch.randint(400, (2, 500))
    torch.testing.assert_close(build_model(checkpoint)(idx)[0], theirs(idx).logits, atol=1e-4, rtol=1e-4)
    ours = load_tokenizer(checkpoint["spec"])
    assert ours.eot == 399 and ours.vocab_size == 400
    assert [ours.encode(text) + [399] for text in TEXTS] == [bpe.encode(text).ids for text in TEXTS]
    ids = ours.encode("<|end|>")  # as text it is no special token
    assert 399 not in ids and ours.decode([*ids, 399]) == "<|end|><|end|>"
    back = AutoModelForCausalLM.from_pretrained("deeper/out", dtype="auto")
    assert back.dtype == dtype and back.config.max_position_embeddings == 600 and back.config.eos_token_id == 399
    assert back.generation_config.eos_token_id == [5, 399]
    assert '\n  "rope_theta": 300.0' in (here / "deeper/out/config.json").read_text()  # where transformers 4 looks
    assert all(torch.equal(p, back.get_parameter(name)) for name, p in theirs.named_parameters())
    words = AutoTokenizer.from_pretrained("deeper/out")
    assert (words.chat_template, words.pad_token) == ("{{ messages }}", "<|end|>")


def test_a_mixture_is_a_mixtral(tiny, here):
    """Logits and token ids are equal, with a tokenizer of own text."""
    mixed = load_checkpoint(tiny / "btx_mixed.pt")
    mixed["state"] = {name: p + torch.randn(p.shape) / 2 for name, p in mixed["state"].items()}
    mixed["spec"] = new_bpe(train_bpe(TEXTS[:100], 500), "own")
    save_checkpoint("mixed.pt", mixed)
    hf.main(["export", "mixed.pt", "out"])
    ours, theirs = build_model(mixed), AutoModelForCausalLM.from_pretrained("out")
    idx = torch.randint(1024, (2, 32))
    torch.testing.assert_close(ours(idx)[0], theirs(idx).logits, atol=1e-4, rtol=1e-4)
    ours, theirs = load_tokenizer(mixed["spec"]), AutoTokenizer.from_pretrained("out")
    assert theirs.eos_token_id == ours.eot
    assert theirs(TEXTS).input_ids == [encode_prompt(ours, text) for text in TEXTS]


def finetune(folder, noise):
    """A finetune of the folder `base` made by transformers alone. It has one more token, and another ends its texts."""
    model, words = AutoModelForCausalLM.from_pretrained("base"), AutoTokenizer.from_pretrained("base")
    with torch.no_grad():
        for p in model.parameters():
            p.add_(noise * torch.randn(p.shape))
    words.add_special_tokens({"pad_token": "[PAD]"})
    model.resize_token_embeddings(401)
    model.config.eos_token_id = 400
    model.save_pretrained(folder)
    words.save_pretrained(folder)


def test_a_finetune_is_mixed_with_its_base(here, capsys):
    """The matrices of the stranger are others, but most of a model so small are norms near 1."""
    make_folder(here / "base", std=0.02)
    finetune("near", 0.002)
    finetune("stranger", 0.03)
    hf.main(["import", "base", "--out", "seed.pt"])
    hf.main(["import", "near", "--out", "near.pt", "--branch_of", "seed.pt"])
    assert "near: its texts end with [PAD], as a branch with <|end|>" in capsys.readouterr().out
    mix.main(["seed.pt", "near.pt", "--out", "mixed.pt"])
    for folder, out, seed, error in [("stranger", "a.pt", "seed.pt", "150 % away from the seed's; no branch"),
                                     ("near", "a.pt", "mixed.pt", "an MoE"), ("near", "seed.pt", "seed.pt", "--out"),
                                     ("near", "near/config.json", "seed.pt", "--out")]:
        with pytest.raises(BadInput, match=error):
            hf.main(["import", folder, "--out", out, "--branch_of", seed])


@pytest.mark.parametrize("what", [*REFUSED, *FILES, "no safetensors", "a window", "no folder"])
def test_refused_imports(what, here):
    if what == "a window":
        make_folder(here / "in", kind=MistralConfig, sliding_window=64)
    elif what != "no folder":
        make_folder(here / "in", **REFUSED.get(what, {}))
    if what in FILES:
        (here / "in" / FILES[what]).write_text("{")
    if what == "no safetensors":
        (here / "in/model.safetensors").rename("in/pytorch_model.bin")
    with pytest.raises(BadInput, match="^in"):
        hf.main(["import", "in", "--out", "a.pt"])
    assert not (here / "a.pt").exists()


def test_refused_exports_leave_nothing(tiny, here, monkeypatch):
    """Another router, a folder that exists, other tokens (END is a special one there), other logits, a full disk."""
    for name, folder, text, tolerance in [("sample_mixed", "out", "a", 1), ("seed", here, "a", 1),
                                          ("seed", "out", END, 1), ("seed", "out", "a", -1)]:
        monkeypatch.setattr(hf, "TEXT", text)
        monkeypatch.setattr(hf, "TOLERANCE", tolerance)
        with pytest.raises(BadInput):
            hf.main(["export", f"{tiny}/{name}.pt", str(folder)])
    monkeypatch.undo()
    with patch.object(hf, "save_torch_state_dict", side_effect=SafetensorError("No space left")):
        with pytest.raises(BadInput, match="full/out: cannot be written .No space left"):
            hf.main(["export", f"{tiny}/seed.pt", str(here / "full/out")])
    assert [path.name for path in here.rglob("*")] == ["full"]
    with pytest.raises(BadInput, match="exists"):  # said before anything is read
        hf.main(["export", "missing.pt", __file__])
