"""Models of other tools in and out: Hugging Face's folders of the Llama family, and Mixtral's, the open format of what BTX makes.

    python hf.py import SmolLM2-135M --out out/seed.pt     # a folder with config.json, *.safetensors and tokenizer.json
    python hf.py export out/btx.pt out/btx-hf              # transformers, vLLM and llama.cpp load it

A dense checkpoint is a LlamaForCausalLM, an MoE with Top-k routing a MixtralForCausalLM: SoftMax(TopK(W_l x)) (3.2) is Mixtral's
renormalised top-k. What a folder asks for and this project does not have is refused by name. It needs requirements-hf.txt.
"""
import hashlib
import json
import math
import shutil
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from html import escape
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import torch

from data import tokenizer
from model import ROPE_STRETCH, GPTConfig
from support import checkpoint as ckpt
from support import ledger
from support.files import check_other, digest, output, part_of, read_json, reading, write_text
from support.settings import BadInput, option, parse, run

# ours -> theirs; {} is the number of an expert
OUTER = {"embed.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight", "head.weight": "lm_head.weight"}
LAYER = {"attn_norm.weight": "input_layernorm.weight", "ff_norm.weight": "post_attention_layernorm.weight",
         **{f"attn.w{x}.weight": f"self_attn.{x}_proj.weight" for x in "qkvo"}}
DENSE = {f"ff.w_{x}": f"mlp.{x}_proj.weight" for x in ("gate", "up", "down")}
MIXTURE = {"ff.router": "block_sparse_moe.gate.weight", "ff.w_gate": "block_sparse_moe.experts.{}.w1.weight",
           "ff.w_up": "block_sparse_moe.experts.{}.w3.weight", "ff.w_down": "block_sparse_moe.experts.{}.w2.weight"}
CONFIG = {"vocab_size": "vocab_size", "block_size": "max_position_embeddings", "n_layer": "num_hidden_layers",
          "n_head": "num_attention_heads", "n_kv_head": "num_key_value_heads", "n_embd": "hidden_size",
          "d_ff": "intermediate_size", "tie_weights": "tie_word_embeddings", "norm_eps": "rms_norm_eps"}
EXPERTS = {"n_expert": "num_local_experts", "top_k": "num_experts_per_tok"}
ROPE = ("rope_theta", "rope_scaling", "rope_parameters")
# what else may stand in config.json: with a value that changes nothing, or anything
NEUTRAL = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "sliding_window": None, "quantization_config": None,
           "rope_interleaved": False, "partial_rotary_factor": 1.0, "router_jitter_noise": 0.0, "attention_dropout": 0.0}
ANY = {"model_type", "architectures", "dtype", "torch_dtype", "transformers_version", "initializer_range", "use_cache",
       "head_dim", "_name_or_path", "_model_name_or_path", "bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id",
       "pretraining_tp", "output_router_logits", "router_aux_loss_coef", "is_llama_config", "transformers.js_config", "btx"}


@dataclass
class Settings:
    words: list = option([], "import FOLDER, or export CHECKPOINT FOLDER", positional=True, metavar="WORD")
    out: str = option("", "import: checkpoint to write")
    block_size: int = option(0, "import: longest text the model will read; 0: its own", low=0)
    shard_size: int = option(5000, "export: megabytes in a file of weights, at most", low=1)


def their_names(name, config):
    """The names there of a tensor of ours: one, or one for each expert.

    >>> their_names("blocks.3.ff.w_up", GPTConfig())
    ['model.layers.3.mlp.up_proj.weight']
    """
    if name in OUTER:
        return [OUTER[name]]
    _, layer, inner = name.split(".", 2)
    theirs = f"model.layers.{layer}.{(LAYER | (MIXTURE if config.n_expert else DENSE))[inner]}"
    return [theirs.format(n) for n in range(config.n_expert)] if "{}" in theirs else [theirs]


