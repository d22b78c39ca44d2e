"""Write the article page/index.html, with models that run in the reader's browser.

    python -m page.article data/start/{seed,math,code,wiki}.pt out/page/steps{0,770}.pt
"""
from pathlib import Path

import torch

from cli import make_parser, run
from data.loader import load_domains
from data.task import DOMAINS
from data.tokenizer import load_tokenizer
from mix import mix
from model import GPTConfig, route_topk
from page.live import collect, fill
from support.checkpoint import build_model, load_checkpoint
from support.scoring import score_answers


def models_of_page(models, data):
    """The page's models in PyTorch, with its float16 weights, as {name: GPT}; "average" comes last."""
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
    """Let an MoE choose top_k experts, none of those in off, a list of numbers: their logits become minus infinity."""
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
    tokenizer, experts = load_tokenizer(), data["models"][-1]["experts"]
    prompts = [tokenizer.encode_prompt(task["prompt"]) for task in data["tasks"]]
    answers = [tokenizer.encode_prompt(task["answer"])[1:] for task in data["tasks"]]
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


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="the seed and its branches, then their mixtures")
    parser.add_argument("--data_dir", default="data/bin", help="folder that data.prepare wrote (default: %(default)s)")
    args = parser.parse_args(argv)
    models = {Path(path).stem: load_checkpoint(path) for path in args.models}
    tasks = {name: domain.tasks for name, domain in load_domains(args.data_dir, [*DOMAINS, "switch"]).items()}
    data = collect(models, tasks)
    data["counts"] = count(models_of_page(models, data), data)
    fill(Path("page/index.html"), data, is_article=True)
    print("wrote page/index.html")


if __name__ == "__main__":
    run(main)
