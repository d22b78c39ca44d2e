"""Write a page that runs models in the reader's browser: live.html for evaluate.py. page/article.py fills it, too."""
import base64
import json
import re
import zlib
from cli import BadInput, replacing
from pathlib import Path

import torch

from data.tokenizer import END
from mix import mix
from model import GPTConfig
from support.colors import color_domains

N_TASKS = 40  # of each domain, spread over all of its tasks


def pack(states):
    """The weights of several models in float16, compressed, in base64. `unpack` in weights.js reverses this.

    Each tensor, and each expert of a stacked one, is stored as the difference of its bits from the first tensor of that
    name. Branches are alike, so many high bytes become 0. All high bytes come first, so that zlib finds the zeros.
    """
    first, differences = {}, []
    for state in states:
        for name, tensor in state.items():
            bits = tensor.half().view(torch.int16)
            differences.append((bits - first.get(name, 0)).flatten())  # modulo 2^16
            first.setdefault(name, bits)
    low_high = torch.cat(differences).numpy().astype("<i2").view("uint8").reshape(-1, 2)
    return base64.b64encode(zlib.compress(low_high[:, ::-1].T.tobytes(), 9)).decode()


def collect(models, tasks):
    """The data of a page for models, {name: checkpoint}, and tasks, {domain: [Task]}. Raises BadInput if it cannot."""
    name, moe = list(models.items())[-1]
    config, spec = moe["config"], moe["spec"]
    if not moe["experts"]:
        raise BadInput(f"{name} is dense; name an MoE last")
    if config["routing"] != "topk" or config["n_kv_head"] != config["n_head"] or spec["kind"] != "bpe":
        raise BadInput("a page needs top-k routing, as many key heads as query heads, and a tokenizer trained here; "
                       f"{name} lacks one of these")
    mixed = {}  # a page that has all experts mixes them itself
    if models.keys() >= set(moe["experts"]):
        mixed = mix([models[expert]["state"] for expert in moe["experts"]], GPTConfig(**config), torch.Generator())
    states, data = [], {"models": [], "tasks": [], "definition": spec["definition"]}
    for key, checkpoint in models.items():
        state = checkpoint["state"]
        if checkpoint["experts"]:
            state = {part: w for part, w in state.items() if part not in mixed or not torch.equal(w, mixed[part])}
        states.append(state)
        tensors = [[part, w.numel()] for part, w in state.items()]
        log = [[line["step"], line["val_loss"]] for line in checkpoint["log"]]
        data["models"].append({"name": key, "config": checkpoint["config"], "experts": checkpoint["experts"],
                               "tensors": tensors, "log": log})
    for i in range(N_TASKS):  # one of each domain, then the next of each
        for domain, some in tasks.items():
            at = i * max(1, len(some) // N_TASKS)
            for task in some[at:at + 1]:
                end = END if task.kind == "code" else ""  # code must also end there
                data["tasks"].append({"domain": domain, "prompt": task.prompt, "answer": task.answer + end})
    data["colors"] = color_domains([*moe["experts"], *tasks])
    data["weights"] = pack(states)
    return data


def fill(path, data, is_article=False):
    """Write page.html, filled with data and with the files that lines such as `/* include model.js */` name.

    With is_article the page is page/index.html. Otherwise it is live.html, which has less text.
    """
    folder = Path(__file__).parent
    page = (folder / "page.html").read_text(encoding="utf-8")
    left_out = "live" if is_article else "article"
    page = re.sub(rf"(?s)<!-- {left_out} -->.*?<!-- /{left_out} -->\n", "", page)
    page = re.sub(r"/\* include (.*) \*/\n", lambda line: (folder / line[1]).read_text(encoding="utf-8"), page)
    safe = json.dumps(data).replace("<", "\\u003c")  # so that </script> in a text does not end the page's script
    page = page.replace(">DATA<", f">{safe}<")
    with replacing(path) as part:
        part.write_text(page, encoding="utf-8")


def write_page(path, checkpoints, tests):
    """Write live.html with the last MoE and its ancestors. Returns a line for the report: where it is, or why not."""
    moe = [checkpoint for checkpoint in checkpoints.values() if checkpoint["experts"]][-1]
    ancestors = {entry["id"] for entry in moe["ledger"]}
    models = [(name, c) for name, c in checkpoints.items()  # not those of split experts, which are wider
              if c["ledger"][-1]["id"] in ancestors and c["config"]["d_ff"] == moe["config"]["d_ff"]]
    models.sort(key=lambda item: len(item[1]["experts"]))  # dense models come first
    tasks = {domain: test.tasks for domain, test in tests.items()}  # of EvalSets
    try:
        fill(path, collect(dict(models), tasks))
    except BadInput as why:
        return f"No live.html: {why}. `sample.py --experts` shows which expert wrote which token."
    return "Run this mixture, ask it something and switch experts off: open [live.html](live.html) in a browser."
