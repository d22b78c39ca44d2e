"""Import models from Hugging Face folders and export them. This needs the packages in requirements-hf.txt.

    python hf.py import SmolLM2-135M --out out/seed.pt     # a folder with config.json, *.safetensors and tokenizer.json
    python hf.py import SmolLM2-math --out out/math.pt --branch_of out/seed.pt      # a finetune of that model
    python hf.py export out/btx.pt out/btx-hf              # a new folder that transformers can load

A dense checkpoint becomes a LlamaForCausalLM; an MoE with Top-k routing becomes a MixtralForCausalLM. Only the names of
tensors differ. Before anything is saved, our model and the one in transformers read a text. Their logits must agree.
"""
import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from cli import BadInput, check_output, digest, make_parser, positive_int, run
from data.tokenizer import END, PATTERN, from_huggingface, load_tokenizer
from model import GPT, GPTConfig, is_feed_forward
from support.checkpoint import build_model, check_finite, check_save_path, load_checkpoint, save_checkpoint
from support.ledger import new_entry

try:
    import transformers
    from huggingface_hub import save_torch_state_dict
    from safetensors.torch import load_file
    from tokenizers.processors import TemplateProcessing
    from transformers.convert_slow_tokenizer import TikTokenConverter
except ImportError:
    transformers = None

TEXT = "Größe Привет 你好 नमस्ते مرحبا 👍🏽 ½ \u00a0\u200b e\u0301 \r\n" + " ".join(map(str, range(500)))
TOLERANCE = 1e-3  # both models read TEXT; if their logits differ by more, they are not the same model
# Files that `spec` keeps beside tokenizer.json. An export writes no others: a foreign checkpoint could name any path.
KEPT = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
# fields of a config that the tensors depend on; a branch and its seed agree in them
TENSOR_FIELDS = [name for name in vars(GPTConfig()) if name not in ("block_size", "top_k", "routing")]
FAR = 0.6  # largest relative distance of matrices; norms start at 1 in all models and would make strangers look close

# our name -> the name in a Hugging Face folder
FIELDS = {"vocab_size": "vocab_size", "n_embd": "hidden_size", "n_layer": "num_hidden_layers",
          "n_head": "num_attention_heads", "n_kv_head": "num_key_value_heads", "d_ff": "intermediate_size",
          "tie_weights": "tie_word_embeddings", "norm_eps": "rms_norm_eps"}
PARTS = {r"^embed": "model.embed_tokens", r"^norm": "model.norm", r"^head": "lm_head", r"^blocks": "model.layers",
         r"attn_norm": "input_layernorm", r"ff_norm": "post_attention_layernorm", r"attn.w(.)": r"self_attn.\1_proj",
         r"ff.w_(.+)": r"mlp.\1_proj.weight", r"ff.router": "block_sparse_moe.gate.weight"}
# a matrix of a dense feed-forward in a folder -> the same matrix of a Mixtral's expert
EXPERT = {"gate_proj.weight": "w1.weight", "up_proj.weight": "w3.weight", "down_proj.weight": "w2.weight"}
# how Llama 3.1 and 3.2 scale RoPE, apart from theta and the factor; model.py supports no other scaling
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}


def name_in_folder(name):
    """Translate the name of one of our tensors: "blocks.3.ff.w_up" becomes "model.layers.3.mlp.up_proj.weight"."""
    for pattern, replacement in PARTS.items():
        name = re.sub(pattern, replacement, name)
    return name


def expert_in_folder(name, i):
    """Translate the name of one of our stacked matrices to the name of expert i's matrix in a folder."""
    layer, _, matrix = name_in_folder(name).partition(".mlp.")
    return f"{layer}.block_sparse_moe.experts.{i}.{EXPERT[matrix]}"


def weights_in_folder(checkpoint):
    """Rename the weights of a checkpoint for a folder, and split the stacked experts into one tensor each."""
    weights = {}
    for name, tensor in checkpoint["state"].items():
        if checkpoint["experts"] and is_feed_forward(name):
            for i, expert in enumerate(tensor):
                weights[expert_in_folder(name, i)] = expert.clone()
        else:
            weights[name_in_folder(name)] = tensor
    return weights


