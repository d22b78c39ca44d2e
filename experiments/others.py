"""mergekit and MixtureKit on our tensors: where they compute the same as this repository, and where not.

    python3 -m venv /tmp/others
    /tmp/others/bin/pip install -r requirements-hf.txt mergekit==0.1.5 mixturekit==1.1.1
    git clone https://github.com/MBZUAI-Paris/MixtureKit /tmp/MixtureKit && git -C /tmp/MixtureKit checkout a51457c
    /tmp/others/bin/python -m experiments.others /tmp/MixtureKit

Mixes the models of data/start in several ways and writes results/others.md. docs/others.md says what the numbers mean.
It takes a minute, without a GPU. It runs code of both projects.
"""
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F

import hf
import mix
from cli import make_parser, replacing, run
from data.tokenizer import load_tokenizer
from model import ff_moe, load_balancing_loss, rope_angles, route_topk
from support.checkpoint import build_model, load_checkpoint
from support.report import markdown

NAMES = ["seed", "math", "code", "wiki"]
INTRO = """# mergekit and MixtureKit on our tensors

Written by [experiments/others.py](../experiments/others.py), which says how to install them. What the numbers mean:
[docs/others.md](../docs/others.md). All models are made of the four in `data/start`, in float32, without finetuning.
A relative difference is |theirs - ours| / |ours|. All experts are chosen by Top-2. The rows about three routers are of
the first layer and of the class in MixtureKit's clone: they give the routers of w_gate, w_up and w_down."""


def run_mergekit(folders, out):
    """Let mergekit average Hugging Face folders, and make a Mixtral of them. The first one is its base model."""
    from mergekit import config, merge, options
    from mergekit.moe.config import MoEMergeConfig
    from mergekit.scripts.moe import build
    models = [{"model": str(folder), "parameters": {"weight": 1.0}} for folder in folders]
    linear = {"merge_method": "linear", "dtype": "float32", "models": models}
    merge.run_merge(config.MergeConfiguration.model_validate(linear), f"{out}/mergekit-linear", options.MergeOptions())
    experts = [{"source_model": str(folder)} for folder in folders]
    moe = {"base_model": str(folders[0]), "gate_mode": "random", "dtype": "float32", "experts": experts}
    build(MoEMergeConfig.model_validate(moe), f"{out}/mergekit-moe", options.MergeOptions())


def run_mixturekit(folders, out):
    """Let the installed MixtureKit make a model with one router for each layer. The routers are new."""
    from MixtureKit import build_moe
    experts = [{"expert_name": folder.name, "model_id": str(folder)} for folder in folders]
    settings = {"moe_method": "traditional", "model_type": "llama_moe", "num_experts_per_tok": 2, "experts": experts}
    build_moe(settings, torch_dtype=torch.float32, output_dir=f"{out}/llama_moe")
    return hf.transformers.AutoModelForCausalLM.from_pretrained(f"{out}/llama_moe", trust_remote_code=True)


def load_class(clone):
    """The class MoeLayer in a clone of MixtureKit: N matrices and their router."""
    spec = util.spec_from_file_location("btx", clone / "MixtureKit/_btx.py")
    module = util.module_from_spec(spec)
    module.torch, module.nn = torch, torch.nn  # MixtureKit pastes this file below a model's imports
    spec.loader.exec_module(module)
    return module.MoeLayer


def three_routers(MoeLayer, matrices, x, logits):
    """A feed-forward of three MoeLayers. logits: what the router of each says, or None for a new router."""
    layers = []
    for matrix, given in zip(matrices, logits, strict=True):
        layer = MoeLayer(matrix.shape[2], matrix.shape[1], bias=False, num_experts=len(matrix))
        for expert, weights in zip(layer.experts.values(), matrix, strict=True):
            expert.weight.copy_(weights)
        if given is not None:
            layer.gate.register_forward_hook(lambda *_, given=given: given)
        layers.append(layer)
    w_gate, w_up, w_down = layers
    return w_down(F.silu(w_gate(x)) * w_up(x))


def weights(folder, part=""):
    """The numbers of all tensors with `part` in their name, (n,), as transformers loads them."""
    state = hf.load_folder(folder)[1].state_dict()
    return torch.cat([state[name].flatten() for name in sorted(state) if part in name])


def relative(theirs, ours):
    """|theirs - ours| / |ours| as text."""
    return f"{100 * ((theirs - ours).norm() / ours.norm()).item():.2g} %"


