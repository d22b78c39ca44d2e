"""Write a page that runs models in the reader's browser: live.html for evaluate.py, or the article page/index.html.

    python -m page.live data/start/{seed,math,code,wiki}.pt out/page/steps{0,770}.pt     # writes page/index.html
"""
import base64
import json
import re
import zlib
from cli import BadInput, make_parser, replacing, run
from pathlib import Path

import torch

from data.loader import load_domains
from data.task import DOMAINS
from data.tokenizer import END, encode_prompt, load_tokenizer
from mix import mix
from model import GPTConfig, route_topk
from support.checkpoint import build_model, load_checkpoint

MAX_BYTES = 4_800_000  # of packed weights in the article, which is committed; with the rest it has 5 MB at most
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
    data["weights"] = pack(states)
    return data


def models_of_page(models, data):
    """{name: GPT}: in PyTorch, the models that the page computes with, from float16 weights; "average" comes last."""
    states, built = {}, {}
    for entry in sorted(data["models"], key=lambda entry: len(entry["experts"])):  # the experts come before mixtures
        name = entry["name"]
        states[name] = {part: models[name]["state"][part].half().float() for part, _ in entry["tensors"]}
        if entry["experts"]:
            dense = [states[expert] for expert in entry["experts"]]
            states[name] = mix(dense, GPTConfig(**entry["config"]), torch.Generator()) | states[name]
        built[name] = build_model({"config": entry["config"], "state": states[name]})
    config = data["models"][0]["config"]
    averaged = mix(dense, GPTConfig(**config), torch.Generator(), "averaged")
    return built | {"average": build_model({"config": config, "state": averaged})}


def switch_off(model, off, top_k):
    """Let an MoE choose top_k experts as if the experts in off, a list of numbers, had logits of minus infinity."""
    def route(logits, noise):
        logits[:, off] = -torch.inf  # (M, N)
        return route_topk(logits, top_k)
    for block in model.blocks:
        block.ff.route = route  # a dense model never calls it


@torch.inference_mode()
def count(models, data):
    """Which of the page's tasks its models solve: a list of {name, off: experts switched off, solved: "0110..."}.

    A task is solved if each token of the answer is the likeliest at its position. models: from `models_of_page`.
    """
    from evaluate import score_answers  # evaluate.py imports this file
    tokenizer, experts = load_tokenizer(), data["models"][-1]["experts"]
    prompts = [encode_prompt(tokenizer, task["prompt"]) for task in data["tasks"]]
    answers = [encode_prompt(tokenizer, task["answer"])[1:] for task in data["tasks"]]
    mixtures = [entry["name"] for entry in data["models"] if entry["experts"]]
    counts = [{"name": name, "off": []} for name in models]
    counts += [{"name": mixtures[0], "off": [other for other in experts if other != expert]} for expert in experts]
    counts += [{"name": mixtures[-1], "off": [expert]} for expert in experts]
    for entry in counts:
        model = models[entry["name"]]
        switch_off(model, [experts.index(expert) for expert in entry["off"]], model.config.top_k)
        solved, _ = score_answers(model, prompts, answers, 40, "cpu")
        entry["solved"] = "".join(str(int(is_solved)) for is_solved in solved)
    return counts


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
    """Write live.html with the last MoE and its ancestors. Returns a sentence for the report: where it is, or why not.

    tests: {domain: its EvalSet}
    """
    moe = [checkpoint for checkpoint in checkpoints.values() if checkpoint["experts"]][-1]
    ancestors = {entry["id"] for entry in moe["ledger"]}
    models = [(name, c) for name, c in checkpoints.items() if c["ledger"][-1]["id"] in ancestors]
    models.sort(key=lambda item: len(item[1]["experts"]))  # dense models come first
    tasks = {domain: test.tasks for domain, test in tests.items()}
    try:
        fill(path, collect(dict(models), tasks))
    except BadInput as why:
        return f"No live.html: {why}. `sample.py --experts` shows which expert wrote which token."
    return "Run this mixture, ask it something and switch experts off: open [live.html](live.html) in a browser."


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="the experts, then mixtures of them")
    parser.add_argument("--data_dir", default="data/bin", help="folder that data.prepare wrote (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("page/index.html"), help="page to write")
    args = parser.parse_args(argv)
    models = {Path(path).stem: load_checkpoint(path) for path in args.models}
    for name, checkpoint in models.items():
        missing = sorted(set(checkpoint["experts"]) - models.keys())
        if missing:
            raise BadInput(f"{name}: the page also needs its experts {', '.join(missing)}; name their checkpoints, too")
    tasks = {name: domain.tasks for name, domain in load_domains(args.data_dir, [*DOMAINS, "switch"]).items()}
    data = collect(models, tasks)
    if len(data["weights"]) > MAX_BYTES:
        raise BadInput(f"{args.models[-1]} and its experts are too large for an article of 5 MB; name smaller models")
    data["counts"] = count(models_of_page(models, data), data)
    fill(args.out, data, is_article=True)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    run(main)
