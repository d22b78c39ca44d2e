"""Compare checkpoints as the paper does, by accuracy and loss in each domain, cost, and the routers' choice of experts.

    python evaluate.py out/seed.pt out/math.pt out/code.pt out/wiki.pt out/btx.pt --btm seed,math,code,wiki --out out

This prints a table and writes report.md, results.json and, for MoEs, figures/routing.png and live.html.
"""
import json
import math
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from cli import BadInput, check_output, make_parser, positive_int, replacing, run
from data.loader import check_tokenizer, load_domains, val_windows
from data.task import DOMAINS
from data.tokenizer import load_tokenizer
from page import live
from support import btm
from support.checkpoint import build_model, load_checkpoint
from support.device import autocast, pick_device, pick_dtype
from support.figures import draw_routing
from support.ledger import chain_flops, elapsed, join_ledgers, moe_share, totals
from support.report import machine, make_report, table
from support.scoring import bytes_per_token, score_tasks, score_texts


def parse(argv):
    """Read the options of this script."""
    parser = make_parser(__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="checkpoints; the tables call each by its file name")
    parser.add_argument("--btm", metavar="NAMES", help="add Branch-Train-Merge of these models, as in seed,math,code")
    parser.add_argument("--btm_methods", metavar="METHOD:K,...",
                        help="any of share:K, bayes:K and tfidf:K (see support/btm.py; default: share:N of N models)")
    parser.add_argument("--no_figures", action="store_true", help="draw no figures, and do not write live.html")
    parser.add_argument("--data_dir", default="data/bin", help="folder that data.prepare wrote (default: %(default)s)")
    parser.add_argument("--tasks", type=positive_int, default=400, help="tasks per domain (default: %(default)s)")
    parser.add_argument("--windows", type=positive_int, default=100, help="validation texts per domain (default: 100)")
    parser.add_argument("--batch_size", type=positive_int, default=50, help="sequences per pass (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps ... (default: %(default)s)")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto",
                        help="type of matrix products; auto is bfloat16 on a GPU that supports it (default: auto)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder to write to (default: %(default)s)")
    return parser.parse_args(argv)


def load_inputs(args):
    """The checkpoints by name, their tokenizer, and the domains in the order of the tables. Raises BadInput."""
    checkpoints = {Path(path).stem: load_checkpoint(path) for path in args.models}
    if len(checkpoints) < len(args.models):
        raise BadInput("two models have one name, so the tables could not tell them apart; rename one of the files")
    domains = load_domains(args.data_dir)
    specs = [checkpoint["spec"] for checkpoint in checkpoints.values()]
    for path, spec in zip(args.models, specs, strict=True):
        check_tokenizer(domains, spec, path)
    tokenizer = load_tokenizer(specs[0])  # all have the same
    in_order = {name: domains[name] for name in (*DOMAINS, "switch", *domains) if name in domains}  # own domains last
    return checkpoints, tokenizer, in_order


def choose_tests(args, checkpoints, tokenizer, domains):
    """Validation text, {domain: (n, T + 1)}, and tasks, {domain: [Task]}; a domain may have only one of them.

    T is the models' smallest block size, so that every model can read the windows whole. Raises BadInput if no
    domain has windows, or if a task is longer than a model's context.
    """
    T = min(checkpoint["config"]["block_size"] for checkpoint in checkpoints.values())
    windows = val_windows(domains, T, args.windows)
    if not windows:
        raise BadInput(f"{args.data_dir}: no domain has text to measure the loss on; prepare a domain with text")
    tasks = {name: domain.tasks[:args.tasks] for name, domain in domains.items() if domain.tasks}
    # a model reads a task whole, but when it also writes an answer, as to code, it forgets what is beyond T; imported
    # models may have been trained on texts longer than T before
    n_positions = min(checkpoint["spec"].get("max_positions", 0) for checkpoint in checkpoints.values())
    longest = {"code": T, "exact": max(T, n_positions)}
    for name, domain_tasks in tasks.items():
        for task in domain_tasks:
            n = len(tokenizer.encode_prompt(task.prompt + task.answer))
            if n > longest[task.kind]:
                raise BadInput(f"{name}: a task and its answer have {n} tokens, but a model reads {longest[task.kind]}"
                               "; prepare shorter tasks, with fewer --examples, or train with a larger --block_size")
    return windows, tasks


