"""hf.py against transformers: logits, text and token ids are the same, and a model of another kind is refused."""
import json

import pytest
import torch

pytest.importorskip("transformers")
import tokenizers
from safetensors.torch import save_file
from tokenizers import decoders, normalizers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, MistralConfig, MixtralConfig, OlmoConfig

import hf
import mix
from cli import BadInput
from data.task import Task
from data.tokenizer import END, from_huggingface, load_tokenizer, new_bpe, train_bpe
from support.checkpoint import build_model, load_checkpoint, save_checkpoint
from support.scoring import encode_task

LLAMA3 = hf.LLAMA3 | {"factor": 8.0}
REFUSED = {"a RoPE": {"rope_scaling": LLAMA3 | {"low_freq_factor": 2.0}}, "biases": {"attention_bias": True},
           "wide heads": {"head_dim": 16}, "no number": {"rms_norm_eps": float("nan")},
           "few embeddings": {"vocab_size": 300, "eos_token_id": 5}, "a foreign end": {"eos_token_id": 10**9},
           "a window": {"kind": MistralConfig, "sliding_window": 64}, "another norm": {"kind": OlmoConfig},
           "no finite weights": {"std": float("inf")}}
FILES = {"an adapter": "adapter_config.json", "damaged weights": "model.safetensors"}  # that hold "{"
EDITS = {"4 bits": ("{", '{"quantization_config": {"quant_method": "gptq"},'),  # of config.json
         "a layer too many": ('"num_hidden_layers": 2', '"num_hidden_layers": 1')}
GONE = {"no safetensors": "model.safetensors", "no folder": ""}
SAID = {"few embeddings": "400 tokens", "a foreign end": "eos_token_id", "a window": "sliding", "an adapter": "adapter",
        "no safetensors": "safetensors; copy", "no folder": "no such folder",  # where no later check would find it
        "biases": "is a llama: .* biases", "wide heads": "is a llama: its 6 heads", "another norm": "is a olmo",
        "4 bits": "is quantized", "a layer too many": "layers.1.* would be left out",
        "no finite weights": "not all finite"}
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
    options = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|end|>", "chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), bpe


@pytest.mark.parametrize("tied, dtype, more", [
    (False, torch.float32, {"rope_scaling": LLAMA3, "rope_theta": 5e5}),
    (False, torch.float32, {"kind": MixtralConfig, "num_local_experts": 3}),
    (True, torch.bfloat16, {"kind": MistralConfig, "sliding_window": None, "eos_token_id": [399, 5]})])
def test_a_model_of_transformers_comes_in_and_goes_out(tied, dtype, more, here):
    """Several tokens end its texts, or one. Its class of tokenizers would not split digits."""
    more = {"rope_theta": 300.0, "max_position_embeddings": 2000, **more}
    theirs, bpe = make_folder(here / "in", dtype, tie_word_embeddings=tied, rms_norm_eps=1e-3, **more)
    if "num_local_experts" in more:  # with the names that they have in memory, as mergekit-moe writes them
        save_file(theirs.state_dict(), "in/model.safetensors", {"format": "pt"})
    hf.main(["import", "in", "--out", "a.pt", "--block_size", "1600"])
    hf.main(["export", "a.pt", "deeper/out"])
    checkpoint, idx = load_checkpoint("a.pt"), torch.randint(400, (1, 1600))
    torch.testing.assert_close(build_model(checkpoint)(idx)[0], theirs(idx).logits, atol=1e-3, rtol=1e-4)
    assert checkpoint["experts"] == [f"expert{i + 1}" for i in range(more.get("num_local_experts", 0))]
    ours = load_tokenizer(checkpoint["spec"])
    assert ours.eot == 399 and ours.vocab_size == 400
    assert [ours.encode(text) + [399] for text in TEXTS] == [bpe.encode(text).ids for text in TEXTS]
    ids = ours.encode("<|end|>")  # as text it is no special token
    assert 399 not in ids and ours.decode([*ids, 399]) == "<|end|><|end|>"
    back = AutoModelForCausalLM.from_pretrained("deeper/out", dtype="auto")
    assert back.dtype == dtype and back.config.max_position_embeddings == 2000
    assert back.generation_config.eos_token_id == more.get("eos_token_id", 399)
    written = json.loads((here / "deeper/out/config.json").read_text())
    assert written["rope_theta"] == more["rope_theta"]  # here transformers 4 looks
    assert all(torch.equal(p, back.get_parameter(name)) for name, p in theirs.named_parameters())
    words = AutoTokenizer.from_pretrained("deeper/out")
    assert (words.chat_template, words.pad_token) == ("{{ messages }}", "<|end|>")


