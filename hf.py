"""Read and write models in the format of Hugging Face. It needs requirements-hf.txt.

    python hf.py import SmolLM2-135M --out out/seed.pt     # a folder with config.json, *.safetensors and tokenizer.json
    python hf.py export out/btx.pt out/btx-hf              # a new folder that transformers, vLLM and llama.cpp load

A dense checkpoint is a LlamaForCausalLM. An MoE with Top-k routing is a MixtralForCausalLM, whose renormalised top-k is
SoftMax(TopK(W_l x)) (3.2). Only the names of the tensors differ. Each command proves its work before it saves it: our
model and the one that transformers loads read the same text, and their logits must agree.
"""
import argparse
import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from data import tokenizer
from data.common import BadInput, digest, make_parser, positive_int, run
from model import GPT, GPTConfig
from support import checkpoint as ckpt
from support import ledger

try:
    import transformers
    from huggingface_hub import save_torch_state_dict
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers.convert_slow_tokenizer import bytes_to_unicode
except ImportError:
    transformers = None

TOLERANCE = 1e-3  # logits that differ by more are not those of the same model
LONGEST = 512     # tokens that both models read; a RoPE for longer texts (Llama 3's) shows in as many
TEXT = "Größe Привет 你好,世界。 안녕 नमस्ते مرحبا 👍🏽 ½ Ⅷ \u00a0\u200b e\u0301 \r\n" + Path(__file__).read_text()

# our name -> the name in a folder
FIELDS = {"vocab_size": "vocab_size", "block_size": "max_position_embeddings", "n_layer": "num_hidden_layers",
          "n_head": "num_attention_heads", "n_kv_head": "num_key_value_heads", "n_embd": "hidden_size",
          "d_ff": "intermediate_size", "tie_weights": "tie_word_embeddings", "norm_eps": "rms_norm_eps",
          "rope_theta": "rope_theta"}
PARTS = {r"^embed": "model.embed_tokens", r"^norm": "model.norm", r"^head": "lm_head", r"^blocks": "model.layers",
         r"attn_norm": "input_layernorm", r"ff_norm": "post_attention_layernorm", r"attn.w([qkvo])": r"self_attn.\1_proj",
         r"ff.w_(\w+)": r"mlp.\1_proj.weight", r"ff.router": "block_sparse_moe.gate.weight"}
EXPERT = {"gate_proj.weight": "w1.weight", "up_proj.weight": "w3.weight", "down_proj.weight": "w2.weight"}


def their_name(name):
    """The name in a folder of a tensor of ours: "model.layers.3.mlp.up_proj.weight" of "blocks.3.ff.w_up"."""
    for ours, theirs in PARTS.items():
        name = re.sub(ours, theirs, name)
    return name


def load_folder(folder):
    """The model that transformers loads from a folder, and the text of its tokenizer.json. Raises BadInput."""
    try:
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", local_files_only=True, use_safetensors=True, output_loading_info=True)
        definition = (folder / "tokenizer.json").read_text(encoding="utf-8")
    except Exception as error:  # transformers and safetensors raise many kinds
        reason = str(error).strip().partition("\n")[0]
        raise BadInput(f"{folder}: transformers cannot load it: {reason}") from None
    if report["missing_keys"]:  # transformers has drawn them at random
        raise BadInput(f"{folder}: its files lack {min(report['missing_keys'])}; copy the whole folder")
    return model, definition


@torch.no_grad()
def prove(checkpoint, theirs, name):
    """Let our model and theirs read the same text. Raises BadInput, which begins with `name`, unless their logits agree."""
    ours = ckpt.build(checkpoint)
    ids = tokenizer.load(checkpoint["tokenizer"]).encode(TEXT)
    idx = torch.tensor([ids[:min(ours.config.block_size, LONGEST)]])  # (1, T)
    difference = (ours(idx)[0] - theirs.float()(idx).logits).abs().max().item()
    if not difference <= TOLERANCE:  # so written, it also catches nan
        raise BadInput(f"{name}: in transformers its logits differ from ours by {difference:.1e}; "
                       "it computes something that model.py does not, such as a scaled RoPE or biases")
    print(f"{name}: over {idx.shape[1]} tokens logits in transformers differ from ours by at most {difference:.1e}")


def import_folder(folder, out, block_size=None):
    """Write the Llama in a folder to the checkpoint `out`. Raises BadInput."""
    theirs, definition = load_folder(folder)
    about = theirs.config
    if about.model_type != "llama" or about.head_dim * about.num_attention_heads != about.hidden_size:
        raise BadInput(f"{folder}: only models of type llama can be imported, with heads as wide as hidden_size / heads")
    if not hasattr(about, "rope_theta"):  # transformers 5
        about.rope_theta = about.rope_parameters["rope_theta"]
    config = GPTConfig(**{name: getattr(about, their_field) for name, their_field in FIELDS.items()})
    config.block_size = block_size or config.block_size
    weights = theirs.state_dict()
    model = {name: weights[their_name(name)] for name in GPT(config).state_dict()}

    eot = about.eos_token_id
    if isinstance(eot, list):  # a chat model ends its answers in several ways; the first ends a text
        eot = eot[0]
    past = getattr(about, "btx", {"lineage": []})  # of a model that was exported from here
    words = past.get("tokenizer") or tokenizer.from_huggingface(definition, eot, folder.resolve().name)
    if eot is None or max(eot + 1, words["vocab_size"]) > config.vocab_size:
        raise BadInput(f"{folder}: its config.json has no eos_token_id, or a vocab_size too small for its tokenizer")
    digests = {path.name: digest(path.read_bytes()) for path in sorted(folder.glob("*.safetensors"))}
    parents = [entry["id"] for entry in past["lineage"][-1:]]
    entry = ledger.entry("import", out, parents, settings={"digests": digests})
    checkpoint = {"model": model, "config": vars(config), "tokenizer": words, "experts": [],
                  "lineage": [*past["lineage"], entry], "log": []}
    prove(checkpoint, theirs, folder)
    ckpt.save(out, checkpoint)
    print(f"wrote {out}: {config}")


