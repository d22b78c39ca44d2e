"""A page that shows which expert wrote which token (the paper's Table 6): explore.template, filled with data."""
import json
from pathlib import Path

import torch

from cli import replacing

COLORS = ["#8c8c8c", "#2f6fb0", "#e08a1e", "#3a9a5b", "#a05bb0", "#c94f4f", "#5bb5c4", "#8a6d3b", "#e377a2", "#b5bd3c",
          "#1b3a5c"]  # of experts and models, here and in the figures


def piece(tokenizer, token):
    """The text of one token, for people."""
    return tokenizer.decode([token])


def top_experts(routing, layer=None):
    """The expert with the largest gate for each token of a pass; in one layer, counted from 1, or in the mean."""
    chosen = [routing[layer - 1]] if layer else routing
    return sum(r.dense_gates() for r in chosen).argmax(1).tolist()


@torch.inference_mode()
def trace_text(model, tokenizer, tokens, device="cpu"):
    """Follow an MoE through a text of T + 1 ids. Returns lists, with one entry for each token but the first.

    gates: (T, n_layer, N), in %, where the token was predicted, which is at the token before it. p: (T,), the token's
    probability. next: the five likeliest tokens in its place, [text, probability] each.
    """
    idx = torch.tensor([tokens], device=device)                              # (1, T + 1)
    logits, _, routing = model(idx[:, :-1])
    probs = logits[0].float().softmax(-1)                                    # (T, V)
    gates = torch.stack([layer.dense_gates() for layer in routing], dim=1)   # (T, n_layer, N)
    given = probs.gather(1, idx[0, 1:, None])[:, 0]                          # (T,)
    likeliest = []
    top_probs, top_ids = probs.topk(5)                                       # (T, 5)
    for five_probs, five_ids in zip(top_probs.tolist(), top_ids.tolist(), strict=True):
        pairs = zip(five_ids, five_probs, strict=True)
        likeliest.append([[piece(tokenizer, i), round(p, 3)] for i, p in pairs])
    return {"gates": (100 * gates).cpu().double().round(decimals=1).tolist(),
            "p": given.cpu().double().round(decimals=3).tolist(), "next": likeliest}


def fill(path, name, data):
    """Write a page: support/NAME with its data, and with the files that lines such as `/* include page.js */` name."""
    folder, page = Path(__file__).parent, ""
    for line in (folder / name).read_text(encoding="utf-8").splitlines(keepends=True):
        if line.startswith("/* include "):
            line = (folder / line.split()[2]).read_text(encoding="utf-8")
        page += line
    safe = json.dumps(data).replace("<", "\\u003c")  # so that </script> in a text does not end the page's script
    with replacing(path) as part:
        part.write_text(page.replace(">DATA<", f">{safe}<"), encoding="utf-8")


def write_page(path, tokenizer, texts, models):
    """Write the page. texts: {name: T + 1 ids}; models: {name: (its experts, what `trace_text` says of each text)}."""
    pieces = {name: [piece(tokenizer, token) for token in tokens[1:]] for name, tokens in texts.items()}
    data = {"texts": [{"name": name, "tokens": pieces[name]} for name in texts],
            "models": [{"name": name, "experts": experts, "reads": reads} for name, (experts, reads) in models.items()],
            "colors": COLORS}
    fill(path, "explore.template", data)
