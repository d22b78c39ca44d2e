"""Read and write models in the format of Hugging Face. It needs requirements-hf.txt.

    python hf.py import SmolLM2-135M --out out/seed.pt     # a folder with config.json, *.safetensors and tokenizer.json
    python hf.py export out/btx.pt out/btx-hf              # a new folder that transformers, vLLM and llama.cpp load

A dense checkpoint is a LlamaForCausalLM, an MoE with Top-k routing a MixtralForCausalLM. Only the names of tensors
differ. Before anything is saved, our model and the one that transformers loads read a text. Their logits must agree.
"""
import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from cli import BadInput, check_output, digest, make_parser, positive_int, run
from data.tokenizer import END, PATTERN, from_huggingface, load_tokenizer
from model import GPT, GPTConfig
from support.checkpoint import build_model, load_checkpoint, save_checkpoint
from support.ledger import latest, new_entry

try:
    import transformers
    from huggingface_hub import save_torch_state_dict
    from transformers.convert_slow_tokenizer import TikTokenConverter
except ImportError:
    transformers = None

# Both models read signs of many kinds and the beginning of this file: enough tokens for a scaled RoPE to show.
TEXT = "Größe Привет 你好 नमस्ते مرحبا 👍🏽 ½ \u00a0\u200b e\u0301 \r\n 123" + Path(__file__).read_text("utf-8")[:3000]
TOLERANCE = 1e-3  # logits that differ by more are not those of the same model

# our name -> the name in a folder
FIELDS = {"vocab_size": "vocab_size", "block_size": "max_position_embeddings", "n_embd": "hidden_size",
          "n_layer": "num_hidden_layers", "n_head": "num_attention_heads", "n_kv_head": "num_key_value_heads",
          "d_ff": "intermediate_size", "tie_weights": "tie_word_embeddings", "norm_eps": "rms_norm_eps"}
PARTS = {r"^embed": "model.embed_tokens", r"^norm": "model.norm", r"^head": "lm_head", r"^blocks": "model.layers",
         r"attn_norm": "input_layernorm", r"ff_norm": "post_attention_layernorm", r"attn.w(.)": r"self_attn.\1_proj",
         r"ff.w_(.+)": r"mlp.\1_proj.weight", r"ff.router": "block_sparse_moe.gate.weight"}
EXPERT = {"gate_proj.weight": "w1.weight", "up_proj.weight": "w3.weight", "down_proj.weight": "w2.weight"}


def name_in_folder(name):
    """What one of our tensors is called in a folder: "blocks.3.ff.w_up" becomes "model.layers.3.mlp.up_proj.weight"."""
    for pattern, replacement in PARTS.items():
        name = re.sub(pattern, replacement, name)
    return name


def weights_in_folder(checkpoint):
    """The weights of a checkpoint by their names in a folder, where stacked experts are single tensors."""
    weights = {}
    for name, tensor in checkpoint["state"].items():
        layer, _, matrix = name_in_folder(name).partition(".mlp.")
        if checkpoint["experts"] and matrix:
            for i, expert in enumerate(tensor):
                weights[f"{layer}.block_sparse_moe.experts.{i}.{EXPERT[matrix]}"] = expert.clone()
        else:
            weights[name_in_folder(name)] = tensor
    return weights


def load_model(folder):
    """The model that transformers makes of a folder, in the dtype of its files. Raises BadInput."""
    try:
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", local_files_only=True, use_safetensors=True, output_loading_info=True)
    except Exception as error:  # the libraries raise many kinds
        raise BadInput(f"{folder} cannot be loaded: " + " ".join(str(error).split())) from None
    if report["missing_keys"]:  # transformers has drawn them at random
        raise BadInput(f"{folder}: its files lack {min(report['missing_keys'])}; copy the whole folder")
    return model


@torch.no_grad()
def prove(checkpoint, folder, name):
    """Let our model and that of a folder read the same text. Raises BadInput about `name` unless their logits agree."""
    model = build_model(checkpoint)
    ids = load_tokenizer(checkpoint["spec"]).encode(TEXT)
    idx = torch.tensor([ids[:model.config.block_size]])  # (1, T)
    logits, _, _ = model(idx)
    difference = (logits - load_model(folder).float()(idx).logits).abs().max().item()
    if not difference <= TOLERANCE:  # so written, it also catches nan
        raise BadInput(f"{name}: in transformers its logits differ from ours by {difference:.1e}; "
                       "it computes something that model.py does not, such as biases or a scaled RoPE")
    print(f"{name}: over {idx.shape[1]} tokens, logits in transformers differ from ours by {difference:.1e} at most")