def export(path, folder, shard_size):
    """Write the checkpoint in `path` as a new folder that transformers loads. Raises BadInput."""
    checkpoint = ckpt.load(path)
    config = GPTConfig(**checkpoint["config"])
    if config.n_expert and config.routing != "topk":
        raise BadInput(f"{path}: its router is {config.routing}; only topk can be exported, Mixtral has no other")
    if folder.exists():
        raise BadInput(f"{folder} exists; choose a new folder, or delete it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent) as part:
        made = Path(part, folder.name)
        write_config(checkpoint, config, made)
        save_torch_state_dict(rename_weights(checkpoint["model"], config.n_expert), made, max_shard_size=f"{shard_size}MB")
        write_tokenizer(checkpoint["tokenizer"], config.block_size, made)
        prove(checkpoint, load_folder(made)[0], path)
        made.rename(folder)
    print(f"wrote {folder}")


def write_config(checkpoint, config, folder):
    """Write config.json. What else a checkpoint has goes along, as "btx": its ledger and the names of its experts."""
    eot = tokenizer.load(checkpoint["tokenizer"]).eot
    fields = {their_field: getattr(config, name) for name, their_field in FIELDS.items()}
    fields |= {"bos_token_id": eot, "eos_token_id": eot, "dtype": checkpoint["model"]["embed.weight"].dtype,
               "btx": {name: checkpoint[name] for name in ("tokenizer", "experts", "lineage")}}
    if config.n_expert:
        fields |= {"num_local_experts": config.n_expert, "num_experts_per_tok": config.top_k}
        about = transformers.MixtralConfig(**fields, architectures=["MixtralForCausalLM"])
    else:
        about = transformers.LlamaConfig(**fields, architectures=["LlamaForCausalLM"])
    about.rope_theta = config.rope_theta  # transformers 5 keeps it elsewhere, where 4 does not look
    about.save_pretrained(folder)


def rename_weights(state, n_expert):
    """The tensors of a state dict by their names in a folder; stacked experts become single ones."""
    weights = {}
    for name, tensor in state.items():
        layer, _, matrix = their_name(name).partition(".mlp.")
        if n_expert and matrix:
            for i in range(n_expert):
                weights[f"{layer}.block_sparse_moe.experts.{i}.{EXPERT[matrix]}"] = tensor[i].clone()
        else:
            weights[their_name(name)] = tensor
    return weights


def write_tokenizer(about, block_size, folder):
    """Write tokenizer.json and tokenizer_config.json; an imported tokenizer as it was. Raises BadInput unless ids agree."""
    ours = tokenizer.load(about)
    definition = about["definition"] if about["kind"] == "huggingface" else convert_bpe(about)
    end = Tokenizer.from_str(definition).id_to_token(ours.eot)
    options = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": end, "eos_token": end,
               "model_max_length": block_size, "clean_up_tokenization_spaces": False}
    (folder / "tokenizer.json").write_text(definition, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(options, indent=1))
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    if theirs(TEXT, add_special_tokens=False).input_ids != ours.encode(TEXT):
        raise BadInput(f"{folder}: transformers would split a text into other tokens than this project")


def convert_bpe(about):
    """The text of tokenizer.json for a byte-pair encoding of this project."""
    ranks = tokenizer.from_lines(about.get("definition", tokenizer.FILE.read_text()))
    letter = bytes_to_unicode()  # byte -> the letter that stands for it in the file
    vocab = {"".join(letter[byte] for byte in token): rank for token, rank in ranks.items()}
    merges = []
    for token in vocab:  # tiktoken joins any two tokens that make a token, lowest rank first
        for i in range(1, len(token)):
            if token[:i] in vocab and token[i:] in vocab:
                merges.append((token[:i], token[i:]))
    made = Tokenizer(models.BPE(vocab, merges))
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(tokenizer.PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([tokenizer.END])
    return made.to_str()


def main(argv=None):
    parser = make_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, prog=parser.prog)
    importing = commands.add_parser("import", usage=argparse.SUPPRESS, help="make a checkpoint of a Hugging Face folder")
    importing.add_argument("folder", type=Path)
    importing.add_argument("--out", required=True, help="checkpoint to write")
    importing.add_argument("--block_size", type=positive_int, help="longest text that it will read (default: its own)")
    exporting = commands.add_parser("export", usage=argparse.SUPPRESS, help="make a Hugging Face folder of a checkpoint")
    exporting.add_argument("checkpoint")
    exporting.add_argument("folder", type=Path, help="folder to create")
    exporting.add_argument("--shard_size", type=positive_int, default=5000, help="megabytes a file (default: %(default)s)")
    args = parser.parse_args(argv)
    if transformers is None:
        raise BadInput("transformers is not installed; run pip install -r requirements-hf.txt")
    transformers.utils.logging.disable_progress_bar()
    if args.command == "import":
        import_folder(args.folder, args.out, args.block_size)
    else:
        export(args.checkpoint, args.folder, args.shard_size)


if __name__ == "__main__":
    run(main)
