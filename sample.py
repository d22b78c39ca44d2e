"""Continue a prompt with any checkpoint, and see which expert wrote which token (the paper's Table 6).

    python sample.py out/btx.pt --prompt "Tom has 12 apples. Tom buys 7 more. How many apples?" --experts
    python sample.py out/btx.pt --prompt "What is the capital of" --temperature 0.8
    python sample.py out/seed.pt out/math.pt out/code.pt --btm bayes:1 --prompt "Tom has 12 apples."
"""
import torch

from cli import BadInput, make_parser, non_negative, non_negative_int, positive_int, run
from data.loader import check_tokenizer, load_domains
from data.tokenizer import encode_prompt, load_tokenizer
from support import btm
from support.checkpoint import build_model, load_checkpoint
from support.distributed import pick_device
from support.figures import COLORS
from support.generation import stream, top_experts


def parse(argv):
    """The options of this script."""
    parser = make_parser(__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a checkpoint, or several dense ones with --btm")
    parser.add_argument("--btm", metavar="METHOD:K", help="merge models, as in bayes:1 or tfidf:2 (support/btm.py)")
    parser.add_argument("--data_dir", default="data/bin", help="for tfidf: prepared data (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps ... (default: %(default)s)")
    group = parser.add_argument_group("the text")
    group.add_argument("--prompt", default="", help="text to continue (default: none, a new text begins)")
    group.add_argument("--tokens", type=positive_int, default=100, help="most tokens to write (default: %(default)s)")
    group.add_argument("--temperature", type=non_negative, default=0, help="0: take the likeliest token (default: 0)")
    group.add_argument("--top_k", type=positive_int, default=0, help="draw from the K likeliest tokens (default: all)")
    group.add_argument("--seed", type=non_negative_int, default=0, help="of the draws (default: %(default)s)")
    group = parser.add_argument_group("the experts of an MoE")
    group.add_argument("--experts", action="store_true", help="colour each token by the expert with the largest gate")
    group.add_argument("--layer", type=positive_int, help="by the gates of this layer, from 1 (default: their mean)")
    return parser.parse_args(argv)


def choose_model(args, checkpoints, device):
    """The model of one checkpoint, or Branch-Train-Merge of several. checkpoints: by path. Raises BadInput."""
    first = checkpoints[args.models[0]]
    if args.experts and not first["experts"]:
        raise BadInput(f"--experts: {args.models[0]} is dense; name an MoE")
    if args.btm:
        method, top_k = btm.parse_method(args.btm, checkpoints)
        training_data = None
        if method == "tfidf":
            domains = load_domains(args.data_dir)
            check_tokenizer(domains, first["spec"], args.models[0])
            training_data = btm.read_training_data(checkpoints, domains)
        return btm.BTM([build_model(c, device) for c in checkpoints.values()], method, top_k, training_data)
    if len(checkpoints) > 1:
        raise BadInput("--btm: say how several models write together, as in --btm bayes:1")
    if args.layer and args.layer > first["config"]["n_layer"]:
        raise BadInput(f"--layer {args.layer}: {args.models[0]} has {first['config']['n_layer']} layers")
    return build_model(first, device)


def colour(text, expert):
    """Text on the expert's colour, for a terminal."""
    red, green, blue = bytes.fromhex(COLORS[expert % len(COLORS)][1:])
    return f"\x1b[48;2;{red};{green};{blue}m\x1b[38;2;255;255;255m{text}\x1b[0m"


def read_and_write(model, prompt, eot, args, device):
    """Yield (token, expert) for the prompt's ids but the first, then for those that the model writes, up to `eot`.

    expert: the one with the largest gate at the token before, where this token was predicted; None without routing.
    """
    generator = torch.Generator(device).manual_seed(args.seed)
    idx = torch.tensor([prompt], device=device)  # (1, T)
    tokens = prompt[1:]  # the first pass predicts these, too
    for new, routing in stream(model, idx, args.tokens, args.temperature, args.top_k, generator):
        tokens.append(new.item())
        experts = [None] * len(tokens)
        if routing:  # when the older half was forgotten, the pass has read more than the last token
            experts = top_experts(routing, args.layer)[-len(tokens):]
        yield from zip(tokens, experts, strict=True)
        if tokens[-1] == eot:
            break
        tokens = []


def main(argv=None):
    args = parse(argv)
    device = pick_device(args.device)
    checkpoints = {path: load_checkpoint(path) for path in args.models}
    first = checkpoints[args.models[0]]
    model = choose_model(args, checkpoints, device)
    tokenizer = load_tokenizer(first["spec"])
    prompt = encode_prompt(tokenizer, args.prompt)
    if len(prompt) > model.config.block_size:
        raise BadInput(f"--prompt has {len(prompt)} tokens, but the model reads {model.config.block_size}; shorten it")

    ids = prompt[:1]  # the text so far; it begins with an end-of-text token
    shown = ""        # what of it is printed
    for token, expert in read_and_write(model, prompt, tokenizer.eot, args, device):
        ids.append(token)
        text = tokenizer.decode([i for i in ids if i != tokenizer.eot])
        if text.endswith("\ufffd"):  # its last character is not complete yet
            continue
        piece = text[len(shown):]
        print(colour(piece, expert) if args.experts else piece, end="", flush=True)
        shown = text
    print()
    if args.experts:
        print("experts: " + " ".join(colour(f" {name} ", i) for i, name in enumerate(first["experts"])))


if __name__ == "__main__":
    run(main)