@torch.no_grad()
def prove(checkpoint, folder, name):
    """Compare the logits of our model and the model in a folder. Raises BadInput about `name` unless they agree."""
    model = build_model(checkpoint, share=True)
    idx = torch.tensor([load_tokenizer(checkpoint["spec"]).encode(TEXT)])  # (1, T)
    logits, _, _ = model(idx)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    difference = (logits - theirs(idx).logits).abs().max().item()
    if not difference <= TOLERANCE:  # unlike difference > TOLERANCE, this also catches nan
        raise BadInput(f"{name} is a {theirs.config.model_type}: in transformers {transformers.__version__} its logits "
                       f"differ from ours by {difference:.1e}; model.py lacks something that it has, such as biases or "
                       "another RoPE")
    print(f"{name}: over {idx.shape[1]} tokens, logits in transformers differ from ours by at most {difference:.1e}")


def read_config(folder):
    """Read the config of a folder. Raises BadInput if the model cannot be imported."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder; to download one, run .venv/bin/hf download NAME --local-dir FOLDER")
    if (folder / "adapter_config.json").exists():
        raise BadInput(f"{folder}: this is an adapter; first merge it, with peft's merge_and_unload (docs/trouble.md)")
    for needed in ("tokenizer.json", "*.safetensors"):
        if not any(folder.glob(needed)):
            raise BadInput(f"{folder} has no {needed}; copy the whole folder, or use transformers' save_pretrained")
    fields = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if getattr(fields, "quantization_config", None):
        raise BadInput(f"{folder} is quantized; download the folder with the model's original weights")
    if getattr(fields, "sliding_window", None):  # only texts longer than the window would show it
        raise BadInput(f"{folder} is a {fields.model_type} with a sliding window; choose a model without one")
    head_dim = getattr(fields, "head_dim", None)
    if head_dim and head_dim * fields.num_attention_heads != fields.hidden_size:
        raise BadInput(f"{folder} is a {fields.model_type}: its {fields.num_attention_heads} heads of {head_dim} "
                       f"numbers do not add up to its width of {fields.hidden_size}; model.py cannot compute that")
    return fields


def read_weights(folder, config):
    """Read the state dict of a folder's model, in the dtype of its files.

    Raises KeyError if a tensor is missing, or if one of the layers has no place in our model.
    """
    tensors, state = {}, {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
    for name in list(tensors):
        layer, is_fused, _ = name.partition(".mlp.experts.gate_up_proj")
        if is_fused:  # transformers 5 stacks the experts of a layer, (N, 2 d_ff, D); some tools save them this way
            gate, up = tensors.pop(name).chunk(2, dim=1)
            tensors |= {f"{layer}.mlp.gate_proj.weight": gate, f"{layer}.mlp.up_proj.weight": up,
                        f"{layer}.mlp.down_proj.weight": tensors.pop(f"{layer}.mlp.experts.down_proj"),
                        f"{layer}.block_sparse_moe.gate.weight": tensors.pop(f"{layer}.mlp.gate.weight")}
    with torch.device("meta"):  # only the names are needed
        names = GPT(config).state_dict().keys()
    for name in names:
        theirs = name_in_folder(name)
        if config.n_expert and is_feed_forward(name) and theirs not in tensors:
            state[name] = torch.stack([tensors.pop(expert_in_folder(name, i)) for i in range(config.n_expert)])
        else:
            state[name] = tensors.pop(theirs)
    for name in tensors:
        if ".layers." in name and name.endswith(".weight"):
            raise KeyError(f"{name} would be left out: config.json describes a model without it")
    return state


def read_spec(folder, fields):
    """Make the `spec` of a folder's tokenizer, with the files and ids that an export writes again. Raises BadInput.

    A text begins and ends with the end token that config.json names. If it names several, the first one is used.
    """
    definition, end = (folder / "tokenizer.json").read_text("utf-8"), fields.eos_token_id
    if isinstance(end, list):
        end = end[0]
    spec = from_huggingface(definition, end, folder.resolve().name)
    if spec["vocab_size"] > fields.vocab_size:
        raise BadInput(f"{folder}: tokenizer.json has {spec['vocab_size']} tokens, but the model has "
                       f"{fields.vocab_size} embeddings; copy the tokenizer that belongs to the model")
    if end not in range(spec["vocab_size"]):
        raise BadInput(f"{folder}: eos_token_id in config.json is {end}, which is not a token of tokenizer.json; set "
                       "it to the id of the token that ends a text")
    kept = {name: (folder / name).read_text("utf-8") for name in KEPT if (folder / name).exists()}
    return spec | {"files": kept, "bos": fields.bos_token_id, "ends": fields.eos_token_id,
                   "max_positions": fields.max_position_embeddings}


def become_branch(checkpoint, seed, folder):
    """Give a finetune the tokenizer and the ledger of its seed, so that mix.py accepts it. Raises BadInput."""
    state, config, n_tokens = checkpoint["state"], checkpoint["config"], seed["config"]["vocab_size"]
    if config["vocab_size"] == n_tokens + 1:  # the finetune has one more token, such as one for padding
        config["vocab_size"] = n_tokens
        for name in {"embed.weight", "head.weight"} & state.keys():
            state[name] = state[name][:n_tokens].clone()
        print(f"{folder}: its last token, which the seed does not have, is removed")
    for name in TENSOR_FIELDS:
        if config[name] != seed["config"][name]:
            raise BadInput(f"{folder} is no branch: {name} is {config[name]}, the seed's {seed['config'][name]}")
    if load_tokenizer(checkpoint["spec"]).encode(TEXT) != load_tokenizer(seed["spec"]).encode(TEXT):
        raise BadInput(f"{folder}: its tokenizer does not split text as the seed's does; it is no branch of the seed")
    matrices = [name for name in state if "norm" not in name]
    changed = sum((state[name].float() - seed["state"][name].float()).square().sum() for name in matrices)
    distance = (changed / sum(seed["state"][name].float().square().sum() for name in matrices)).sqrt().item()
    if distance > FAR:
        raise BadInput(f"{folder}: its weights are {100 * distance:.0f} % away from the seed's; no branch of the seed")
    print(f"{folder}: its weights are {100 * distance:.1f} % away from the seed's")
    checkpoint["spec"] = seed["spec"]
    checkpoint["ledger"] = seed["ledger"]


def import_folder(args):
    """Convert the Llama, Mistral or Mixtral in args.folder to the checkpoint args.out. Raises BadInput."""
    folder = args.folder
    check_save_path(args.out, [args.branch_of] if args.branch_of else [])
    fields = read_config(folder)
    try:
        rope = fields.rope_parameters
        config = GPTConfig(**{ours: getattr(fields, name) for ours, name in FIELDS.items()},
                           block_size=args.block_size or fields.max_position_embeddings,
                           rope_theta=rope["rope_theta"], rope_factor=rope.get("factor", 1.0))
        experts = []
        if fields.model_type == "mixtral":
            config.n_expert, config.top_k = fields.num_local_experts, fields.num_experts_per_tok
            experts = getattr(fields, "expert_names", [f"expert{i + 1}" for i in range(config.n_expert)])
        state = read_weights(folder, config)
    except (AttributeError, KeyError) as error:
        raise BadInput(f"{folder} is a {fields.model_type}; name a whole Llama, Mistral or Mixtral ({error})") from None
    checkpoint = {"state": state, "config": vars(config), "experts": experts, "spec": read_spec(folder, fields),
                  "ledger": [], "log": []}
    check_finite(state, f"{folder}: its weights are not all finite; download or save the folder again")
    prove(checkpoint, folder, folder)
    if args.branch_of is not None:
        become_branch(checkpoint, load_checkpoint(args.branch_of), folder)
    settings = {"digests": {path.name: digest(path.read_bytes()) for path in sorted(folder.glob("*.safetensors"))},
                "config": vars(config), "tokenizer": checkpoint["spec"]["fingerprint"]}  # two imports may differ here
    entry = new_entry("import", args.out, checkpoint["ledger"][-1:], settings=settings)
    checkpoint["ledger"] = [*checkpoint["ledger"], entry]
    save_checkpoint(args.out, checkpoint)
    print(f"wrote {args.out}: {config}")


def write_config(checkpoint, tokenizer, folder):
    """Write config.json, from which transformers learns the model's shape and its special tokens."""
    config, spec = checkpoint["config"], checkpoint["spec"]
    fields = {name: config[ours] for ours, name in FIELDS.items()}
    fields |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
               "rope_theta": config["rope_theta"], "rope_scaling": None,
               "dtype": str(checkpoint["state"]["embed.weight"].dtype).removeprefix("torch."),
               "max_position_embeddings": spec.get("max_positions", config["block_size"]),
               "bos_token_id": spec.get("bos", tokenizer.eot), "eos_token_id": spec.get("ends", tokenizer.eot)}
    if config["rope_factor"] > 1:
        fields["rope_scaling"] = LLAMA3 | {"factor": config["rope_factor"]}
    if checkpoint["experts"]:
        fields |= {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"],
                   "num_local_experts": config["n_expert"], "num_experts_per_tok": config["top_k"],
                   "expert_names": checkpoint["experts"]}
    (folder / "config.json").write_text(json.dumps(fields, indent=2))


