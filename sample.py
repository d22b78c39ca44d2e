"""Continue a prompt with any checkpoint, and see which expert wrote which token (the paper's Table 6).

    python sample.py out/btx.pt --prompt "Tom has 12 apples. Tom buys 7 more. How many apples?" --experts
    python sample.py out/btx.pt --prompt "What is the capital of" --temperature 0.8 --html out/sample.html
    python sample.py out/seed.pt out/math.pt out/code.pt --btm bayes:1 --prompt "Tom has 12 apples."
"""
import codecs
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from data import tokenizer
from data.loader import files_in, prepared, read_domains
from support import btm, explore
from support import checkpoint as ckpt
from support.devices import pick_device
from support.files import check_other, output, reading
from support.settings import BadInput, option, parse, run


@dataclass
class Settings:
    model: list = option([], "one checkpoint, or several dense ones with --btm", positional=True)
    btm: str = option("", "several models answer together by Branch-Train-Merge (see support/btm.py), as in bayes:1 or tfidf:2")
    data_dir: str = option("data/bin", "for tfidf: folder written by data.prepare")
    prompt: str = option("", "text to continue; the empty prompt starts a new text", empty=True)
    tokens: int = option(100, "tokens to write at most; ends earlier where the model ends its text", low=1)
    temperature: float = option(0.0, "0: always the likeliest token", low=0.0)
    top_k: int = option(0, "draw from the N likeliest tokens only; 0: from all", low=0)
    seed: int = option(0, "seed of the draws", low=0)
    layer: int = option(0, "layer whose router colours the tokens in the terminal, 1 to n_layer; 0: mean over the layers", low=0)
    experts: bool = option(False, "colour each token by its top expert")
    html: str = option("", "write a page to this file in which each token shows its experts; of a text that is longer "
                       "than the model reads at once, the end")
    device: str = option("auto", "auto, cpu, cuda, mps ...")


def top_experts(routing, layer):
    """The expert with the largest gate for each token of a forward pass; routing: one Routing per layer. Returns a list."""
    chosen = [routing[layer - 1]] if layer else routing
    return sum(r.dense_gates() for r in chosen).argmax(1).tolist()


def in_terminal(text, expert):
    """Text on the expert's colour in the figures, as an ANSI escape sequence."""
    color = bytes.fromhex(explore.COLORS[expert % len(explore.COLORS)][1:])
    return "\x1b[48;2;{};{};{}m\x1b[38;2;255;255;255m{}\x1b[0m".format(*color, text)


def go_on(settings, model, encoding, prompt, names, device):
    """Write what the model makes of the prompt, a list of ids, to the terminal and to settings.html. names: of its experts."""
    generator = torch.Generator(device).manual_seed(settings.seed)
    stream = model.stream(torch.tensor([prompt], device=device), settings.tokens, settings.temperature,
                          settings.top_k or None, generator)

    written, decoder = [], codecs.getincrementaldecoder("utf-8")("replace")

    def write(tokens, experts):
        for token, expert in zip(tokens, experts, strict=True):
            text = decoder.decode(tokenizer.piece(encoding, token))  # "" until a character is whole
            written.append(token)
            text = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)  # no codes for the terminal
            sys.stdout.write(in_terminal(text, expert) if settings.experts else text)
        sys.stdout.flush()

    # A token is coloured by the experts that read the token before it, for they are those that wrote it.
    try:
        for n, (token, routing) in enumerate(stream):
            experts = top_experts(routing, settings.layer) if names else [0] * (len(prompt) if n == 0 else 1)
            if n == 0:
                write(prompt[1:], experts[:-1])
            if token.item() == encoding.eot_token:
                break
            write([token.item()], experts[-1:])
    except ValueError as error:  # of logits that are no numbers
        raise BadInput(f"{settings.model[0]}: {error}") from None
    print()
    if settings.experts:
        print("experts: " + " ".join(in_terminal(f" {name} ", i) for i, name in enumerate(names)))
    if settings.html:
        text = (prompt[:1] + written)[-model.config.block_size - 1:]  # as much as the model reads at once
        if len(text) < 2:
            raise BadInput("--html: the model wrote nothing that could be shown; give it a --prompt")
        with reading(settings.model[0], "shown"):
            reads = [explore.read(model, encoding, text, device)]
        name = settings.prompt[:40] or "a new text"
        explore.write(settings.html, encoding, {name: text}, {Path(settings.model[0]).stem: (names, reads)})


def main(argv=None):
    settings = parse(Settings, argv)
    if len(settings.model) != 1 and not (settings.model and settings.btm):
        raise BadInput("name one checkpoint, as in: sample.py out/btx.pt --prompt ..., or several with --btm")
    checkpoints, device = [ckpt.load(path) for path in settings.model], pick_device(settings.device)
    checkpoint = checkpoints[0]
    for path, other in zip(settings.model, checkpoints, strict=True):
        if settings.btm and other["experts"]:
            raise BadInput(f"{path} is a mixture of experts; --btm takes dense models")
        if settings.btm and other["tokenizer"]["fingerprint"] != checkpoint["tokenizer"]["fingerprint"]:
            raise BadInput(f"{path} has another tokenizer than {settings.model[0]}; --btm takes models of one")
        encoding = tokenizer.of(other["tokenizer"], path)
    names = checkpoint["experts"]
    if (settings.experts or settings.html) and not names:
        raise BadInput(f"--experts, --html: {settings.model[0]} is a dense model and has none to show; name a mixed one")
    if settings.layer and not settings.experts:
        raise BadInput("--layer is for --experts, the colours in the terminal; give both, or none")
    if settings.layer > checkpoint["config"]["n_layer"]:
        raise BadInput(f"--layer {settings.layer}: the model has {checkpoint['config']['n_layer']} layers")
    if settings.btm:
        method, k = btm.read_method(settings.btm, len(checkpoints))
        domains = {} if method == "bayes" else read_domains(settings.data_dir, prepared(settings.data_dir))
        data = btm.expert_data(method, domains, settings.model, checkpoints)
        model = btm.BTM([ckpt.build(c, device) for c in checkpoints], method, k, data)
    else:
        model = ckpt.build(checkpoint, device)
    prompt = [encoding.eot_token] + encoding.encode(settings.prompt, allowed_special="all")
    if len(prompt) > model.config.block_size:
        raise BadInput(f"--prompt has {len(prompt)} tokens, but the model reads {model.config.block_size}; shorten it")
    if settings.html:
        if Path(settings.html).suffix != ".html":
            raise BadInput(f"--html {settings.html}: name the page to write, ending in .html")
        check_other(settings.html, [*settings.model, *files_in(settings.data_dir)])
    with output(settings.html) if settings.html else nullcontext():
        go_on(settings, model, encoding, prompt, names, device)


if __name__ == "__main__":
    run(main)
