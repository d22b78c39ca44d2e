"""Write live.html: a page on which a mixture of experts runs in the reader's browser (live.template, live*.js)."""
import base64
import json
import zlib
from pathlib import Path

import torch

from cli import replacing
from support.figures import COLORS

MAX_BYTES = 4_900_000  # of packed weights; with the rest a page has 5 MB at most
NO_PAGE = "No live.html: {}. `sample.py --experts` shows which expert wrote which token."


def pack(states):
    """The weights of several models in float16, compressed, in base64; `unpack` in live_weights.js reverses it.

    Bits are stored as their difference to the first tensor of the same name; in a stacked tensor, each expert's. As
    branches of one seed are alike, many high bytes become 0. All high bytes come before all low ones, because zlib
    finds the zeros there.
    """
    first, differences = {}, []
    for state in states:
        for name, tensor in state.items():
            bits = tensor.half().view(torch.int16)
            differences.append((bits - first.get(name, 0)).flatten())  # modulo 2^16
            first.setdefault(name, bits)
    low_high = torch.cat(differences).numpy().astype("<i2").view("uint8").reshape(-1, 2)
    return base64.b64encode(zlib.compress(low_high[:, ::-1].T.tobytes(), 9)).decode()


def choose_models(checkpoints):
    """The last MoE, with its experts and the routers of their mixture before it, if given: {name: checkpoint}."""
    name = [name for name, checkpoint in checkpoints.items() if checkpoint["experts"]][-1]
    ancestors = {entry["id"] for entry in checkpoints[name]["ledger"]}
    related = {key: c for key, c in checkpoints.items() if c["ledger"][-1]["id"] in ancestors}
    models = {expert: related[expert] for expert in related[name]["experts"] if expert in related}
    parents = [dense["ledger"][-1]["id"] for dense in models.values()]
    for key, mixed in related.items():
        if mixed["experts"] and mixed["ledger"][-1]["parents"] == parents:
            routers = {part: w for part, w in mixed["state"].items() if part.endswith("router")}
            models[key] = {**mixed, "state": routers}
    return {**models, name: related[name]}


def fill(path, data):
    """Write a page: live.template with its data, and with the files that lines such as `/* include page.js */` name."""
    folder, page = Path(__file__).parent, ""
    for line in (folder / "live.template").read_text(encoding="utf-8").splitlines(keepends=True):
        if line.startswith("/* include "):
            line = (folder / line.split()[2]).read_text(encoding="utf-8")
        page += line
    safe = json.dumps(data).replace("<", "\\u003c")  # so that </script> in a text does not end the page's script
    with replacing(path) as part:
        part.write_text(page.replace(">DATA<", f">{safe}<"), encoding="utf-8")


def write_page(path, checkpoints, tasks):
    """Write the page; tasks: {domain: a Task}, its examples. Returns the report's sentence: where it is, or why not."""
    models = choose_models(checkpoints)  # the page mixes and averages them itself, from the same float16 weights
    name, moe = list(models.items())[-1]
    config = moe["config"]
    if config["routing"] != "topk" or config["n_kv_head"] != config["n_head"] or moe["spec"]["kind"] != "bpe":
        return NO_PAGE.format(f"it needs top-k routing, a key per query and a tokenizer trained here; {name} lacks one")
    weights = pack([c["state"] for c in models.values()])
    if len(weights) > MAX_BYTES:
        return NO_PAGE.format(f"{name} and its experts are larger than a page of 5 MB")
    fill(path, {
        "models": [{"name": key, "config": c["config"], "experts": c["experts"],
                    "tensors": [[part, w.numel()] for part, w in c["state"].items()]} for key, c in models.items()],
        "examples": [{"domain": domain, "prompt": t.prompt, "answer": t.answer} for domain, t in tasks.items()],
        "definition": moe["spec"]["definition"], "weights": weights, "colors": COLORS})
    return "Run this mixture, ask it something and switch experts off: open [live.html](live.html) in a browser."