def write_tokenizer(tokenizer, folder):
    """Write tokenizer.json, unchanged if it was imported, and the files beside it. Raises BadInput."""
    end = tokenizer.decode([tokenizer.eot])
    options = {"bos_token": end, "eos_token": end}
    kept = tokenizer.spec.get("files", {})
    files = {"tokenizer.json": tokenizer.spec["definition"], **{name: kept[name] for name in KEPT if name in kept}}
    if tokenizer.spec["kind"] == "bpe":
        ranks = folder.parent / "ranks.tiktoken"
        ranks.write_text(tokenizer.spec["definition"])
        bpe = TikTokenConverter(str(ranks), PATTERN, False, [END]).converted()
        # a text begins with the end-of-text token, as in training
        bpe.post_processor = TemplateProcessing(single=f"{END} $A", special_tokens=[(END, tokenizer.eot)])
        files["tokenizer.json"] = bpe.to_str()
    elif "tokenizer_config.json" in files:
        options = json.loads(files["tokenizer_config.json"])
    options.setdefault("pad_token", options.get("eos_token", end))
    options["tokenizer_class"] = "PreTrainedTokenizerFast"  # others, such as GPT2Tokenizer, may not split digits
    for name, text in (files | {"tokenizer_config.json": json.dumps(options)}).items():
        (folder / name).write_text(text, "utf-8")
    written = transformers.AutoTokenizer.from_pretrained(folder)
    if written(TEXT, add_special_tokens=False).input_ids != tokenizer.encode(TEXT):
        raise BadInput(f"{folder.name}: in transformers its tokenizer would split text into other tokens")


