"""Continue a prompt with any checkpoint, and see which expert wrote which token (the paper's Table 6).

    python sample.py out/btx.pt --prompt "Tom has 12 apples. Tom buys 7 more. How many apples?" --experts
    python sample.py out/btx.pt --prompt "What is the capital of" --temperature 0.8
    python sample.py out/seed.pt out/math.pt out/code.pt    # several dense models write as Branch-Train-Merge
"""
import sys

import torch

from cli import BadInput, make_parser, non_negative, non_negative_int, positive_int, run
from data.tokenizer import load_tokenizer
from support.btm import BTM
from support.checkpoint import build_model, load_checkpoint
from support.colors import color_domains
from support.device import pick_device
from support.generation import stream


def parse(argv):
    """Read the options of this script."""
    parser = make_parser(__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL",
                        help="a checkpoint, or several dense ones: the likeliest author of the text writes each token")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps ... (default: %(default)s)")
    parser.add_argument("--prompt", default="", help="text to continue (default: begin a new text)")
    parser.add_argument("--tokens", type=positive_int, default=100, help="tokens to write, at most (default: 100)")
    parser.add_argument("--temperature", type=non_negative, default=0, help="0 takes the likeliest token (default: 0)")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="seed of the draws (default: 0)")
    parser.add_argument("--experts", action="store_true",
                        help="color each token by the expert with the largest gate, averaged over layers")
    return parser.parse_args(argv)


def mark(text, expert, names):
    """Text in the color of expert number `expert`. Outside a terminal, the expert's name precedes it in brackets."""
    if not sys.stdout.isatty():
        return f"[{names[expert]}]{text}"
    red, green, blue = bytes.fromhex(color_domains(names)[names[expert]].removeprefix("#"))
    return f"\x1b[48;2;{red};{green};{blue}m\x1b[38;2;17;17;17m{text}\x1b[0m"


def read_and_write(model, prompt, eot, args, device):
    """Yield (token, expert) for all ids of the prompt except the first, then for those that the model writes, to `eot`.

    expert: the one with the largest gate at the previous token, where this token is predicted; None without routing.
    """
    generator = torch.Generator(device).manual_seed(args.seed)
    idx = torch.tensor([prompt], device=device)  # (1, T)
    tokens = prompt[1:]  # the first pass predicts these, too
    for new, routing in stream(model, idx, args.tokens, args.temperature, generator):
        tokens.append(new.item())
        experts = [None] * len(tokens)
        if routing:  # when the older half was forgotten, the pass has read more than the last token
            gates = sum(layer.dense_gates() for layer in routing)  # (M, N), largest where the mean over layers is
            experts = gates.argmax(1).tolist()[-len(tokens):]
        yield from zip(tokens, experts, strict=True)
        if tokens[-1] == eot:
            break
        tokens = []


def main(argv=None):
    args = parse(argv)
    if 0 < args.temperature < 1e-6:  # logits that are divided by it can become infinite
        raise BadInput(f"--temperature {args.temperature}: use 0, which always takes the likeliest token")
    device = pick_device(args.device)
    checkpoints = [load_checkpoint(path) for path in args.models]
    checkpoint = checkpoints[0]
    if args.experts and not checkpoint["experts"]:
        raise BadInput(f"--experts: {args.models[0]} is dense; name an MoE")
    tokenizer = load_tokenizer(checkpoint["spec"])
    if len(checkpoints) == 1:
        model = build_model(checkpoint, device, share=True)
    else:
        for path, other in zip(args.models, checkpoints, strict=True):
            if other["experts"]:
                raise BadInput(f"{path} is an MoE; name one MoE alone, or several dense models")
            if other["spec"]["fingerprint"] != checkpoint["spec"]["fingerprint"]:
                raise BadInput(f"{path} and {args.models[0]} have different tokenizers, so BTM cannot average them")
        models = [build_model(each, device, share=True) for each in checkpoints]
        model = BTM(models, "share", top_k=len(models))
    prompt = tokenizer.encode_prompt(args.prompt)
    if len(prompt) > model.config.block_size:
        raise BadInput(f"--prompt has {len(prompt)} tokens, but the model reads {model.config.block_size}; shorten it")

    ids = prompt[:1]  # the text so far; it begins with an end-of-text token
    shown = ""        # the part of it that is already printed
    for token, expert in read_and_write(model, prompt, tokenizer.eot, args, device):
        ids.append(token)
        text = tokenizer.decode([i for i in ids if i != tokenizer.eot])
        if text.endswith("\ufffd"):  # the last character is not complete yet
            continue
        piece = text[len(shown):]
        if args.experts and piece:  # an end of text shows nothing
            piece = mark(piece, expert, checkpoint["experts"])
        print(piece, end="", flush=True)
        shown = text
    print()
    if args.experts and sys.stdout.isatty():
        names = checkpoint["experts"]
        print("experts: " + " ".join(mark(f" {name} ", i, names) for i, name in enumerate(names)))


if __name__ == "__main__":
    run(main)
