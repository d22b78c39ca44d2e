"""hf.py against transformers: logits, gradients, generation, token ids, and folders that are not what they should be."""
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
import hypothesis
import hypothesis.strategies as st
import tokenizers
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, MixtralConfig

import evaluate
import hf
import mix
import sample
import train_expert
from data import prepare, tokenizer
from data.task import DOMAINS, domain_module
from support import checkpoint as ckpt
from support import files
from support.settings import BadInput

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
SHAPE = {"vocab_size": 400, "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 2, "max_position_embeddings": 96,
         "eos_token_id": 399, "bos_token_id": 399}
STRETCHED = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
             "original_max_position_embeddings": 8192}
CONFIGS = {
    "llama": LlamaConfig(**SHAPE, num_attention_heads=4),
    "llama, grouped queries, tied": LlamaConfig(**SHAPE, num_attention_heads=6, num_key_value_heads=2, tie_word_embeddings=True),
    "llama, one head, other constants": LlamaConfig(**SHAPE, num_attention_heads=1, rms_norm_eps=1e-3, rope_theta=300.0),
    "llama 3, stretched": LlamaConfig(**SHAPE, num_attention_heads=2, rope_parameters={"rope_theta": 5e5, **STRETCHED}),
    "mixtral": MixtralConfig(**SHAPE, num_attention_heads=4, num_key_value_heads=4, num_local_experts=3),
    "mixtral, grouped queries, top-3": MixtralConfig(**SHAPE, num_attention_heads=6, num_key_value_heads=3, num_local_experts=5,
                                                     num_experts_per_tok=3, tie_word_embeddings=True),
}
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)"
         r"|\s+")  # Llama 3's