def inside(folder, name):
    """The path of a file that must lie in `folder` itself. Raises BadInput if it is missing, or a link to elsewhere."""
    path = folder / name
    if not path.is_file():
        raise BadInput(f"{path}: no such file, though the folder of a model needs it")
    if path.resolve().parent != folder.resolve():
        raise BadInput(f"{path} leads out of {folder}; copy the folder with its files, as cp -rL does")
    return path


# ---- import ------------------------------------------------------------------------------------------------------------


def read_config(folder, block_size=0):
    """The GPTConfig that a folder's config.json asks for, and that file's content. Raises BadInput for what we do not have."""
    path = inside(folder, "config.json")
    about = read_json(path)
    with reading(path):
        kind = about.get("model_type")
        if kind not in ("llama", "mixtral"):
            raise BadInput(f"{path}: model_type {kind!r} is neither llama nor mixtral")
        ours = CONFIG | (EXPERTS if kind == "mixtral" else {})
        for key, value in about.items():
            if key in NEUTRAL and value != NEUTRAL[key] or key not in {*NEUTRAL, *ANY, *ROPE, *ours.values()}:
                raise BadInput(f"{path}: {key} = {str(value)[:100]} asks for what this project does not have")
        ropes = [about[key] for key in ("rope_parameters", "rope_scaling") if about.get(key)] or [{}]
        theta = ropes[0].get("rope_theta", about.get("rope_theta", 1e6 if kind == "mixtral" else 1e4))
        scaling = ropes[0].get("rope_type", ropes[0].get("type", "default"))
        numbers = {key: value for key, value in ropes[0].items() if key not in ("rope_theta", "rope_type", "type")}
        factor = numbers.pop("factor", 1.0) if scaling == "llama3" else 1.0
        if (scaling, numbers) not in (("default", {}), ("llama3", ROPE_STRETCH)) or ropes[-1] != ropes[0]:
            raise BadInput(f"{path}: rope scaling {json.dumps(ropes)[:200]} is not Llama 3's")
        values = {name: about[key] for name, key in ours.items() if key in about}
        config = GPTConfig(**values, rope_theta=float(theta), rope_factor=float(factor))
        if about.get("head_dim") not in (None, config.n_embd // config.n_head):
            raise BadInput(f"{path}: head_dim {about['head_dim']} is not hidden_size / num_attention_heads")
        if missing := sorted(ours.values() - about.keys() - {"num_key_value_heads", "tie_word_embeddings"}):
            raise BadInput(f"{path} does not say {missing[0]}")
        config.block_size = block_size or config.block_size
    return config, about


def read_weights(folder, config, out):
    """Our state dict from a folder's safetensors, one file at a time, in the dtypes they have. Raises BadInput."""
    from safetensors import safe_open
    names, index = ["model.safetensors"], folder / "model.safetensors.index.json"
    if index.exists():
        with reading(index):
            names = sorted(set(read_json(inside(folder, index.name))["weight_map"].values()))
        if (folder / "model.safetensors").exists() and "model.safetensors" not in names:
            raise BadInput(f"{folder} has model.safetensors and other files in {index.name}; delete what is not the model")
    paths = [inside(folder, name) for name in names]
    check_other(out, paths)
    n_tensors = 0
    for path in paths:
        with reading(path), safe_open(path, "pt") as file:
            n_tensors += len(file.keys())
    if config.n_layer * max(1, config.n_expert) > n_tensors:  # before so many are named
        raise BadInput(f"{folder}: {n_tensors} tensors are too few for {config.n_layer} layers"
                       + f" of {config.n_expert} experts" * bool(config.n_expert))
    wanted, state, seen = {}, {}, {}
    for name, meta in ckpt.shapes(config).items():
        theirs = their_names(name, config)
        wanted |= {other: (name, n, meta) for n, other in enumerate(theirs)}
    for path in paths:
        with reading(path), safe_open(path, "pt") as file:
            for other in file.keys():
                if other.endswith("rotary_emb.inv_freq"):  # old files keep what follows from the config
                    continue
                if other not in wanted or other in seen:
                    raise BadInput(f"{path}: {other} is {f'in {seen[other]}, too' if other in seen else 'unknown here'}")
                (name, n, meta), seen[other] = wanted[other], path.name
                stacked = meta.ndim == 3  # one of theirs for each expert
                shape = list(meta.shape[1:] if stacked else meta.shape)
                if file.get_slice(other).get_shape() != shape:
                    raise BadInput(f"{path}: {other} has the shape {file.get_slice(other).get_shape()}, not {shape}")
                tensor = file.get_tensor(other)
                if tensor.dtype not in ckpt.DTYPES:
                    raise BadInput(f"{path}: {other} is of {tensor.dtype}; only floating-point weights are read")
                made = state.setdefault(name, torch.empty(meta.shape, dtype=tensor.dtype))
                if made.dtype != tensor.dtype:
                    raise BadInput(f"{path}: {other} is of {tensor.dtype}, another expert of {made.dtype}")
                (made[n] if stacked else made).copy_(tensor)
    if missing := sorted(wanted.keys() - seen):
        raise BadInput(f"{folder}: {missing[0]} is missing")
    return state


PROBE = """The quick brown fox can't won't I'll they've  two  spaces\ttab\n\n\nlines   12345 3.14 x2 2x 7 8
    def f(x):
        return x[0]+1\nGröße, façade, naïve; Привет, мир; 你好,世界。 こんにちは 안녕하세요 नमस्ते مرحبا שלום ελληνικά 👍🏽👨‍👩‍👧
½ ٣ Ⅷ \u00a0\u3000\u200b e\u0301 \r\n <|x|> 's'S """


def alphabet():
    """The sign that stands for each byte in the files of byte-level BPE: itself if it can be printed, else one from 256 on."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printed]
    return {b: chr(b) for b in printed} | {b: chr(256 + i) for i, b in enumerate(others)}


def letters(token, whole):
    """What byte-pair encoding starts from: the bytes of a token, or, if `whole`, its characters, each as bytes."""
    return [c.encode() for c in token.decode()] if whole else [token[i:i + 1] for i in range(len(token))]


def halves(token, whole, rank):
    """The two tokens that byte-pair encoding joins last to make a token; of a token of one letter only that.

    rank(a, b): the lower, the earlier these two are joined; None if they never are. A token's merges inside a text are those of
    the token alone, so this is the only merge that ever makes it. Raises ValueError if none does.
    """
    parts = letters(token, whole)
    while len(parts) > 1:
        ranks = [math.inf if (r := rank(a, b)) is None else r for a, b in pairwise(parts)]
        i = min(range(len(ranks)), key=ranks.__getitem__)
        if ranks[i] == math.inf:
            raise ValueError(f"no merge makes its token {token!r}")
        if len(parts) == 2:
            break
        parts[i:i + 2] = [parts[i] + parts[i + 1]]
    return tuple(parts)


def in_order(ranks, merges, whole):
    """{token: id}, the tokens in the order in which `merges`, {(bytes, bytes): place}, make them.

    With that order alone tiktoken joins what the merges join: wherever two tokens stand that it could join to a token, they
    are this token's halves. Raises ValueError if the merges make other tokens, or, where ids are the order, in another one.
    """
    if strange := [a + b for a, b in merges if a + b not in ranks]:
        raise ValueError(f"a merge makes {strange[0]!r}, which is no token")
    last = {token: halves(token, whole, lambda a, b: merges.get((a, b))) for token in ranks}
    ordered = {token: ranks[token] for token in sorted(ranks, key=lambda token: (merges.get(last[token], -1), ranks[token]))}
    made = [i for token, i in ordered.items() if len(last[token]) > 1]
    if not whole and made != sorted(made):
        raise ValueError("its merges are not in the order of its tokens")
    return ordered


def pattern_of(steps, missing):
    """The regular expression that cuts as a tokenizer.json's "pre_tokenizer" does. Raises ValueError.

    missing: bytes without a token. Characters with one of them are skipped (SmolLM lacks those of some control codes).
    """
    steps = steps["pretokenizers"] if steps["type"] == "Sequence" else [steps]
    first, last = steps[0], steps[-1]
    if last["type"] == "ByteLevel" and not last["add_prefix_space"]:
        if len(steps) == 1 and last.get("use_regex", True):
            return tokenizer.GPT2 % tokenizer.skipped(missing)
        if len(steps) == 2 and first == {"type": "Digits", "individual_digits": True} and last.get("use_regex", True):
            return tokenizer.DIGITS % tokenizer.skipped(missing)
        if len(steps) == 2 and first["type"] == "Split" and not last.get("use_regex", True):
            if first["behavior"] == "Isolated" and not first["invert"] and "Regex" in first["pattern"]:
                return first["pattern"]["Regex"]
    raise ValueError("its pre-tokenizer is not one of byte-level BPE that is known here")


# "▁" for a space is all of sentencepiece's normalizing that is known here; no space is put in front of a text
SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}


def of_characters(file):
    """Whether a tokenizer.json is of characters, as Llama 2's, or of bytes. Raises ValueError if it is of neither kind."""
    model, normalizer, cut = file["model"], file.get("normalizer") or {}, file.get("pre_tokenizer") or {}
    if model["type"] == "BPE" and not model.get("byte_fallback") and not normalizer:
        return False
    steps = [step for step in normalizer.get("normalizers", [normalizer]) if step != {"type": "Prepend", "prepend": "▁"}]
    metaspace = not normalizer and (cut.get("type"), cut.get("replacement"), cut.get("split")) == ("Metaspace", "▁", False)
    if model["type"] == "BPE" and model.get("byte_fallback") and (metaspace or not cut and steps == [SPACES]):
        return True
    raise ValueError("not a BPE of bytes like GPT-2's, Llama 3's or SmolLM's, nor of characters like Llama 2's")


def read_tokenizer(folder, about, vocab_size):
    """What a checkpoint says of its tokenizer, from a folder's tokenizer.json. Raises BadInput if it is of no known kind."""
    import tokenizers
    path = inside(folder, "tokenizer.json")
    file = read_json(path)
    with reading(path):
        model, sign, whole = file["model"], {sign: b for b, sign in alphabet().items()}, of_characters(file)

        def spelled(token):
            if whole and " " in token:
                raise ValueError(f"its token {token!r} has a space that is not written as ▁")
            return token.replace("▁", " ").encode() if whole else bytes(sign[c] for c in token)
        if odd := [key for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", *["ignore_merges"] * whole)
                  if model.get(key)]:
            raise ValueError(f"its {odd[0]} is not known here")
        if plain := [t["content"] for t in file["added_tokens"] if not t["special"]]:
            raise ValueError(f"its added token {plain[0]!r} is not special: it would be cut out of any text")
        special = {t["content"]: t["id"] for t in file["added_tokens"]}
        if whole:
            special |= {token: model["vocab"][token] for token in map(tokenizer.byte_token, range(256))}
        ranks = {spelled(token): i for token, i in model["vocab"].items() if token not in special}
        if max(map(len, ranks)) > tokenizer.LONGEST:
            raise ValueError(f"one of its tokens has more than {tokenizer.LONGEST} bytes")
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
        ranks = in_order(ranks, {(spelled(a), spelled(b)): place for place, (a, b) in enumerate(pairs)}, whole)
        eos, known = about.get("eos_token_id"), {*ranks.values(), *special.values()}
        end = next((name for name, i in special.items() if i == (eos[0] if isinstance(eos, list) else eos)), None)
        if end is None or max(known) >= vocab_size:
            raise ValueError("no special token is config.json's eos_token_id, or there are more tokens than its vocab_size")
        special |= {f"<|unused {i}|>": i for i in range(vocab_size) if i not in known}
        missing = [b for b in range(256) if bytes([b]) not in ranks]
        pattern = tokenizer.CHARACTERS if whole else pattern_of(file["pre_tokenizer"], missing)
        bpe = {"pattern": pattern, "ranks": tokenizer.to_lines(ranks), "special": special, "end": end}
        encoding = tokenizer.build(folder.resolve().name, **bpe)
        cut = dict.fromkeys(("padding", "truncation", "post_processor", "decoder"))  # what they do is not looked at here
        cut |= {"normalizer": SPACES, "pre_tokenizer": None} if whole else {}
        theirs = tokenizers.Tokenizer.from_str(json.dumps(file | cut))
        for text in (PROBE, *PROBE.split()):
            if theirs.encode(text, add_special_tokens=False).ids != encoding.encode_ordinary(text):
                raise ValueError(f"{text[:20]!r} would get other tokens here")
    return tokenizer.describe(encoding) | {"bpe": bpe}


def import_folder(folder, out, block_size=0):
    """Write a Hugging Face folder's model to the checkpoint `out`. Raises BadInput."""
    config, about = read_config(folder, block_size)
    with output(out), reading(folder, "imported"):  # the ledger in config.json may hold anything, weights may be NaN
        state = read_weights(folder, config, out)  # it has as many rows of embeddings as the vocabulary has tokens
        words = read_tokenizer(folder, about, config.vocab_size)
        key = hashlib.sha256()
        for name, t in state.items():
            key.update(f"{name} {t.dtype}".encode() + t.view(-1).view(torch.uint8).numpy().data)
        past = about.get("btx") or {}
        lineage, experts = past.get("lineage", []), past.get("experts") or [f"expert_{n}" for n in range(config.n_expert)]
        entry = ledger.entry("import", out, [e["id"] for e in lineage[-1:]], source=folder.resolve().name, weights=digest(key),
                             config=asdict(config), tokenizer=words["fingerprint"], experts=experts)
        ckpt.save(out, ckpt.pack(state, config, words, experts, [*lineage, entry]))
    print(f"wrote {out}: {sum(t.numel() for t in state.values()):,} numbers, {config}")


# ---- export ------------------------------------------------------------------------------------------------------------


CARD = """# {name}

Made by Branch-Train-MiX (https://arxiv.org/abs/2403.07816): {what}. The stages behind it, oldest first, with tokens,
FLOPs and all settings, are in config.json under `btx`.
"""


def their_config(checkpoint, config, encoding):
    """The config.json of a checkpoint, given its GPTConfig and Encoding. Raises ValueError for what Mixtral does not have."""
    moe = config.n_expert > 0
    if moe and config.routing != "topk":
        raise ValueError(f"it routes by {config.routing!r}; Mixtral has top-k alone")
    about = {"architectures": ["MixtralForCausalLM" if moe else "LlamaForCausalLM"], "model_type": "mixtral" if moe else "llama",
             **{key: getattr(config, name) for name, key in (CONFIG | (EXPERTS if moe else {})).items()},
             "hidden_act": "silu", "head_dim": config.n_embd // config.n_head, "rope_theta": config.rope_theta,
             "torch_dtype": str(next(iter(checkpoint["model"].values())).dtype).removeprefix("torch."),
             "bos_token_id": encoding.eot_token, "eos_token_id": encoding.eot_token,
             "btx": {key: checkpoint[key] for key in ("experts", "lineage")}}
    if config.rope_factor != 1:
        about["rope_scaling"] = {"rope_type": "llama3", "factor": config.rope_factor, **ROPE_STRETCH}
    return about | ({"sliding_window": None} if moe else {"attention_bias": False, "mlp_bias": False})


def their_tokenizer(about, encoding):
    """The tokenizer.json of an Encoding, and the token that ends a text; about: what the checkpoint says of it."""
    import tokenizers
    from tokenizers import decoders, normalizers, pre_tokenizers
    ranks, sign, whole = encoding._mergeable_ranks, alphabet(), encoding._pat_str == tokenizer.CHARACTERS

    def text(token):
        return token.decode().replace(" ", "▁") if whole else "".join(sign[b] for b in token)
    order = [*ranks] if whole else sorted(ranks, key=ranks.get)
    places = {token: place for place, token in enumerate(order)}
    pairs = [halves(token, whole, lambda a, b: places.get(a + b)) for token in order]
    names = about.get("bpe", {"special": encoding._special_tokens, "end": tokenizer.END})
    made = tokenizers.Tokenizer(tokenizers.models.BPE({text(token): i for token, i in ranks.items()} | names["special"],
                                                      [tuple(map(text, pair)) for pair in pairs if len(pair) > 1],
                                                      byte_fallback=whole))
    if whole:
        made.normalizer = normalizers.Replace(" ", "▁")
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    else:
        cut = pre_tokenizers.Split(tokenizers.Regex(encoding._pat_str), "isolated")
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.pre_tokenizer, made.decoder = pre_tokenizers.Sequence([cut, level]), decoders.ByteLevel()
    file = json.loads(made.to_str())
    byte_tokens = {*map(tokenizer.byte_token, range(256))} if whole else set()  # they are no text that could be spelled
    file["added_tokens"] = [{"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
                             "normalized": False, "special": True} for name, i in names["special"].items()
                            if name not in byte_tokens]
    return file, names["end"]


def export(path, folder, shard_size):
    """Write the checkpoint in `path` as a folder that transformers loads. Raises BadInput."""
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file
    folder = Path(folder)
    if folder.exists() or not folder.name:
        raise BadInput(f"{folder} exists; name a new folder, or delete it")
    checkpoint, theirs = ckpt.load(path), {}
    config, encoding = GPTConfig(**checkpoint["config"]), tokenizer.of(checkpoint["tokenizer"], path)
    with reading(path, "exported"):
        about, (words, end) = their_config(checkpoint, config, encoding), their_tokenizer(checkpoint["tokenizer"], encoding)
        ids = {key: about[key] for key in ("bos_token_id", "eos_token_id")}
        kind = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": end, "eos_token": end,
                "model_max_length": config.block_size, "clean_up_tokenization_spaces": False}
        texts = {file: json.dumps(value, indent=1) for file, value in {
            "config.json": about, "generation_config.json": ids, "tokenizer.json": words, "tokenizer_config.json": kind}.items()}
        for text in texts.values():
            read_json(path, text)  # as an import would
    for name in ckpt.shapes(config):
        t = checkpoint["model"][name]
        theirs |= dict(zip(their_names(name, config), t.unbind() if t.ndim == 3 else [t], strict=True))
    part = part_of(folder)
    with output(folder, probe=False), ExitStack() as stack, reading(folder, "written"):
        shutil.rmtree(part, ignore_errors=True)  # of a killed export
        stack.callback(shutil.rmtree, part, ignore_errors=True)  # when all is done, or the disk is full
        part.mkdir()
        shards = split_torch_state_dict_into_shards(theirs, max_shard_size=shard_size * 10**6)
        for file, names in shards.filename_to_tensors.items():
            save_file({name: theirs[name].contiguous() for name in names}, part / file, {"format": "pt"})
        if shards.is_sharded:
            index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
            write_text(part / "model.safetensors.index.json", json.dumps(index, indent=1))
        what = f"a mixture of {', '.join(checkpoint['experts'])}" if checkpoint["experts"] else "a dense model"
        for file, text in texts.items():
            write_text(part / file, text)
        write_text(part / "README.md", CARD.format(name=folder.name, what=escape(what)))
        part.rename(folder)
    print(f"wrote {folder}")


def main(argv=None):
    settings = parse(Settings, argv)
    for package in ("safetensors", "tokenizers", "huggingface_hub"):
        if not find_spec(package):
            raise BadInput(f"{package} is not installed; pip install -r requirements-hf.txt")
    match settings.words:
        case ["import", _] if settings.shard_size != Settings.shard_size:
            raise BadInput("--shard_size is for export; leave it out")
        case ["import", folder]:
            ckpt.check_name(settings.out, "--out ")
            import_folder(Path(folder), Path(settings.out), settings.block_size)
        case ["export", _, _] if settings.out or settings.block_size:
            raise BadInput("--out, --block_size: they are for import; leave them out")
        case ["export", path, folder]:
            export(path, folder, settings.shard_size)
        case _:
            raise BadInput("say what to do, as in: hf.py import FOLDER --out out/seed.pt, or: hf.py export out/btx.pt FOLDER")


if __name__ == "__main__":
    run(main)
