"""Write a page that runs models in the reader's browser: live.html for evaluate.py. page/article.py fills it, too."""
import base64
import json
import re
import zlib
from pathlib import Path

import torch

from cli import BadInput, replacing
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
    """The data of a page for models, {name: checkpoint}, an MoE last, and tasks, {domain: [Task]}. Raises BadInput."""
    name, moe = list(models.items())[-1]
    if (moe["config"]["routing"] != "topk" or moe["config"]["n_kv_head"] != moe["config"]["n_head"]
            or moe["spec"]["kind"] != "bpe"):
        raise BadInput("a page needs top-k routing, as many key heads as query heads, and a tokenizer trained here; "
                       f"{name} lacks one of these")
    states = weights_to_store(models, moe)
    entries = []
    for key, checkpoint in models.items():
        log = [[line["step"], line["val_loss"]] for line in checkpoint["log"]]
        tensors = [[part, w.numel()] for part, w in states[key].items()]
        entries.append({"name": key, "config": checkpoint["config"], "experts": checkpoint["experts"],
                        "tensors": tensors, "log": log})
    return {"models": entries, "tasks": choose_tasks(tasks), "definition": moe["spec"]["definition"],
            "colors": color_domains([*moe["experts"], *tasks]), "weights": pack(states.values())}


def weights_to_store(models, moe):
    """{name: state dict}. A page that has all experts mixes them itself, so an MoE needs only what else it has."""
    mixed = {}
    if models.keys() >= set(moe["experts"]):
        experts = [models[expert]["state"] for expert in moe["experts"]]
        mixed = mix(experts, GPTConfig(**moe["config"]), torch.Generator())
    states = {name: checkpoint["state"] for name, checkpoint in models.items()}
    for name, checkpoint in models.items():
        if checkpoint["experts"]:
            states[name] = {part: w for part, w in states[name].items()
                            if part not in mixed or not torch.equal(w, mixed[part])}
    return states


def choose_tasks(tasks):
    """At most N_TASKS of each domain, as a page wants them: one of each domain, then the next of each."""
    chosen = []
    for i in range(N_TASKS):
        for domain, some in tasks.items():
            at = i * max(1, len(some) // N_TASKS)
            if at < len(some):
                end = END if some[at].kind == "code" else ""  # code must also end there
                chosen.append({"domain": domain, "prompt": some[at].prompt, "answer": some[at].answer + end})
    return chosen


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


def write_page(path, checkpoints, tasks):
    """Write live.html with the last MoE and its ancestors. Returns a line for the report: where it is, or why not."""
    name, moe = [(name, checkpoint) for name, checkpoint in checkpoints.items() if checkpoint["experts"]][-1]
    ancestors = {entry["id"] for entry in moe["ledger"]}
    models = [(name, c) for name, c in checkpoints.items()  # not those of split experts, which are wider
              if c["ledger"][-1]["id"] in ancestors and c["config"]["d_ff"] == moe["config"]["d_ff"]]
    models.sort(key=lambda item: len(item[1]["experts"]))  # dense models come first
    try:
        fill(path, collect(dict(models), tasks))
    except BadInput as why:
        return f"No live.html: {why}. `sample.py --experts` shows which expert wrote which token."
    return f"Run {name}, ask it something and switch experts off: open [live.html](live.html) in a browser."