def test_an_answer_is_encoded_together_with_its_prompt():
    """As in training: a tokenizer such as Llama-2's marks where a text begins, so an answer alone has other tokens."""
    text = "Ann has bought 29 nuts."
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=60, special_tokens=["</s>"], show_progress=False)
    bpe.train_from_iterator(text.split(), trainer)
    tokenizer = load_tokenizer(from_huggingface(bpe.to_str(), 0, "marked"))
    for n, answer in ((14, "29 nuts."), (10, "bought 29 nuts.")):  # a prompt of 10 ends within a token
        prompt_ids, answer_ids = encode_task(tokenizer, Task(text[:n], text[n:]))
        assert prompt_ids + answer_ids == tokenizer.encode_prompt(text) and tokenizer.decode(answer_ids) == answer


def test_a_mixture_is_a_mixtral(tiny, here):
    """Logits, router probabilities and token ids are equal, with sharp routers from text and a tokenizer of own text.

    It comes back when others have finetuned it.
    """
    mix.main([*(f"{tiny}/{name}.pt" for name in ("seed", "math", "code")), "--out", "mixed.pt", "--ridge",
              "--router_data", "general,math,code", "--data_dir", f"{tiny}/data", "--sharpness", "30"])
    mixed = load_checkpoint("mixed.pt")
    mixed["config"] |= {"block_size": 1600, "rope_factor": 8.0}
    for name, p in mixed["state"].items():
        if "router" not in name:
            mixed["state"][name] = p + torch.randn(p.shape) / 2
    mixed["spec"] = new_bpe(train_bpe(TEXTS[:100], 500), "own") | {"files": {"../../up": "from a stranger"}}
    save_checkpoint("mixed.pt", mixed)
    hf.main(["export", "mixed.pt", "out"])
    assert {path.name for path in here.iterdir()} == {"mixed.pt", "out"}  # an export writes nothing elsewhere
    ours, theirs = build_model(mixed), AutoModelForCausalLM.from_pretrained("out")
    idx = torch.randint(1024, (1, 1600))
    (logits, _, routing), same = ours(idx), theirs(idx, output_router_logits=True)
    torch.testing.assert_close(logits, same.logits, atol=1e-3, rtol=1e-4)
    for layer, router_logits in zip(routing, same.router_logits, strict=True):
        assert layer.gates[:, 0].mean() > 0.8
        torch.testing.assert_close(layer.probs, router_logits.softmax(-1), atol=1e-3, rtol=1e-4)
    tokenizer, words = load_tokenizer(mixed["spec"]), AutoTokenizer.from_pretrained("out")
    assert words.eos_token_id == tokenizer.eot
    assert words(TEXTS).input_ids == [tokenizer.encode_prompt(text) for text in TEXTS]
    theirs.lm_head.weight.data *= 1.1
    theirs.save_pretrained("tuned")
    words.save_pretrained("tuned")
    hf.main(["import", "tuned", "--out", "back.pt", "--branch_of", "mixed.pt"])
    back = load_checkpoint("back.pt")
    assert back["experts"] == ["seed", "math", "code"] and back["spec"] == mixed["spec"]
    assert back["ledger"][:-1] == mixed["ledger"]
    torch.testing.assert_close(build_model(back)(idx)[0], 1.1 * ours(idx)[0])


def finetune(folder, noise):
    """A finetune of the folder `base` made by transformers alone. It has one more token, for padding."""
    model = AutoModelForCausalLM.from_pretrained("base")
    words = hf.transformers.PreTrainedTokenizerFast(tokenizer_file="base/tokenizer.json")
    with torch.no_grad():
        for p in model.parameters():
            p.add_(noise * torch.randn(p.shape))
    words.add_special_tokens({"pad_token": "[PAD]"})
    model.resize_token_embeddings(401)
    model.save_pretrained(folder)
    words.save_pretrained(folder)


def test_a_finetune_is_mixed_with_its_base(here):
    """The matrices of the stranger are others, but most of a model so small are norms near 1."""
    make_folder(here / "base", std=0.02)
    finetune("near", 0.002)
    finetune("stranger", 0.03)
    hf.main(["import", "base", "--out", "seed.pt"])
    hf.main(["import", "near", "--out", "near.pt", "--branch_of", "seed.pt"])
    mix.main(["seed.pt", "near.pt", "--out", "mixed.pt"])
    for folder, out, seed, error in [("stranger", "a.pt", "seed.pt", "150 % away from the seed's; no branch"),
                                     ("near", "a.pt", "mixed.pt", "n_expert is 0, the seed's 2"),
                                     ("near", "seed.pt", "seed.pt", "--out")]:
        with pytest.raises(BadInput, match=error):
            hf.main(["import", folder, "--out", out, "--branch_of", seed])


@pytest.mark.parametrize("what", [*REFUSED, *FILES, *GONE, *EDITS])
def test_refused_imports(what, here):
    make_folder(here / "in", **REFUSED.get(what, {}))
    if what in FILES:
        (here / "in" / FILES[what]).write_text("{")
    if what in GONE:
        (here / "in" / GONE[what]).rename("gone")
    if what in EDITS:
        path = here / "in" / "config.json"
        path.write_text(path.read_text().replace(*EDITS[what], 1))
    with pytest.raises(BadInput, match=f"^in.*{SAID.get(what, '')}"):
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
    monkeypatch.undo()
    assert not any(here.iterdir())
