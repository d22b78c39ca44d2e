"""hf.py against transformers: logits, text and token ids are the same, and a model of another kind is refused."""
import json

import pytest
import torch

pytest.importorskip("transformers")
import tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, MistralConfig, MixtralConfig

import evaluate
import hf
import mix
from cli import BadInput
from data.loader import load_domains
from data.task import Task
from data.tokenizer import END, encode_prompt, load_tokenizer, new_bpe, train_bpe
from support.checkpoint import build_model, load_checkpoint, save_checkpoint
from support.generation import generate

LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
REFUSED = {"a scaled RoPE": {"rope_parameters": LLAMA3}, "biases": {"attention_bias": True},
           "wide heads": {"head_dim": 16}, "no number": {"rms_norm_eps": float("nan")},
           "few embeddings": {"vocab_size": 300, "eos_token_id": 5}, "two ends": {"eos_token_id": [5, 399]}}
FILES = {"an adapter": "adapter_config.json", "GGUF": "model.gguf"}  # what is in a folder that is refused
TEXTS = [hf.TEXT[i:i + 80] + "  \n\t👨‍👩‍👧日本٣" for i in range(0, 2000, 10)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_folder(folder, dtype=torch.float32, kind=LlamaConfig, **config):
    """A random Llama of transformers and a byte-level BPE, whose file cuts texts and ends them with <|end|>."""
    shape = {"vocab_size": 400, "hidden_size": 48, "intermediate_size": 36, "num_hidden_layers": 2, "eos_token_id": 399,
             "max_position_embeddings": 600, "num_attention_heads": 6, "num_key_value_heads": 2}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(kind(**shape | config)).to(dtype)
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
    options = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), bpe


