"""Write a page on which models run in the reader's browser: live.html of a run, and the article results/index.html.

    python -m support.live data/start/{seed,math,code,wiki}.pt out/page/steps{0,770}.pt --out results/index.html

The article shows all stages of Branch-Train-MiX with these models (live.template, page.js, article.js). live.html is
its last section alone. live.js, live_tokenizer.js and live_weights.js are the models.
"""
import base64
import json
import re
import zlib
from pathlib import Path

import torch

from cli import BadInput, make_parser, replacing, run
from data.loader import load_domains
from data.task import DOMAINS
from data.tokenizer import END
from model import is_feed_forward
from support.checkpoint import load_checkpoint

MAX_BYTES = 4_800_000  # of packed weights; with the rest a page has 5 MB at most
N_TASKS = 40  # of each domain, on the article
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
    """The last MoE, with its experts and their mixture before it, if given: {name: checkpoint}."""
    name = [name for name, checkpoint in checkpoints.items() if checkpoint["experts"]][-1]
    ancestors = {entry["id"] for entry in checkpoints[name]["ledger"]}
    related = {key: c for key, c in checkpoints.items() if c["ledger"][-1]["id"] in ancestors}
    models = {expert: related[expert] for expert in related[name]["experts"] if expert in related}
    parents = [dense["ledger"][-1]["id"] for dense in models.values()]
    for key, mixed in related.items():
        if mixed["experts"] and mixed["ledger"][-1]["parents"] == parents:
            models[key] = mixed
    return {**models, name: related[name]}


def is_mixed(name, w, dense):
    """Whether w, a tensor of an MoE, is what mix.py makes of these state dicts; the page makes it again."""
    if name not in dense[0]:  # a router
        return False
    tensors = [state[name].float() for state in dense]
    return torch.equal(w, torch.stack(tensors) if is_feed_forward(name) else sum(tensors) / len(tensors))


def leave_out(models):
    """The state of each model, without the tensors of an MoE that the page mixes itself of the experts on it."""
    dense = [checkpoint["state"] for checkpoint in models.values() if not checkpoint["experts"]]
    is_whole = len(dense) == len(list(models.values())[-1]["experts"])
    states = []
    for checkpoint in models.values():
        state = checkpoint["state"]
        if is_whole and checkpoint["experts"]:
            state = {name: w for name, w in state.items() if not is_mixed(name, w, dense)}
        states.append(state)
    return states


def collect(models, tasks):
    """What a page shows of models, {name: checkpoint}, and tasks, {domain: [Task]}. Raises BadInput if it cannot."""
    name, moe = list(models.items())[-1]
    config, states = moe["config"], leave_out(models)
    if config["routing"] != "topk" or config["n_kv_head"] != config["n_head"] or moe["spec"]["kind"] != "bpe":
        raise BadInput(f"it needs top-k routing, a key per query and a tokenizer trained here; {name} lacks one")
    data = {"models": [], "tasks": {}, "definition": moe["spec"]["definition"], "weights": pack(states)}
    if len(data["weights"]) > MAX_BYTES:
        raise BadInput(f"{name} and its experts are larger than a page of 5 MB")
    for (key, c), state in zip(models.items(), states, strict=True):
        tensors = [[part, w.numel()] for part, w in state.items()]
        log = [[line["step"], line["val_loss"]] for line in c["log"]]
        data["models"].append({"name": key, "config": c["config"], "experts": c["experts"], "tensors": tensors,
                               "steps": c["ledger"][-1]["settings"].get("steps", 0), "log": log})
    for domain, some in tasks.items():
        ends = {"exact": "", "code": END}  # code must also end there
        data["tasks"][domain] = [{"prompt": task.prompt, "answer": task.answer + ends[task.kind]} for task in some]
    return data


def fill(path, data, is_article=False):
    """Write live.template with its data, and with the files that lines such as `/* include page.js */` name."""
    folder = Path(__file__).parent
    page = (folder / "live.template").read_text(encoding="utf-8")
    if not is_article:
        page = re.sub(r"(?s)<!-- article -->.*?<!-- /article -->\n", "", page)
    page = re.sub(r"/\* include (.*) \*/\n", lambda line: (folder / line[1]).read_text(encoding="utf-8"), page)
    safe = json.dumps(data).replace("<", "\\u003c")  # so that </script> in a text does not end the page's script
    with replacing(path) as part:
        part.write_text(page.replace(">DATA<", f">{safe}<"), encoding="utf-8")


def write_page(path, checkpoints, tasks):
    """Write live.html; tasks: {domain: a Task}. Returns the report's sentence: where it is, or why not."""
    try:
        data = collect(choose_models(checkpoints), {domain: [task] for domain, task in tasks.items()})
    except BadInput as why:
        return NO_PAGE.format(why)
    fill(path, data)
    return "Run this mixture, ask it something and switch experts off: open [live.html](live.html) in a browser."


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="the experts in order, then mixtures of them")
    parser.add_argument("--data_dir", default="data/bin", help="folder that data.prepare wrote (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/index.html"), help="page to write")
    args = parser.parse_args(argv)
    models = {Path(path).stem: load_checkpoint(path) for path in args.models}
    domains = load_domains(args.data_dir, [*DOMAINS, "switch"])
    tasks = {name: domain.tasks[:N_TASKS] for name, domain in domains.items()}
    fill(args.out, collect(models, tasks), is_article=True)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    run(main)