def export(path, folder):
    """Write the checkpoint in `path` as a new folder that transformers can load. Raises BadInput."""
    if folder.exists():
        raise BadInput(f"{folder} already exists; name a new folder")
    check_output(folder)
    checkpoint = load_checkpoint(path)
    tokenizer = load_tokenizer(checkpoint["spec"])
    if checkpoint["experts"] and checkpoint["config"]["routing"] != "topk":
        raise BadInput(f"{path}: only Top-k routing can be exported; Mixtral has no {checkpoint['config']['routing']}")
    with TemporaryDirectory(dir=folder.parent) as temporary:
        part = Path(temporary, folder.name)
        part.mkdir()
        write_config(checkpoint, tokenizer, part)
        write_tokenizer(tokenizer, part)
        save_torch_state_dict(weights_in_folder(checkpoint), part)
        prove(checkpoint, part, path)
        part.rename(folder)
    print(f"wrote {folder}")


def main(argv=None):
    parser = make_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, prog=parser.prog)
    command = commands.add_parser("import", usage=parser.usage, help="convert a Hugging Face folder to a checkpoint")
    command.add_argument("folder", type=Path, help="folder with config.json, *.safetensors and tokenizer.json")
    command.add_argument("--out", required=True, help="checkpoint to write")
    command.add_argument("--block_size", type=positive_int, help="longest text in training (default: the model's)")
    command.add_argument("--branch_of", metavar="SEED", help="checkpoint of the model that was finetuned")
    command = commands.add_parser("export", usage=parser.usage, help="convert a checkpoint to a Hugging Face folder")
    command.add_argument("checkpoint", help="a dense model, or an MoE with Top-k routing")
    command.add_argument("folder", type=Path, help="folder to create")
    args = parser.parse_args(argv)
    if transformers is None or int(transformers.__version__.split(".")[0]) < 5:
        raise BadInput("transformers 5 is not installed; run .venv/bin/pip install -r requirements-hf.txt")
    try:
        if args.command == "export":
            export(args.checkpoint, args.folder)
        else:
            import_folder(args)
    except (BadInput, MemoryError):
        raise
    except Exception as error:  # each library raises its own errors for foreign or damaged files and for a full disk
        raise BadInput(f"{args.folder}: the {args.command} failed ({' '.join(str(error).split())}); check that the "
                       "folder holds a complete Llama, Mistral or Mixtral, and that the disk has room") from None


if __name__ == "__main__":
    run(main)