def import_folder(folder, out, block_size):
    """Write the Llama in a folder to the checkpoint `out`. Raises BadInput."""
    llama = load_model(folder)
    fields = llama.config
    if fields.model_type != "llama" or fields.head_dim * fields.num_attention_heads != fields.hidden_size:
        raise BadInput(f"{folder}: only a model_type of llama can be imported, and only if its heads fill hidden_size")
    rope = getattr(fields, "rope_parameters", None) or vars(fields)  # in transformers 5, or in 4
    config = GPTConfig(**{ours: getattr(fields, name) for ours, name in FIELDS.items()}, rope_theta=rope["rope_theta"])
    config.block_size = block_size or config.block_size
    state = {name: llama.get_parameter(name_in_folder(name)).detach() for name in GPT(config).state_dict()}

    exported = getattr(fields, "btx", {"spec": None, "ledger": []})  # what `export` has written there
    eot = fields.eos_token_id
    if not (folder / "tokenizer.json").exists():
        raise BadInput(f"{folder} has no tokenizer.json; copy the whole folder")
    definition = (folder / "tokenizer.json").read_text("utf-8")
    spec = exported["spec"] or from_huggingface(definition, eot, folder.resolve().name)
    if not isinstance(eot, int) or max(eot + 1, spec["vocab_size"]) > config.vocab_size:
        raise BadInput(f"{folder}: config.json has no single eos_token_id, or its vocab_size is below tokenizer.json's")
    digests = {path.name: digest(path.read_bytes()) for path in sorted(folder.glob("*.safetensors"))}
    entry = new_entry("import", out, latest(exported["ledger"]), settings={"digests": digests})
    checkpoint = {"state": state, "config": vars(config), "spec": spec, "experts": [],
                  "ledger": [*exported["ledger"], entry], "log": []}
    prove(checkpoint, folder, folder)
    save_checkpoint(out, checkpoint)
    print(f"wrote {out}: {config}")


def write_config(checkpoint, eot, folder):
    """Write config.json, with experts and ledger, and our spec unless tokenizer.json was imported."""
    config, spec = checkpoint["config"], checkpoint["spec"]
    btx = {"experts": checkpoint["experts"], "ledger": checkpoint["ledger"],
           "spec": spec if spec["kind"] == "bpe" else None}
    fields = {name: config[ours] for ours, name in FIELDS.items()}
    fields |= {"rope_theta": config["rope_theta"], "bos_token_id": eot, "eos_token_id": eot, "btx": btx,
               "dtype": checkpoint["state"]["embed.weight"].dtype}
    if checkpoint["experts"]:
        fields |= {"num_local_experts": config["n_expert"], "num_experts_per_tok": config["top_k"]}
        written = transformers.MixtralConfig(**fields, architectures=["MixtralForCausalLM"])
    else:
        written = transformers.LlamaConfig(**fields, architectures=["LlamaForCausalLM"])
    written.rope_theta = config["rope_theta"]  # transformers 5 writes it elsewhere, where 4 does not look
    written.save_pretrained(folder)


def write_tokenizer(tokenizer, folder):
    """Write tokenizer_config.json, and tokenizer.json, unchanged if it was imported. Raises BadInput."""
    definition = tokenizer.spec["definition"]
    if tokenizer.spec["kind"] == "bpe":
        ranks = folder.parent / "ranks.tiktoken"
        ranks.write_text(definition)
        definition = TikTokenConverter(str(ranks), PATTERN, False, [END]).converted().to_str()
    end = tokenizer.decode([tokenizer.eot])
    options = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": end, "eos_token": end}
    (folder / "tokenizer.json").write_text(definition, "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    written = transformers.AutoTokenizer.from_pretrained(folder)
    if written(TEXT, add_special_tokens=False).input_ids != tokenizer.encode(TEXT):
        raise BadInput(f"{folder.name}: its tokenizer would split a text into other tokens in transformers")


def export(path, folder):
    """Write the checkpoint in `path` as a new folder that transformers loads. Raises BadInput."""
    check_output(folder)
    checkpoint = load_checkpoint(path)
    tokenizer = load_tokenizer(checkpoint["spec"])
    if checkpoint["experts"] and checkpoint["config"]["routing"] != "topk":
        raise BadInput(f"{path}: only Top-k routing can be exported; Mixtral has no {checkpoint['config']['routing']}")
    with TemporaryDirectory(dir=folder.parent) as temporary:
        part = Path(temporary, folder.name)
        write_config(checkpoint, tokenizer.eot, part)
        write_tokenizer(tokenizer, part)
        save_torch_state_dict(weights_in_folder(checkpoint), part)
        prove(checkpoint, part, path)
        part.rename(folder)
    print(f"wrote {folder}")


def main(argv=None):
    parser = make_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, prog=parser.prog)
    command = commands.add_parser("import", usage=parser.usage, help="make a checkpoint of a Hugging Face folder")
    command.add_argument("folder", type=Path, help="with config.json, *.safetensors and tokenizer.json")
    command.add_argument("--out", required=True, help="checkpoint to write")
    command.add_argument("--block_size", type=positive_int, help="longest text that it will read (default: its own)")
    command = commands.add_parser("export", usage=parser.usage, help="make a Hugging Face folder of a checkpoint")
    command.add_argument("checkpoint", help="a dense model, or an MoE with Top-k routing")
    command.add_argument("folder", type=Path, help="folder to create")
    args = parser.parse_args(argv)
    if transformers is None:
        raise BadInput("transformers is not installed; run .venv/bin/pip install -r requirements-hf.txt")
    if args.command == "import":
        import_folder(args.folder, args.out, args.block_size)
    else:
        export(args.checkpoint, args.folder)


if __name__ == "__main__":
    run(main)