CUTS = {
    "gpt2": tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
    "digits": tokenizers.pre_tokenizers.Sequence([tokenizers.pre_tokenizers.Digits(individual_digits=True),
                                                  tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "llama3": tokenizers.pre_tokenizers.Sequence([tokenizers.pre_tokenizers.Split(tokenizers.Regex(SPLIT), "isolated"),
                                                  tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
}


def texts(n, seed=0):
    """Text of the domains, of other scripts, code, emoji and white space, n strings."""
    rng = random.Random(seed)
    words = hf.PROBE.split(" ") + ["👍🏽", "\t", "\n\n", " ", "  ", "'ll", "1234", "\u00a0", "naïve", "日本", "\r\n"]
    for i in range(n):
        yield (domain_module(rng.choice(DOMAINS)).document(rng) if i % 3 == 0 else
               "".join(rng.choice(words) + rng.choice(["", " ", "  "]) for _ in range(rng.randint(1, 12))))


def of_characters(folder):
    """A BPE of 400 tokens as Llama 2's, of characters and bytes, trained by the library `tokenizers`."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Split("\n", "isolated"), tokenizers.pre_tokenizers.Metaspace(prepend_scheme="never")])
    made.train_from_iterator([*texts(300), "    " * 99], tokenizers.trainers.BpeTrainer(
        vocab_size=399, limit_alphabet=70, initial_alphabet=["你", "好", "👍"], show_progress=False,
        special_tokens=["<unk>", *map(tokenizer.byte_token, range(256))]))
    file = json.loads(made.to_str())
    vocab = file["model"]["vocab"]
    vocab.pop("\n", None)
    a, b = ("".join(merge) for merge in (file["model"]["merges"][0], file["model"]["merges"][-1]))
    vocab[a], vocab[b] = vocab[b], vocab[a]  # Llama 2's ids are not in the order of its merges either
    prepend = {"type": "Prepend", "prepend": "▁"}
    end = file["added_tokens"][0] | {"id": 399, "content": "</s>"}
    file |= {"normalizer": {"type": "Sequence", "normalizers": [prepend, hf.SPACES]}, "pre_tokenizer": None,
             "added_tokens": [file["added_tokens"][0], end]}
    file["model"]["vocab"]["</s>"] = 399
    (folder / "tokenizer.json").write_text(json.dumps(file))
    return tokenizers.Tokenizer.from_str(json.dumps(file))


def their_tokenizer(cut, folder, missing=()):
    """A BPE of 400 tokens, of bytes or, as "llama2", of characters, trained by the library `tokenizers`."""
    if cut == "llama2":
        return of_characters(folder)
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer, made.decoder = CUTS[cut], tokenizers.decoders.ByteLevel()
    letters = [sign for b, sign in hf.alphabet().items() if b not in missing]
    made.train_from_iterator(texts(300), tokenizers.trainers.BpeTrainer(
        vocab_size=399, initial_alphabet=letters, limit_alphabet=len(letters), show_progress=False))
    made.add_special_tokens([tokenizers.AddedToken("<|endoftext|>", special=True)])
    made.save(str(folder / "tokenizer.json"))
    return made


def folder_of(config, folder, cut="gpt2", **options):
    """A random model of transformers', saved with a tokenizer; returns it in evaluation mode."""
    torch.manual_seed(0)
    kind = transformers.MixtralForCausalLM if config.model_type == "mixtral" else transformers.LlamaForCausalLM
    model = kind(config).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    model.save_pretrained(folder, **options)
    their_tokenizer(cut, folder)
    return model


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", CONFIGS)
def test_in_and_out(name, here):
    """Logits, greedy generation and gradients are transformers' own, before and after; weights come back bit for bit."""
    theirs = folder_of(CONFIGS[name], here / "in", max_shard_size="20KB")
    hf.main(["import", "in", "--out", "a.pt"])
    hf.main(["export", "a.pt", "out", "--shard_size", "1"])
    hf.main(["import", "out", "--out", "b.pt"])
    a, b = ckpt.load("a.pt"), ckpt.load("b.pt")
    assert a["config"] == b["config"] and a["tokenizer"]["fingerprint"] == b["tokenizer"]["fingerprint"]
    assert a["model"].keys() == b["model"].keys() and all(torch.equal(a["model"][key], b["model"][key]) for key in a["model"])
    assert [e["stage"] for e in b["lineage"]] == ["import", "import"] and b["lineage"][0] == a["lineage"][0]
    ours, back = ckpt.build(a), AutoModelForCausalLM.from_pretrained("out")
    assert {n: p.tolist() for n, p in back.named_parameters()} == {n: p.tolist() for n, p in theirs.named_parameters()}
    idx = torch.randint(400, (2, 48), generator=torch.Generator().manual_seed(1))
    for model in (theirs, back):
        for p in (*model.parameters(), *ours.parameters()):
            p.grad = None
        logits, loss, _ = ours(idx[:, :-1], idx[:, 1:])
        expected = model(idx[:, :-1]).logits
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
        loss.backward()
        torch.nn.functional.cross_entropy(expected.flatten(0, 1), idx[:, 1:].flatten()).backward()
        wanted = model.model.embed_tokens.weight.grad
        assert (ours.embed.weight.grad - wanted).norm() <= 1e-4 * wanted.norm() > 0
        wanted = model.model.layers[0].self_attn.k_proj.weight.grad
        assert (ours.blocks[0].attn.wk.weight.grad - wanted).norm() <= 1e-4 * wanted.norm() > 0
    start = idx[:, :10]
    written = theirs.generate(start, max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(ours.generate(start, 64), written)


@pytest.mark.parametrize("n", [3_000, pytest.param(100_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("cut", [*CUTS, "llama2"])
def test_a_tokenizer_from_there(cut, n, here):
    """The same ids, there, here and in what is exported. (Llama 2's puts a space in front of a text; here a text has to.)"""
    theirs, space = their_tokenizer(cut, here), " " * (cut == "llama2")
    about = hf.read_tokenizer(here, {"eos_token_id": 399}, 410)
    encoding = tokenizer.of(about, "x")
    assert encoding.n_vocab == 410 and encoding.eot_token == 399
    (here / "again").mkdir()
    (here / "again" / "tokenizer.json").write_text(json.dumps(hf.their_tokenizer(about, encoding)[0]))
    assert hf.read_tokenizer(here / "again", {"eos_token_id": 399}, 410)["fingerprint"] == about["fingerprint"]
    back = tokenizers.Tokenizer.from_file(str(here / "again" / "tokenizer.json"))
    theirs.encode_special_tokens = back.encode_special_tokens = True  # as text, which a text that spells them is
    for text in filter(None, texts(n, seed=1)):
        ids = encoding.encode_ordinary(space + text)
        assert theirs.encode(text).ids == ids == back.encode(space + text).ids
        assert encoding.decode(ids) == back.decode(ids) == space + text

    @hypothesis.settings(max_examples=500, deadline=None)
    @hypothesis.example("a <|endoftext|> b")
    @hypothesis.example("▁a▁▁b ▁")
    @hypothesis.given(st.text())
    def any_text(text):
        if text:
            assert theirs.encode(text).ids == encoding.encode_ordinary(space + text) == back.encode(space + text).ids
    any_text()
    assert encoding.encode(f"a{tokenizer.END}b", allowed_special="all") == [
        *encoding.encode_ordinary("a"), 399, *encoding.encode_ordinary("b")]
    assert tokenizer.piece(encoding, encoding.encode_ordinary("a")[0]) == b"a" and tokenizer.piece(encoding, 10**6) == b""


def test_bytes_that_have_no_token(here):
    """SmolLM's tokenizer has none for some control codes, and drops them."""
    theirs = their_tokenizer("digits", here, missing=(4, 29, 0xF1, 0xFF))
    encoding = tokenizer.of(hf.read_tokenizer(here, {"eos_token_id": 399}, 400), "x")
    for text in ("a\x04b \x1d c", "\x04", "x \U00040000 1"):
        assert encoding.decode(encoding.encode_ordinary(text)) == text.translate(dict.fromkeys((4, 29, 0x40000)))
    assert theirs.encode("a\x04b").ids == encoding.encode_ordinary("a\x04b")


def test_a_seed_whose_tokens_are_of_characters(here):
    """In, its text, a step of training, out again, with the same ids there as here."""
    folder_of(CONFIGS["llama"], here / "in", cut="llama2")
    (here / "text").write_text("".join(texts(300)))
    hf.main(["import", "in", "--out", "a.pt"])
    prepare.main("--domains  --text own=text --init a.pt --out data".split(" "))
    train_expert.main("--init a.pt --data own --data_dir data --steps 1 --device cpu --out b.pt".split())
    evaluate.main("b.pt --data_dir data --device cpu --windows 2 --out report".split())
    sample.main(["b.pt", "--prompt", "Tom", "--tokens", "3", "--device", "cpu"])
    hf.main(["export", "b.pt", "out"])
    ours, theirs = tokenizer.of(ckpt.load("b.pt")["tokenizer"], "b.pt"), AutoTokenizer.from_pretrained("out")
    for text in texts(100):
        assert theirs(text, split_special_tokens=True).input_ids == ours.encode_ordinary(text)


CHARACTERS = {  # what is wrong with Llama 2's kind of tokenizer: what to do to the file, and what is said of it
    "no token for a byte": (lambda f: f["model"]["vocab"].update({"A0": f["model"]["vocab"].pop("<0x41>")}), "<0x41>"),
    "a token behind a space": (lambda f: extend(f["model"], "e▁", "e", "▁"), "behind a space"),
    "a long token": (lambda f: [extend(f["model"], a + a, a, a) for a in ("e" * 2**n for n in range(9))], "256 bytes"),
    "a space as itself": (lambda f: f["model"]["vocab"].update({"a b": 398}), "written as ▁"),
    "a merge too few": (lambda f: f["model"]["merges"].pop(), "no merge makes"),
    "a merge of no token": (lambda f: f["model"]["merges"].append(["e", "<"]), "which is no token"),
    "tokens beside the merges": (lambda f: f["model"].update(ignore_merges=True), "ignore_merges"),
    "more than spaces is normalized": (lambda f: f["normalizer"]["normalizers"].append({"type": "Lowercase"}), "not a BPE"),
    "words are cut": (lambda f: f.update(normalizer=None, pre_tokenizer=METASPACE | {"split": True}), "not a BPE"),
    "another sign": (lambda f: f.update(normalizer=None, pre_tokenizer=METASPACE | {"replacement": "_"}), "not a BPE"),
}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}


def extend(model, token, *merge):
    """One more token in a tokenizer.json, and the merge that makes it."""
    model["vocab"][token] = 1000 + len(model["vocab"])
    model["merges"].append([*merge])


@pytest.mark.parametrize("what", CHARACTERS)
def test_bad_tokenizers_of_characters(what, here):
    of_characters(here)
    file = json.loads((here / "tokenizer.json").read_text())
    spoil, reason = CHARACTERS[what]
    spoil(file)
    (here / "tokenizer.json").write_text(json.dumps(file))
    with pytest.raises(BadInput, match=f"tokenizer.json.*{reason}"):
        hf.read_tokenizer(here, {"eos_token_id": 399}, 2000)


def test_ids_that_are_no_whole_numbers(here):
    """A checkpoint that holds them is refused before anything uses them."""
    of_characters(here)
    about = hf.read_tokenizer(here, {"eos_token_id": 399}, 400)
    for i in (399.0, True):
        bpe = about["bpe"] | {"special": about["bpe"]["special"] | {"</s>": i}}
        with pytest.raises(BadInput, match="whole number|one id"):
            tokenizer.of(about | {"bpe": bpe}, "a.pt")


def test_spaces_may_be_written_by_a_pre_tokenizer(here):
    of_characters(here)
    about = hf.read_tokenizer(here, {"eos_token_id": 399}, 400)
    edit(here / "tokenizer.json", normalizer=None, pre_tokenizer=METASPACE)
    assert hf.read_tokenizer(here, {"eos_token_id": 399}, 400) == about


@pytest.mark.parametrize("whole", [False, True])
def test_random_merges_are_joined_alike(whole):
    """Small models with merges in any order, several for a token, and ids in any order: the same ids there, or refused."""
    rng, accepted, letters = random.Random(0), 0, ["a", "b", "c"]
    texts = ["".join(rng.choices(letters, k=12)) for _ in range(40)]
    special = {tokenizer.END: 99} | {tokenizer.byte_token(b): 100 + b for b in range(256)}
    for _ in range(800):
        tokens, merges = letters.copy(), []
        for _ in range(rng.randint(2, 8)):
            a, b = rng.choice(tokens), rng.choice(tokens)
            tokens += [a + b] * (a + b not in tokens)
            merges.insert(rng.randint(0, len(merges)), (a, b))
        merges = [*dict.fromkeys(merges)]
        ids = {t: i for i, t in enumerate(letters + rng.sample(tokens[3:], len(tokens) - 3))}
        try:
            ranks = hf.in_order({t.encode(): i for t, i in ids.items()},
                                {(a.encode(), b.encode()): place for place, (a, b) in enumerate(merges)}, whole)
        except ValueError:
            continue
        accepted += 1
        theirs = tokenizers.Tokenizer(tokenizers.models.BPE(ids, merges))
        ours = (tokenizer.Characters("x", ranks, special) if whole else
                tokenizer.tiktoken.Encoding("x", pat_str=".+", mergeable_ranks=ranks, special_tokens={}))
        assert all(theirs.encode(text).ids == ours.encode_ordinary(text) for text in texts), (ids, merges)
    assert accepted > 50


def test_our_tokenizer_there(tiny, here):
    hf.main(["export", str(tiny / "btx_mixed.pt"), "out"])
    theirs, ours = AutoTokenizer.from_pretrained("out"), tokenizer.load()
    for text in texts(3000, seed=2):
        assert theirs(text).input_ids == ours.encode_ordinary(text) and theirs.decode(ours.encode_ordinary(text)) == text
    assert theirs.eos_token_id == ours.eot_token

    @hypothesis.settings(max_examples=500, deadline=None)
    @hypothesis.given(st.text())
    def any_text(text):
        assert theirs(text, split_special_tokens=True).input_ids == ours.encode_ordinary(text)
    any_text()


def test_what_is_mixed_here_and_what_is_mixed_there(tiny, here):
    """Each expert of the exported mixture is the exported expert's feed-forward; the rest is the mean of what was exported."""
    names = ("seed", "math", "code")
    mix.main([str(tiny / f"{name}.pt") for name in names] + ["--out", "mixed.pt"])
    hf.main(["export", "mixed.pt", "mixed"])
    for name in names:
        hf.main(["export", str(tiny / f"{name}.pt"), name])
    mixed = AutoModelForCausalLM.from_pretrained("mixed").state_dict()
    dense = [AutoModelForCausalLM.from_pretrained(name).state_dict() for name in names]
    fused = {"gate_up_proj": lambda d, at: torch.cat([d[f"{at}gate_proj.weight"], d[f"{at}up_proj.weight"]]),
             "down_proj": lambda d, at: d[f"{at}down_proj.weight"]}
    for key, tensor in mixed.items():
        at, _, last = key.partition("experts.")
        if last:
            assert all(torch.equal(tensor[n], fused[last](d, at)) for n, d in enumerate(dense)), key
        elif not key.endswith("mlp.gate.weight"):
            torch.testing.assert_close(tensor, torch.stack([d[key] for d in dense]).mean(0), msg=key)
    assert sum("experts" in key for key in mixed) == 4 and sum(key.endswith("mlp.gate.weight") for key in mixed) == 2


def test_branches_that_went_out_and_in_are_still_of_one_seed(tiny, here):
    for name in ("seed", "math"):
        checkpoint = ckpt.load(tiny / f"{name}.pt")
        checkpoint["lineage"][0]["settings"]["out"] = "caf\udce9/seed.pt"  # a folder whose name is not UTF-8
        ckpt.save(f"{name}.pt", checkpoint)
        hf.main(["export", f"{name}.pt", f"{name}-hf"])
        hf.main(["import", f"{name}-hf", "--out", f"back_{name}.pt"])
    mix.main(["seed.pt", "back_math.pt", "--out", "mixed.pt"])
    mix.main(["back_seed.pt", "math.pt", "--out", "mixed.pt"])
    sample.main(["seed.pt", "back_math.pt", "--btm", "bayes:1", "--prompt", "Tom", "--tokens", "3"])
    sample.main(["mixed.pt", "--prompt", "Tom", "--tokens", "3"])


BAD = {
    "no folder": lambda d: shutil.rmtree(d),
    "no weights": lambda d: (d / "model-00001-of-00002.safetensors").unlink(),
    "half of the weights": lambda d: cut(d / "model-00001-of-00002.safetensors"),
    "a header of 2 GB": lambda d: (d / "model-00001-of-00002.safetensors").write_bytes(b"\xff\xff\xff\x7f\0\0\0\0" + bytes(99)),
    "no index": lambda d: (d / "model.safetensors.index.json").unlink(),
    "an index out of the folder": lambda d: edit(d / "model.safetensors.index.json", weight_map={"x": "../x.safetensors"}),
    "an index that is none": lambda d: edit(d / "model.safetensors.index.json", weight_map=3),
    "a tensor twice": lambda d: shutil.copy(d / "model-00001-of-00002.safetensors", d / "model-00002-of-00002.safetensors"),
    "a link out of the folder": lambda d: link(d / "tokenizer.json"),
    "another family": lambda d: edit(d / "config.json", model_type="gpt2"),
    "a window": lambda d: edit(d / "config.json", sliding_window=32),
    "biases": lambda d: edit(d / "config.json", attention_bias=True),
    "quantised": lambda d: edit(d / "config.json", quantization_config={"bits": 4}),
    "another activation": lambda d: edit(d / "config.json", hidden_act="gelu"),
    "another scaling": lambda d: edit(d / "config.json", rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}),
    "other numbers of that scaling": lambda d: edit(d / "config.json", rope_parameters=STRETCHED | {"low_freq_factor": 2.0}),
    "two scalings": lambda d: edit(d / "config.json", rope_scaling={"type": "linear", "factor": 4.0}),
    "a factor of no scaling": lambda d: edit(d / "config.json", rope_parameters={"rope_theta": 1e4, "factor": 8.0}),
    "two models": lambda d: (d / "model.safetensors").touch(),
    "a token that is no special one": lambda d: edit(d / "tokenizer.json", added_tokens=lambda old: old + [
        old[0] | {"id": 300, "content": "Hello", "special": False}]),
    "a prefix": lambda d: edit(d / "tokenizer.json", model=lambda m: m | {"continuing_subword_prefix": "##"}),
    "something unheard of": lambda d: edit(d / "config.json", logit_scale=0.1),
    "another width": lambda d: edit(d / "config.json", intermediate_size=40),
    "another depth": lambda d: edit(d / "config.json", num_hidden_layers=3),
    "wide heads": lambda d: edit(d / "config.json", head_dim=12),
    "a ledger that is none": lambda d: edit(d / "config.json", btx={"lineage": [3]}),
    "a ledger of no stages": lambda d: edit(d / "config.json", btx={"lineage": [{"id": "a"}]}),
    "no width": lambda d: edit(d / "config.json", hidden_size=None),
    "words for numbers": lambda d: edit(d / "config.json", num_hidden_layers="two"),
    "a config that is none": lambda d: (d / "config.json").write_text("[1]"),
    "a smaller vocabulary": lambda d: edit(d / "config.json", vocab_size=390),
    "no end of text": lambda d: edit(d / "config.json", eos_token_id=5),
    "another kind of tokenizer": lambda d: edit(d / "tokenizer.json", model={"type": "Unigram", "vocab": []}),
    "a normalizer": lambda d: edit(d / "tokenizer.json", normalizer={"type": "NFC"}),
    "merges out of order": lambda d: edit(d / "tokenizer.json", model=lambda m: m | {"merges": m["merges"][::-1]}),
    "a merge too few": lambda d: edit(d / "tokenizer.json", model=lambda m: m | {"merges": m["merges"][:-1]}),
    "an id twice": lambda d: edit(d / "tokenizer.json", model=lambda m: m | {"vocab": m["vocab"] | {"th": 3}}),
    "another cut": lambda d: edit(d / "tokenizer.json", pre_tokenizer={"type": "Whitespace"}),
}


def cut(path):
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def link(path):
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to("../elsewhere")


def edit(path, **new):
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {key: v(about[key]) if callable(v) else v for key, v in new.items()}))


@pytest.mark.parametrize("what", BAD)
def test_bad_folders(what, here):
    folder_of(CONFIGS["llama"], here / "in", max_shard_size="80KB")
    assert len(list((here / "in").glob("*-of-00002.safetensors"))) == 2
    BAD[what](here / "in")
    with pytest.raises(BadInput, match="^in|^--"):
        hf.main(["import", "in", "--out", "a.pt"])
    assert not list(here.glob("*.pt"))


def test_an_import_knows_its_tokenizer_and_its_experts(here):
    """Folders that differ in one of them are two stages in the ledger."""
    ids = []
    for cut, experts in (("gpt2", "abc"), ("digits", "abc"), ("gpt2", "bac")):
        folder_of(CONFIGS["mixtral"], here / "in", cut)
        edit(here / "in" / "config.json", btx={"experts": [*experts], "lineage": []})
        hf.main(["import", "in", "--out", "a.pt"])
        ids.append(ckpt.load("a.pt")["lineage"][-1]["id"])
    assert len({*ids}) == 3


def test_bad_exports(tiny, here):
    (here / "old").mkdir()
    for words in (["export", str(tiny / "sample_mixed.pt"), "out"], ["export", str(tiny / "seed.pt"), "old"],
                  ["export", "none.pt", "out"], ["export"], [], ["import", "old", "--shard_size", "1", "--out", "a.pt"]):
        with pytest.raises(BadInput):
            hf.main(words)
    assert [p.name for p in here.iterdir()] == ["old"]


def test_what_could_not_be_imported_is_not_exported(tiny, here, monkeypatch):
    """A tokenizer.json may be too large where the checkpoint, which holds its tokens once, is not."""
    monkeypatch.setattr(files, "LIMIT", 20_000)
    with pytest.raises(BadInput, match="seed.pt.*more than 20,000 bytes"):
        hf.main(["export", str(tiny / "seed.pt"), "out"])
    assert not list(here.iterdir())


def test_an_experts_name_cannot_leave_its_place_in_a_card(tiny, here):
    checkpoint = ckpt.load(tiny / "btx_mixed.pt")
    checkpoint["experts"][0] = "<img src=x>"
    ckpt.save("a.pt", checkpoint)
    hf.main(["export", "a.pt", "out"])
    card = (here / "out" / "README.md").read_text()
    assert "<" not in card and "&lt;img src=x&gt;" in card


def test_two_exports_into_one_folder_do_not_mix(tiny, here, monkeypatch):
    """The second is refused while the first writes, and leaves alone what that is writing."""
    import safetensors.torch
    real, refused = safetensors.torch.save_file, []

    def save_file(*arguments):
        real(*arguments)
        if not refused:
            refused.append(1)
            with pytest.raises(BadInput, match="another run"):
                hf.main(["export", str(tiny / "math.pt"), str(here / "both")])
    monkeypatch.setattr(safetensors.torch, "save_file", save_file)
    hf.main(["export", str(tiny / "seed.pt"), str(here / "both")])
    assert refused and {p.name for p in here.iterdir()} == {"both"}
    hf.main(["import", str(here / "both"), "--out", str(here / "again.pt")])
    ours, back = ckpt.load(tiny / "seed.pt")["model"], ckpt.load(here / "again.pt")["model"]
    assert all(torch.equal(t, back[name]) for name, t in ours.items())


def test_experts_of_two_dtypes_are_not_rounded_to_one(tiny, here):
    from safetensors.torch import load_file, save_file
    hf.main(["export", str(tiny / "btx_mixed.pt"), str(here / "m")])
    weights = load_file(here / "m" / "model.safetensors")
    name = "model.layers.0.block_sparse_moe.experts.0.w2.weight"
    save_file(weights | {name: weights[name].bfloat16()}, here / "m" / "model.safetensors")
    with pytest.raises(BadInput, match="float32.*bfloat16|bfloat16.*float32"):
        hf.main(["import", str(here / "m"), "--out", str(here / "o.pt")])
    assert not (here / "o.pt").exists()


def test_mergekit_mixes_the_same(tiny, here):
    """Its linear merge is our average, bit for bit, and its MoE of that and the experts is ours, but for the routers.

    The paper's recipe in two steps: mergekit-moe alone would take all but the experts from one model. pip install mergekit.
    """
    pytest.importorskip("mergekit")
    names = ("seed", "math", "code")
    mix.main([str(tiny / f"{name}.pt") for name in names] + ["--out", "mixed.pt"])
    for path in ("mixed.pt", *(str(tiny / f"{name}.pt") for name in names)):
        hf.main(["export", path, Path(path).stem])
    merge = {"merge_method": "linear", "dtype": "float32", "models": [{"model": f"./{name}", "parameters": {"weight": 1.0}}
                                                                     for name in names]}
    moe = {"base_model": "./linear", "gate_mode": "random", "dtype": "float32", "experts_per_token": 2,
           "experts": [{"source_model": f"./{name}", "positive_prompts": ["x"]} for name in names]}
    for script, recipe, out in (("run_yaml", merge, "linear"), ("moe", moe, "moe")):
        (here / f"{out}.yml").write_text(json.dumps(recipe))
        code = f"from mergekit.scripts.{script} import main; main()"
        subprocess.run([sys.executable, "-c", code, f"{out}.yml", out], check=True, capture_output=True)
    ours, theirs = (AutoModelForCausalLM.from_pretrained(name).state_dict() for name in ("mixed", "moe"))
    assert ours.keys() == theirs.keys()
    assert {name for name, t in ours.items() if not torch.equal(t, theirs[name])} == {
        f"model.layers.{i}.mlp.gate.weight" for i in range(2)}


def test_a_killed_export_does_not_stand_in_the_way(tiny, here):
    (here / ".m.part").mkdir()
    (here / ".m.part" / "config.json").touch()
    hf.main(["export", str(tiny / "seed.pt"), str(here / "m")])
    assert {p.name for p in here.iterdir()} == {"m"}


def test_padding_and_long_tokens_are_not_worked_on(tiny, here):
    """A folder of a few kilobytes could ask for gigabytes, and for days."""
    hf.main(["export", str(tiny / "seed.pt"), str(here / "m")])
    edit(here / "m" / "tokenizer.json", padding={"strategy": {"Fixed": 10**10}, "direction": "Right", "pad_to_multiple_of": None,
                                                 "pad_id": 0, "pad_type_id": 0, "pad_token": "x"})
    hf.main(["import", str(here / "m"), "--out", str(here / "o.pt")])
    model = json.loads((here / "m" / "tokenizer.json").read_text())["model"]
    model["vocab"]["x" * 10**6] = 1024
    edit(here / "m" / "tokenizer.json", model=model)
    with pytest.raises(BadInput, match="bytes"):
        hf.main(["import", str(here / "m"), "--out", str(here / "p.pt")])