def parse_btm(args, checkpoints, domains, device):
    """Read --btm and --btm_methods. Returns {name in the tables: (a function that builds the BTM, its ledger)}.

    Raises BadInput.
    """
    if args.btm is None:
        if args.btm_methods is not None:
            raise BadInput("--btm_methods: name the models to merge with --btm")
        return {}
    merged, found = {}, {}
    dense = {name: checkpoint for name, checkpoint in checkpoints.items() if not checkpoint["experts"]}
    for name in args.btm.split(","):
        if name not in dense or name in merged:
            raise BadInput(f"--btm: {name!r} should be one of the dense models ({', '.join(dense)}), named once")
        merged[name] = dense[name]
    ledger = join_ledgers(checkpoint["ledger"] for checkpoint in merged.values())
    for word in (f"share:{len(merged)}" if args.btm_methods is None else args.btm_methods).split(","):
        method, top_k = btm.parse_method(word, len(merged))
        training_data = btm.read_training_data(merged, domains) if method == "tfidf" else None
        build = partial(build_btm, merged.values(), method, top_k, training_data, device)
        found[f"btm_{method}_top{top_k}"] = build, ledger
    return found


def build_btm(checkpoints, method, top_k, training_data, device):
    """The BTM of dense checkpoints. training_data: for tfidf, see btm.read_training_data."""
    models = [build_model(checkpoint, device, share=True) for checkpoint in checkpoints]
    return btm.BTM(models, method, top_k, training_data)


def evaluate_model(model, tokenizer, windows, tasks, args, device):
    """Measure a model, a GPT or a BTM, on the texts and tasks of `choose_tests`.

    Returns scores[measure][domain], where measure is accuracy, outcomes (of each task, as in "0110"), answer_loss, loss
    or bits_per_byte; and routing, whose ["share"][domain] and ["probs"][domain] are the gates and histograms of
    `score_texts`.
    """
    scores = {"accuracy": {}, "outcomes": {}, "answer_loss": {}, "loss": {}, "bits_per_byte": {}}
    routing = {"share": {}, "probs": {}}
    with autocast(args.dtype, device, keep_copies=True):
        for domain, rows in windows.items():
            losses, gates, histograms = score_texts(model, rows.to(device), args.batch_size)
            loss = losses.mean().item()
            scores["loss"][domain] = loss
            scores["bits_per_byte"][domain] = loss / math.log(2) / bytes_per_token(tokenizer, rows)
            routing["share"][domain], routing["probs"][domain] = gates, histograms
        for domain, domain_tasks in tasks.items():
            solved, answer_loss = score_tasks(model, tokenizer, domain_tasks, args.batch_size, device)
            scores["accuracy"][domain] = solved.double().mean().item()
            scores["outcomes"][domain] = "".join(str(int(right)) for right in solved)
            scores["answer_loss"][domain] = answer_loss
    return scores, routing


def costs(model, ledger):
    """A model's size, and the cost of all the training that its ledger lists."""
    return {"params": model.num_params(), "active_params": model.num_params(active=True), **totals(ledger),
            "elapsed": elapsed(ledger), "chain_flops": chain_flops(ledger), "moe_share": moe_share(ledger)}


@torch.inference_mode()
def main(argv=None):
    args = parse(argv)
    device = pick_device(args.device)
    checkpoints, tokenizer, domains = load_inputs(args)
    windows, tasks = choose_tests(args, checkpoints, tokenizer, domains)
    merged = parse_btm(args, checkpoints, domains, device)
    check_output(args.out / "report.md")

    dense = {name: checkpoint for name, checkpoint in checkpoints.items() if not checkpoint["experts"]}
    moes = {name: checkpoint for name, checkpoint in checkpoints.items() if checkpoint["experts"]}
    results, routing = {}, {}  # {model: its scores and costs}; {MoE: its experts, share and probs}
    for name in tqdm([*dense, *merged, *moes], desc="evaluate"):
        if name in merged:
            build, ledger = merged[name]
            model = build()
        else:
            model, ledger = build_model(checkpoints[name], device, share=True), checkpoints[name]["ledger"]
        scores, routing_of_model = evaluate_model(model, tokenizer, windows, tasks, args, device)
        results[name] = {**scores, **costs(model, ledger)}
        if name in moes:
            routing[name] = {"experts": checkpoints[name]["experts"], **routing_of_model}
        del model  # before the next one is built

    data = {"tasks": {name: len(domain_tasks) for name, domain_tasks in tasks.items()},
            "windows": {name: len(rows) for name, rows in windows.items()},
            "device": device.type, "dtype": pick_dtype(args.dtype, device),
            "digests": {name: domain.meta["files"] for name, domain in domains.items()}}
    numbers = {"models": results, "routing": routing, "machine": machine(), "data": data}
    with replacing(args.out / "results.json") as part:
        part.write_text(json.dumps(numbers, indent=1))
    (args.out / "live.html").unlink(missing_ok=True)  # an old page would show other models
    pictures = []  # the lines of the report that show figures and the page
    if moes and not args.no_figures:
        draw_routing(routing, args.out / "figures/routing.png")
        pictures = [live.write_page(args.out / "live.html", checkpoints, tasks),
                    "![load of each expert](figures/routing.png)"]
    with replacing(args.out / "report.md") as part:
        part.write_text(make_report(results, pictures))
    print(table(results))
    print(f"\nThe report: {args.out}/report.md   the numbers: {args.out}/results.json")


if __name__ == "__main__":
    run(main)