def compare_folders(folder):
    """Rows about the tensors of mergekit's two models, which are in `folder` with ours."""
    pairs = [("mergekit-linear", "soup", "")]
    for part in ("embed_tokens", "self_attn", "norm"):
        pairs += [("mergekit-moe", "seed", part), ("mergekit-moe", "btx", part)]
    pairs.append(("mergekit-moe", "btx", "experts"))
    return [[f"{theirs}: {part or 'all tensors'}", f"{ours}.pt",
             relative(weights(folder / theirs, part), weights(folder / ours, part))] for theirs, ours, part in pairs]


def compare_layer(MoeLayer, moe, idx):
    """Rows about the experts of our first layer, in MixtureKit's class with three routers and in FF_MoE."""
    block = moe.blocks[0]
    x = moe.embed(idx)
    x = block.ff_norm(x + block.attn(block.attn_norm(x), rope_angles(moe.config, 0, idx.shape[1], idx.device)))
    matrices = [block.ff.w_gate, block.ff.w_up, block.ff.w_down]
    logits = F.linear(x, block.ff.router)  # (1, T, N)
    sure = 1e6 * logits                    # gates of 1 and 0
    rows = []
    for name, given in {"ours, ours, a new one": [logits, logits, None], "ours for all": [logits, logits, logits],
                        "ours for all, gates of 1 and 0": [sure, sure, sure]}.items():
        ours = ff_moe(x[0], route_topk(given[0][0], 2), *matrices)
        theirs = three_routers(MoeLayer, matrices, x, given)[0]
        rows.append([f"three routers: {name}", "FF_MoE", relative(theirs, ours)])
    return rows


def compare_losses(MoeLayer, switch_loss):
    """Rows about balancing losses, divided by alpha, of four tokens and the Top-2 of four experts."""
    layer = MoeLayer(4, 4, bias=False, num_experts=4, alpha=1.0)
    layer.gate.weight.copy_(torch.eye(4))
    sure = 100 * torch.eye(4)
    rows = []
    for name, logits in {"unsure": torch.zeros(4, 4), "each sure of another expert": sure,
                         "all sure of one expert": sure[[0, 0, 0, 0]]}.items():
        layer(logits[None])
        routing = route_topk(logits, 2)
        losses = [load_balancing_loss([routing]), layer.loss_lb, switch_loss(logits, routing.experts, 4)]
        rows.append([name, *(f"{loss:.2f}" for loss in losses)])
    return rows


@torch.no_grad()
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("clone", type=Path, help="clone of MixtureKit")
    parser.add_argument("--out", default="results/others.md", help="file to write (default: %(default)s)")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    MoeLayer = load_class(args.clone)
    with TemporaryDirectory() as folder:
        folder = Path(folder)
        starts, folders = [f"data/start/{name}.pt" for name in NAMES], [folder / name for name in NAMES]
        mix.main([*starts, "--soup", "--out", f"{folder}/soup.pt"])
        mix.main([*starts, "--out", f"{folder}/btx.pt"])
        for path in [*starts, f"{folder}/soup.pt", f"{folder}/btx.pt"]:
            hf.main(["export", path, str(folder / Path(path).stem)])
        run_mergekit(folders, folder)
        rows = compare_folders(folder)
        release = run_mixturekit(folders, folder)
        mixed = load_checkpoint(f"{folder}/btx.pt")
    moe = build_model(mixed)
    for layer, block in zip(release.model.layers, moe.blocks, strict=True):
        layer.mlp.gate.weight.copy_(block.ff.router)
    idx = torch.tensor([load_tokenizer(mixed["spec"]).encode(hf.TEXT)[:moe.config.block_size]])  # (1, T)
    layer_rows = compare_layer(MoeLayer, moe, idx)
    layer_rows.append(["the release's \"traditional\" method, one router: logits", "btx.pt",
                       relative(release(idx).logits, moe(idx)[0])])
    losses = compare_losses(MoeLayer, sys.modules[type(release).__module__].switch_load_balancing_loss)
    git = subprocess.run(["git", "-C", args.clone, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    versions = [f"{name} {metadata.version(name)}" for name in ("mergekit", "mixturekit", "torch", "transformers")]
    with replacing(args.out) as part:
        part.write_text("\n\n".join([
            INTRO, f"Versions: {', '.join(versions)}. MixtureKit's clone: commit {git.stdout[:7]}.",
            markdown(["mergekit", "ours", "relative difference"], rows),
            markdown(["MixtureKit", "ours", "relative difference"], layer_rows),
            markdown(["balancing loss / alpha of four tokens", "ours", "clone", "release"], losses)]) + "\n")


if __name__ == "__main__":
    run(main)