@pytest.mark.parametrize(("tied", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
def test_a_llama_comes_in_and_goes_out(tied, dtype, here):
    theirs, bpe = make_folder(here / "in", dtype, tie_word_embeddings=tied, rms_norm_eps=1e-3, rope_theta=300.0)
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
    assert '\n  "rope_theta": 300.0' in (here / "deeper/out/config.json").read_text()  # where transformers 4 looks
    assert all(torch.equal(p, back.get_parameter(name)) for name, p in theirs.named_parameters())
    words = AutoTokenizer.from_pretrained("deeper/out")
    assert (words.chat_template, words.pad_token) == ("{{ messages }}", "<|end|>")


def test_a_mixture_is_a_mixtral(tiny, here):
    """With a tokenizer of own text. The same logits, token ids and greedy text there, and the same weights again."""
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
    assert theirs.eos_token_id == ours.eot and theirs(TEXTS).input_ids == [encode_prompt(ours, text) for text in TEXTS]
    model, theirs.padding_side = AutoModelForCausalLM.from_pretrained("out"), "left"
    batch = theirs(["Tom", "Tom has 3"], padding=True, return_tensors="pt")
    alone = model(theirs("Tom", return_tensors="pt").input_ids).logits[0]  # (T, V)
    torch.testing.assert_close(model(**batch).logits[0, -len(alone):], alone, atol=1e-4, rtol=1e-4)
    hf.main(["import", "out", "--out", "back.pt"])
    back = load_checkpoint("back.pt")
    assert back["experts"] == mixed["experts"] and back["spec"] == mixed["spec"]
    assert all(torch.equal(tensor, mixed["state"][name]) for name, tensor in back["state"].items())


@pytest.mark.parametrize("kind, config", [(MixtralConfig, {"num_local_experts": 3}), (MistralConfig, {})])
def test_a_mixtral_and_a_mistral_of_others_come_in(kind, config, here):
    theirs, _ = make_folder(here / "in", kind=kind, sliding_window=None, **config)
    hf.main(["import", "in", "--out", "a.pt"])
    checkpoint, idx = load_checkpoint("a.pt"), torch.randint(400, (2, 500))
    assert checkpoint["experts"] == [f"expert{i + 1}" for i in range(config.get("num_local_experts", 0))]
    torch.testing.assert_close(build_model(checkpoint)(idx)[0], theirs(idx).logits, atol=1e-4, rtol=1e-4)


def finetune(folder, noise, pad=False):
    """A finetune of the folder `base` made by transformers alone; with pad its tokenizer has one more token."""
    model, words = AutoModelForCausalLM.from_pretrained("base"), AutoTokenizer.from_pretrained("base")
    with torch.no_grad():
        for p in model.parameters():
            p.add_(noise * torch.randn(p.shape))
    if pad:
        words.add_special_tokens({"pad_token": "[PAD]"})
        model.resize_token_embeddings(401)
    model.save_pretrained(folder)
    words.save_pretrained(folder)


def test_finetunes_of_one_base_are_mixed(here, capsys):
    make_folder(here / "base")
    finetune("near", 0.02)
    finetune("padded", 0.03, pad=True)
    finetune("stranger", 1.0)
    hf.main(["import", "base", "--out", "seed.pt"])
    for name in ("near", "padded"):
        hf.main(["import", name, "--out", f"{name}.pt", "--branch_of", "seed.pt"])
    assert "is cut off" in capsys.readouterr().out
    mix.main(["seed.pt", "near.pt", "padded.pt", "--out", "mixed.pt"])
    hf.main(["export", "mixed.pt", "mixed"])
    with pytest.raises(BadInput, match="away from the seed's; no branch"):
        hf.main(["import", "stranger", "--out", "a.pt", "--branch_of", "seed.pt"])


@pytest.mark.parametrize("what", [*REFUSED, *FILES, "a window", "no folder"])
def test_refused_imports(what, here):
    if what == "a window":
        make_folder(here / "in", kind=MistralConfig, sliding_window=64)
    elif what != "no folder":
        make_folder(here / "in", **REFUSED.get(what, {}))
    if what in FILES:
        (here / "in" / FILES[what]).touch()
    with pytest.raises(BadInput, match="^in"):
        hf.main(["import", "in", "--out", "a.pt"])
    assert not (here / "a.pt").exists()


def test_the_token_that_ends_a_text_can_be_chosen(here):
    make_folder(here / "in", eos_token_id=[5, 399])
    hf.main(["import", "in", "--out", "a.pt", "--eot", "<|end|>"])
    assert load_checkpoint("a.pt")["spec"]["eot"] == 399


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


def test_a_lora_that_peft_merged_comes_back(here):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    make_folder(here / "base")
    hf.main(["import", "base", "--out", "seed.pt"])
    lora = peft.LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    merged = peft.get_peft_model(AutoModelForCausalLM.from_pretrained("base"), lora).merge_and_unload()
    merged.save_pretrained("merged")
    AutoTokenizer.from_pretrained("base").save_pretrained("merged")
    hf.main(["import", "merged", "--out", "a.pt", "--branch_of", "seed.pt"])
    mix.main(["seed.pt", "a.pt", "--out", "mixed.pt"])


@pytest.mark.long
def test_lm_eval_measures_what_evaluate_does(tiny, here):
    """Accuracy on two domains, by the rule of evaluate.py: all tokens of the answer are the likeliest."""
    lm_eval = pytest.importorskip("lm_eval", reason="lm_eval is not installed")
    hf.main(["export", str(tiny / "seed.pt"), "out"])
    model = AutoModelForCausalLM.from_pretrained("out")
    domains = {name: load_domains(tiny / "data")[name].tasks for name in ("general", "wiki")}
    easy = []  # tasks that this model solves: its own continuations
    words = AutoTokenizer.from_pretrained("out")
    for task in domains["general"]:
        ids = words(task.prompt, return_tensors="pt").input_ids
        written = model.generate(ids, max_new_tokens=2, do_sample=False, pad_token_id=0)[0, ids.shape[1]:]
        easy.append(Task(task.prompt, words.decode(written)))
    domains["general"] = easy
    rule = {"dataset_path": "json", "test_split": "test", "output_type": "loglikelihood", "doc_to_text": "{{prompt}}",
            "doc_to_target": "{{answer}}", "target_delimiter": "", "metric_list": [{"metric": "acc"}]}
    tasks = []
    for name, rows in domains.items():
        lines = [json.dumps({"prompt": task.prompt, "answer": task.answer}) + "\n" for task in rows]
        (here / f"{name}.jsonl").write_text("".join(lines))
        tasks.append(rule | {"task": name, "dataset_kwargs": {"data_files": {"test": f"{here}/{name}.jsonl"}}})
    found = lm_eval.simple_evaluate(model="hf", model_args="pretrained=out", tasks=tasks, device="cpu")["results"]
    ours = build_model(load_checkpoint(tiny / "seed.pt"))
    for name, rows in domains.items():
        solved, _ = evaluate.score_tasks(ours, load_tokenizer(), rows, 4, "cpu")
        assert found[name]["acc,none"] == pytest.approx(solved.double().mean().item())
