"""Compare checkpoints as the paper does, by accuracy and loss in each domain, cost, and the routers' choice of experts.

    python evaluate.py out/seed.pt out/math.pt out/code.pt out/wiki.pt out/btx.pt --btm seed,math,code,wiki --out out

This prints a table and writes report.md, results.json and, for MoEs, figures/routing.png and live.html.
"""
import json
import math
from collections import defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm

from cli import BadInput, check_output, make_parser, positive_int, replacing, run
from data.loader import check_tokenizer, load_domains, val_windows
from data.task import DOMAINS
from data.tokenizer import encode_prompt, load_tokenizer
from model import mean_gates_and_probs
from page import live
from support import btm
from support.checkpoint import build_model, load_checkpoint
from support.distributed import autocast, pick_device, pick_dtype
from support.figures import draw_routing
from support.generation import generate
from support.grading import is_correct
from support.ledger import chain_flops, elapsed, join_ledgers, moe_share, totals
from support.report import machine, make_report, table

BINS = 20  # of the histograms of router probabilities


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
            n = len(encode_prompt(tokenizer, task.prompt + task.answer))
            if n > longest[task.kind]:
                raise BadInput(f"{name}: a task and its answer have {n} tokens, but a model reads {longest[task.kind]}"
                               "; prepare shorter tasks, with fewer --examples, or train with a larger --block_size")
    return windows, tasks


def parse_btm(args, checkpoints, domains):
    """Read --btm and --btm_methods: which models are merged, and how. Without --btm both results are empty.

    Returns {name: checkpoint}, and {name in the tables: (method, top_k, training data)}. Raises BadInput.
    """
    if args.btm is None:
        if args.btm_methods is not None:
            raise BadInput("--btm_methods: name the models to merge with --btm")
        return {}, {}
    merged, methods = {}, {}
    dense = {name: checkpoint for name, checkpoint in checkpoints.items() if not checkpoint["experts"]}
    for name in args.btm.split(","):
        if name not in dense or name in merged:
            raise BadInput(f"--btm: {name!r} should be one of the dense models ({', '.join(dense)}), named once")
        merged[name] = dense[name]
    for word in (f"share:{len(merged)}" if args.btm_methods is None else args.btm_methods).split(","):
        method, top_k = btm.parse_method(word, len(merged))
        training_data = btm.read_training_data(merged, domains) if method == "tfidf" else None
        methods[f"btm_{method}_top{top_k}"] = method, top_k, training_data
    return merged, methods


def token_losses(model, idx, n):
    """Predict the last n tokens of idx, (B, T + 1). model: a GPT or a BTM.

    Returns the losses of these tokens, (B, n), whether each is the likeliest, (B, n), and the routing of the pass.
    """
    logits, _, routing = model(idx[:, :-1], n_last=n)  # (B, n, V)
    targets = idx[:, -n:]                              # (B, n)
    losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")  # (B * n,)
    return losses.view(targets.shape), logits.argmax(-1) == targets, routing


def histogram(probs):
    """For each expert, the share of tokens whose probability is in each of BINS equal bins: (M, N) -> (N, BINS)."""
    steps = (probs * BINS).long().clamp(max=BINS - 1)  # (M, N)
    return F.one_hot(steps, BINS).float().mean(0)


def score_texts(model, windows, batch_size):
    """The mean loss of the second half of each window, given the first half, (n,); windows: (n, T + 1).

    Also returns two nested lists: each expert's mean gate, (n_layer, N), and the histogram of its probability over
    tokens, (n_layer, N, BINS). Both are None for a dense model.
    """
    losses, gates, histograms = [], [], []
    half = windows.shape[1] // 2  # of T tokens, rounded up
    for chunk in windows.split(batch_size):
        loss, _, routing = token_losses(model, chunk, half)  # (B, half)
        losses.append(loss.cpu().double().mean(1))
        if routing:
            weight = len(chunk) / len(windows)
            u, _ = mean_gates_and_probs(routing)  # (n_layer, N)
            gates.append(weight * u)
            histograms.append(weight * torch.stack([histogram(layer.probs) for layer in routing]))
    if not gates:
        return torch.cat(losses), None, None
    return torch.cat(losses), sum(gates).tolist(), sum(histograms).tolist()


def score_tasks(model, tokenizer, tasks, batch_size, device):
    """Whether greedy decoding solves each task, (n,) bool, and the mean loss over the tokens of all right answers.

    If the model does not write the given answer to a "code" task, it may still write another right one. So it writes
    an answer to each of these tasks, which is graded by what the function returns.
    """
    prompts, answers = zip(*[encode_task(tokenizer, task) for task in tasks], strict=True)
    solved, losses = score_answers(model, prompts, answers, batch_size, device)
    todo = [i for i, task in enumerate(tasks) if task.kind == "code" and not solved[i]]
    n_tokens = max(len(answer) for answer in answers) + 10
    for batch in equal_lengths(todo, prompts, batch_size):
        idx = torch.tensor([prompts[i] for i in batch], device=device)  # (B, T)
        for i, function in zip(batch, write_documents(model, tokenizer, idx, n_tokens), strict=True):
            solved[i] = is_correct(function, tasks[i].cases)
    return solved, losses.mean().item()


