"""Continue a prompt with any checkpoint, and see which expert wrote which token (the paper's Table 6).

    python sample.py out/btx.pt --prompt "Tom has 12 apples. Tom buys 7 more. How many apples?" --experts
    python sample.py out/btx.pt --prompt "What is the capital of" --temperature 0.8 --html out/sample.html
    python sample.py out/seed.pt out/math.pt out/code.pt --btm bayes:1 --prompt "Tom has 12 apples."
"""
from pathlib import Path

import torch

from data.common import BadInput, check_output, make_parser, positive_int, run
from data.loader import load_domains
from data.tokenizer import encode_prompt, load
from support import btm, checkpoint, explore
from support.distributed import pick_device
from support.generation import stream


def parse(argv):
    """The options of this script."""
    parser = make_parser(__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a checkpoint, or several dense ones with --btm")
    parser.add_argument("--btm", metavar="METHOD:K", help="merge several models, as in bayes:1 or tfidf:2 (support/btm.py)")
    parser.add_argument("--data_dir", default="data/bin", help="for --btm tfidf: prepared data (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps ... (default: %(default)s)")
    group = parser.add_argument_group("text")
    group.add_argument("--prompt", default="", help="text to continue (default: none, start a new text)")
    group.add_argument("--tokens", type=positive_int, default=100, help="most tokens to write (default: %(default)s)")
    group.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token (default: %(default)s)")
    group.add_argument("--top_k", type=positive_int, default=0, help="draw from this many likeliest tokens (default: all)")
    group.add_argument("--seed", type=int, default=0, help="of the draws (default: %(default)s)")
    group = parser.add_argument_group("experts of a mixture")
    group.add_argument("--experts", action="store_true", help="colour each token by the expert with the largest gate")
    group.add_argument("--layer", type=positive_int, help="the layer whose gates count, from 1 (default: mean over all layers)")
    group.add_argument("--html", metavar="FILE", help="write a page that shows the gates of each token")
    return parser.parse_args(argv)


def build_model(args, checkpoints, device):
    """The model of the one checkpoint, or Branch-Train-Merge of several. Raises BadInput."""
    if not args.btm:
        if len(checkpoints) > 1:
            raise BadInput("several models need --btm, as in --btm bayes:1")
        return checkpoint.build(checkpoints[0], device)
    for path, c in zip(args.models, checkpoints, strict=True):
        if c["experts"]:
            raise BadInput(f"{path} is a mixture of experts; --btm merges dense models")
        if c["tokenizer"]["fingerprint"] != checkpoints[0]["tokenizer"]["fingerprint"]:
            raise BadInput(f"{path} has another tokenizer than {args.models[0]}; --btm merges models of one tokenizer")
    method, top_k = btm.parse_method(args.btm, len(checkpoints))
    experts = [checkpoint.build(c, device) for c in checkpoints]
    ...


def colour(text, expert):
    """Text on an expert's colour, for a terminal."""
    red, green, blue = bytes.fromhex(explore.COLORS[expert % len(explore.COLORS)][1:])
    return f"\x1b[48;2;{red};{green};{blue}m\x1b[97m{text}\x1b[0m"


def top_experts(routing, layer):
    """The expert with the largest gate for each token, a list. routing: one Routing for each layer; layer: see --layer."""
    chosen = [routing[layer - 1]] if layer else routing
    return sum(r.dense_gates() for r in chosen).argmax(1).tolist()


def main(argv=None):
    args = parse(argv)
    device = pick_device(args.device)
    checkpoints = [checkpoint.load(path) for path in args.models]
    names = checkpoints[0]["experts"]
    if (args.experts or args.html) and (not names or args.btm):
        raise BadInput(f"--experts, --html: {args.models[0]} has no experts to show; name a mixture of experts")
    ...
