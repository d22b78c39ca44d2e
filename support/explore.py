"""A page in which a person sees which expert wrote which token (the paper's Table 6): explore.html, filled with data."""
import json
from pathlib import Path

import torch

from data import tokenizer
from support.files import write_text

N_LIKELIEST = 5
COLORS = ["#8c8c8c", "#2f6fb0", "#e08a1e", "#3a9a5b", "#a05bb0", "#c94f4f", "#5bb5c4", "#8a6d3b", "#e377a2", "#b5bd3c",
          "#1b3a5c"]  # of experts and models, here and in figures


def piece(encoding, token):
    """The text of one token; bytes that are no whole character become U+FFFD."""
    return tokenizer.piece(encoding, token).decode("utf-8", "replace")


@torch.inference_mode()
def read(model, encoding, tokens, device="cpu"):
    """What an MoE does with a text, for each token but the first, in JSON's types.

    gates: of each layer and expert in % where the token was predicted, which is at the token before it; p: the probability
    that it was given; next: the likeliest tokens in its place, [text, probability] each. model: what is called like an MoE;
    tokens: T + 1 ids.
    """
    idx = torch.tensor([tokens], device=device)                                       # (1, T + 1)
    logits, _, routing = model(idx[:, :-1])
    if not logits.isfinite().all():
        raise ValueError("its logits are not finite numbers; this model is broken")
    probs = logits[0].softmax(-1)                                                     # (T, V)
    gates = torch.stack([layer.dense_gates() for layer in routing], dim=1)            # (T, n_layer, N)
    top = probs.topk(min(N_LIKELIEST, probs.shape[-1]))
    likeliest = [[[piece(encoding, t), round(p, 3)] for t, p in zip(*row, strict=True)]
                 for row in zip(top.indices.tolist(), top.values.tolist(), strict=True)]
    return {"gates": [[[round(100 * g, 1) for g in layer] for layer in token] for token in gates.tolist()], "next": likeliest,
            "p": [round(p, 3) for p in probs.gather(1, idx[0, 1:, None])[:, 0].tolist()]}


def write(path, encoding, texts, models):
    """Write the page, or none without models. texts: {name: T + 1 ids}; models: {name: (experts' names, `read` of each text)}."""
    if not models:
        return
    data = {"texts": [{"name": name, "tokens": [piece(encoding, t) for t in tokens[1:]]} for name, tokens in texts.items()],
            "models": [{"name": name, "experts": experts, "reads": reads} for name, (experts, reads) in models.items()],
            "colors": COLORS}
    page = Path(__file__).with_suffix(".template").read_text(encoding="utf-8")
    filled = page.replace(">DATA<", ">" + json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c") + "<")
    write_text(path, filled)