def encode_task(tokenizer, task):
    """The ids of a task's prompt and those of its right answer, which in "code" includes the end-of-text token.

    Both are encoded together, as in training: a tokenizer may put a mark before a text, or join the end of the prompt
    and the beginning of the answer in one token. Such a token counts as part of the answer.
    """
    text = encode_prompt(tokenizer, task.prompt + task.answer)
    n_prompt = 0  # tokens at the beginning that are the same without the answer
    for token, alone in zip(text, encode_prompt(tokenizer, task.prompt), strict=False):
        if token != alone:
            break
        n_prompt += 1
    end = [tokenizer.eot] if task.kind == "code" else []
    return text[:n_prompt], text[n_prompt:] + end


def score_answers(model, prompts, answers, batch_size, device):
    """Whether all tokens of an answer are the likeliest, (n,) bool, and the losses of these tokens, (n_tokens,).

    The model reads each prompt with its right answer in one pass. If all tokens of the answer are the likeliest at
    their positions, greedy decoding would write them. Tokens after the answer do not count.
    """
    texts = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    solved = torch.zeros(len(texts), dtype=torch.bool)
    answer_losses = []
    for batch in equal_lengths(range(len(texts)), texts, batch_size):
        idx = torch.tensor([texts[i] for i in batch], device=device)  # (B, T + 1)
        n_scored = max(len(answers[i]) for i in batch)
        losses, likeliest, _ = token_losses(model, idx, n_scored)     # (B, n_scored)
        for row, i in enumerate(batch):
            n = len(answers[i])
            solved[i] = likeliest[row, -n:].all()
            answer_losses.append(losses[row, -n:].cpu().double())
    return solved, torch.cat(answer_losses)


def equal_lengths(indices, rows, batch_size):
    """Cut indices into batches whose rows have the same length, so that nothing needs padding."""
    by_length = defaultdict(list)
    for i in indices:
        by_length[len(rows[i])].append(i)
    batches = []
    for same in by_length.values():
        for start in range(0, len(same), batch_size):
            batches.append(same[start:start + batch_size])
    return batches


def write_documents(model, tokenizer, idx, max_new_tokens):
    """Continue prompts, (B, T), greedily. Returns each last document with its prompt, or "" where it does not end."""
    documents, T = [], idx.shape[1]
    for row in generate(model, idx, max_new_tokens, end=tokenizer.eot).tolist():
        start = 1 + max(i for i in range(T) if row[i] == tokenizer.eot)  # after the last end of text in the prompt
        end = row.index(tokenizer.eot, T) if tokenizer.eot in row[T:] else start
        documents.append(tokenizer.decode(row[start:end]))
    return documents


def bytes_per_token(tokenizer, windows):
    """The mean number of bytes of the tokens whose loss counts; windows: (n, T + 1). An end-of-text token has none."""
    half = windows.shape[1] // 2  # of T tokens, as in score_texts
    scored = windows[:, -half:].flatten().tolist()
    text = tokenizer.decode([token for token in scored if token != tokenizer.eot])
    text = text.replace("\ufffd", "?")  # a part of a character that a window cuts in two is about one byte, not three
    return len(text.encode()) / len(scored)


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


def build(name, checkpoints, merged, methods, device):
    """The GPT that a checkpoint holds, or the BTM of `parse_btm`, under its name in the tables; and its ledger."""
    if name not in methods:
        return build_model(checkpoints[name], device, share=True), checkpoints[name]["ledger"]
    method, top_k, training_data = methods[name]
    models = [build_model(checkpoint, device, share=True) for checkpoint in merged.values()]
    ledger = join_ledgers(checkpoint["ledger"] for checkpoint in merged.values())
    return btm.BTM(models, method, top_k, training_data), ledger


@torch.inference_mode()
def main(argv=None):
    args = parse(argv)
    device = pick_device(args.device)
    checkpoints, tokenizer, domains = load_inputs(args)
    windows, tasks = choose_tests(args, checkpoints, tokenizer, domains)
    merged, methods = parse_btm(args, checkpoints, domains)
    check_output(args.out / "report.md")

    dense = [name for name, checkpoint in checkpoints.items() if not checkpoint["experts"]]
    moes = [name for name, checkpoint in checkpoints.items() if checkpoint["experts"]]
    results, routing = {}, {}  # {model: its scores and costs}; {MoE: its experts, share and probs}
    for name in tqdm([*dense, *methods, *moes], desc="evaluate"):
        model, ledger = build(name, checkpoints, merged, methods, device)
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
