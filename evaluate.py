"""Compare checkpoints as the paper does: accuracy and loss by domain, costs, and which experts the routers choose.

    python evaluate.py out/seed.pt out/math.pt out/code.pt out/wiki.pt out/btx.pt --btm seed,math,code,wiki --out out

Prints a table and writes report.md, results.json, figures/*.png and, for mixtures of experts, explore.html.
"""
import json
import math
from collections import defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm

from cli import BadInput, check_output, make_parser, positive_int, replacing, run
from data.loader import check_tokenizer, first_windows, load_domains
from data.task import DOMAINS
from data.tokenizer import END, encode_prompt
from model import expert_load, gumbel
from support import btm, explore
from support.checkpoint import build_model, load_checkpoint
from support.distributed import pick_device
from support.generation import generate, stream
from support.grading import is_correct
from support.ledger import elapsed, join_ledgers, totals
from support.report import draw_answers, draw_figures, machine, make_report, moe_share, table

BINS = 20  # of the histograms of router probabilities


def parse(argv):
    """The options of this script."""
    parser = make_parser(__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="checkpoints; tables call each by its file's name")
    parser.add_argument("--btm", metavar="NAMES", help="add Branch-Train-Merge of these models, as in seed,math,code")
    parser.add_argument("--btm_methods", default="bayes:1", metavar="METHOD:K,...",
                        help="how to merge, as in bayes:1,tfidf:2 (see support/btm.py; default: %(default)s)")
    parser.add_argument("--hard_sampling", action="store_true", help="Sample Top-1 draws its experts, as in the paper")
    parser.add_argument("--mean_gate", action="store_true",
                        help="Sample Top-1 multiplies by the mean gate that training's noise gives, instead of by 1")
    parser.add_argument("--data_dir", default="data/bin", help="folder that data.prepare wrote (default: %(default)s)")
    parser.add_argument("--tasks", type=positive_int, default=400, help="tasks per domain (default: %(default)s)")
    parser.add_argument("--windows", type=positive_int, default=100, help="texts per domain (default: %(default)s)")
    parser.add_argument("--batch_size", type=positive_int, default=50, help="sequences per pass (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps ... (default: %(default)s)")
    parser.add_argument("--no-figures", action="store_true", help="draw no figures and write no explore.html")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder to write to (default: %(default)s)")
    return parser.parse_args(argv)


def token_losses(model, idx):
    """Predict each token of idx, (B, T + 1), but the first. model: a GPT or a BTM.

    Returns the tokens' losses, (B, T), whether each is the likeliest, (B, T), and the routing of the pass.
    """
    logits, _, routing = model(idx[:, :-1])  # (B, T, V)
    losses = F.cross_entropy(logits.flatten(0, 1), idx[:, 1:].flatten(), reduction="none").view(logits.shape[:2])
    return losses, logits.argmax(-1) == idx[:, 1:], routing


def histogram(probs):
    """For each expert the share of tokens in each of BINS equal steps of probability: (M, N) -> (N, BINS)."""
    steps = (probs * BINS).long().clamp(max=BINS - 1)  # (M, N)
    return F.one_hot(steps, BINS).float().mean(0)


def score_texts(model, windows, batch_size):
    """The mean loss of the second half of each window, given the first, (n,); windows: (n, T + 1).

    Returns also, as lists, each expert's mean gate, (n_layer, N), and how its probability is distributed over tokens,
    (n_layer, N, BINS). For a dense model both are None.
    """
    losses, shares, histograms = [], [], []
    for chunk in windows.split(batch_size):
        loss, _, routing = token_losses(model, chunk)  # (B, T)
        losses.append(loss[:, loss.shape[1] // 2:].cpu().double().mean(1))
        if routing:
            weight = len(chunk) / len(windows)
            shares.append(weight * torch.stack([expert_load(layer) for layer in routing]))
            histograms.append(weight * torch.stack([histogram(layer.probs) for layer in routing]))
    if not shares:
        return torch.cat(losses), None, None
    return torch.cat(losses), sum(shares).tolist(), sum(histograms).tolist()


def score_tasks(model, tokenizer, tasks, batch_size, device, drawn=False):
    """Whether greedy decoding solves each task, (n,) bool.

    "exact", all domains but code: the model must write the answer. Nothing is generated: it reads prompt and answer in
    one pass. If each token of the answer is the likeliest at its place, then greedy decoding writes the answer, because
    it reads the same text up to each place. What it writes after the answer does not count.
    "code": the model must also end its text there. If not, its own answer is generated, and graded by what it computes.
    drawn: experts are drawn anew in each pass. Then all code is generated, or only failures would get a second try.
    """
    prompts = [encode_prompt(tokenizer, task.prompt) for task in tasks]
    ends = {"exact": [], "code": [tokenizer.eot]}
    answers = [tokenizer.encode(task.answer) + ends[task.kind] for task in tasks]
    texts = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    solved = torch.zeros(len(tasks), dtype=torch.bool)
    for batch in equal_lengths(range(len(tasks)), texts, batch_size):
        idx = torch.tensor([texts[i] for i in batch], device=device)  # (B, T + 1)
        _, likeliest, _ = token_losses(model, idx)                    # (B, T)
        for i, row in zip(batch, likeliest, strict=True):
            solved[i] = row[len(prompts[i]) - 1:].all()  # row[t] is about token t + 1

    todo = [i for i, task in enumerate(tasks) if task.kind == "code" and (drawn or not solved[i])]
    longest = max(len(answer) for answer in answers)
    for batch in equal_lengths(todo, prompts, batch_size):
        idx = torch.tensor([prompts[i] for i in batch], device=device)  # (B, T)
        for i, answer in zip(batch, write_answers(model, tokenizer, idx, longest + 10), strict=True):
            solved[i] = is_correct(tasks[i].prompt.split(END)[-1], answer, tasks[i].cases)
    return solved


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


def write_answers(model, tokenizer, idx, max_new_tokens):
    """Continue prompts, (B, T), greedily. Returns the texts up to the end-of-text token, "" where there is none."""
    answers = []
    for row in generate(model, idx, max_new_tokens)[:, idx.shape[1]:].tolist():
        end = row.index(tokenizer.eot) if tokenizer.eot in row else 0
        answers.append(tokenizer.decode(row[:end]))
    return answers


def show_answer(model, tokenizer, task, device):
    """A model's answer to a task, cut to the right answer's length: [(text of a token, its expert)].

    The expert is the one with the largest gate, in the mean over layers; None in a dense model.
    """
    idx = torch.tensor([encode_prompt(tokenizer, task.prompt)], device=device)  # (1, T)
    pieces = []
    for token, routing in stream(model, idx, len(tokenizer.encode(task.answer))):
        if token == tokenizer.eot:
            break
        expert = explore.top_experts(routing)[-1] if routing else None
        pieces.append((explore.piece(tokenizer, token.item()), expert))
    return pieces


def draw_experts(model, generator):
    """Let a Sample Top-1 model draw its experts in every pass."""
    def add_noise(model, args, options):
        idx = args[0]  # (B, T)
        tau = 1.0  # does not change which expert is drawn
        return args, {**options, "noise": gumbel(model.config, idx.numel(), tau, generator)}

    model.register_forward_pre_hook(add_noise, with_kwargs=True)


@torch.no_grad()
def apply_mean_gates(model, idx, generator):
    """Multiply each expert of a Sample Top-1 model by the mean gate that the noise of training gives in its layer.

    The gate of a drawn expert is below 1 in training and 1 in evaluation. This undoes the difference. idx: (B, T), the
    text on which the mean is taken.
    """
    tau = 0.5  # where training ends, see finetune_router.temperature
    model.train()
    _, _, routing = model(idx, noise=gumbel(model.config, idx.numel(), tau, generator))
    model.eval()
    for block, layer in zip(model.blocks[1:], routing[1:], strict=True):  # the first layer routes softly
        block.ff.w_down.mul_(layer.gates.mean())


def bytes_per_token(tokenizer, windows):
    """The mean length of the tokens whose loss counts; windows: (n, T + 1). The end-of-text token has no bytes."""
    scored = windows[:, 1 + (windows.shape[1] - 1) // 2:].flatten().tolist()
    text = tokenizer.decode([token for token in scored if token != tokenizer.eot])
    return len(text.encode()) / len(scored)


@torch.inference_mode()
def main(argv=None):
    args = parse(argv)
    device = pick_device(args.device)
    checkpoints = {Path(path).stem: load_checkpoint(path) for path in args.models}
    if len(checkpoints) < len(args.models):
        raise BadInput("two models have one name, and the tables could not tell them apart; rename a file")
    domains = load_domains(args.data_dir)
    for path, c in zip(args.models, checkpoints.values(), strict=True):
        tokenizer = check_tokenizer(domains, c["spec"], path)  # the same for all
    methods, training_data = {}, None  # for Branch-Train-Merge
    if args.btm:
        for name in args.btm.split(","):
            if name not in checkpoints:
                raise BadInput(f"--btm: {name} is not one of the models given, {', '.join(checkpoints)}")
        merged = {name: checkpoints[name] for name in args.btm.split(",")}
        for word in args.btm_methods.split(","):
            method, top_k = btm.parse_method(word, merged)
            methods[f"btm_{method}_top{top_k}"] = method, top_k
        if "tfidf" in args.btm_methods:
            training_data = btm.read_training_data(merged, domains)
    order = [*DOMAINS, "switch", *domains]
    T = min(c["config"]["block_size"] for c in checkpoints.values())
    windows = {name: first_windows(domains[name].val, T, args.windows) for name in sorted(domains, key=order.index)}
    texts = {}  # for explore.html
    for name, rows in windows.items():
        for n, row in enumerate(rows[:2, :257], 1):
            texts[f"{name} {n}"] = row.tolist()
    check_output(args.out / "report.md")

    results, loads, pages, answers = {}, {}, {}, {}
    dense = [name for name, c in checkpoints.items() if not c["experts"]]
    mixtures = [name for name, c in checkpoints.items() if c["experts"]]
    for name in tqdm([*dense, *methods, *mixtures], desc="evaluate"):
        if name in methods:
            experts = [build_model(c, device) for c in merged.values()]
            model = btm.BTM(experts, *methods[name], training_data)
            ledger = join_ledgers(c["ledger"] for c in merged.values())
        else:
            model = build_model(checkpoints[name], device)
            ledger = checkpoints[name]["ledger"]
        samples = name in mixtures and model.config.routing == "sample"
        if samples and args.mean_gate:
            read = torch.cat([rows[:8, :-1] for rows in windows.values()]).to(device)
            apply_mean_gates(model, read, torch.Generator(device).manual_seed(0))
        drawn = samples and args.hard_sampling
        if drawn:
            draw_experts(model, torch.Generator(device).manual_seed(0))

        accuracy, loss, bits, share, probs = {}, {}, {}, {}, {}
        for domain, rows in windows.items():
            losses, share[domain], probs[domain] = score_texts(model, rows.to(device), args.batch_size)
            loss[domain] = losses.mean().item()
            if not math.isfinite(loss[domain]):
                raise BadInput(f"{name}: its logits are not finite, this model is broken; leave it out")
            bits[domain] = loss[domain] / math.log(2) / bytes_per_token(tokenizer, rows)
            tasks = domains[domain].tasks[:args.tasks]
            if tasks:
                solved = score_tasks(model, tokenizer, tasks, args.batch_size, device, drawn)
                accuracy[domain] = solved.double().mean().item()
                if name not in methods and domain != "switch":  # whose prompts are long
                    answers[name, domain] = show_answer(model, tokenizer, tasks[0], device)
        results[name] = {"accuracy": accuracy, "loss": loss, "bits_per_byte": bits, "params": model.num_params(),
                         "active_params": model.num_params(active=True), **totals(ledger),
                         "elapsed": elapsed(ledger), "moe_share": moe_share(ledger)}
        if model.config.n_expert:
            loads[name] = {"experts": checkpoints[name]["experts"], "share": share, "probs": probs}
            reads = [explore.read(model, tokenizer, text, device) for text in texts.values()]
            pages[name] = checkpoints[name]["experts"], reads

    data = {"tasks": args.tasks, "windows": args.windows, "hard_sampling": args.hard_sampling,
            "mean_gate": args.mean_gate, "digests": {name: domain.meta["files"] for name, domain in domains.items()}}
    numbers = {"models": results, "routing": loads, "machine": machine(), "data": data}
    with replacing(args.out / "results.json") as part:
        part.write_text(json.dumps(numbers, indent=1))
    pictures = []
    if not args.no_figures:
        pictures = draw_figures(results, loads, checkpoints, args.out)
        if loads and answers:
            tasks = {domain: domains[domain].tasks[0] for domain in windows if (name, domain) in answers}
            pictures.insert(0, draw_answers(tasks, answers, results, loads, args.out))
        if pages:
            explore.write(args.out / "explore.html", tokenizer, texts, pages)
    with replacing(args.out / "report.md") as part:
        part.write_text(make_report(results, numbers["machine"], pictures))
    print(table(results))
    print(f"\nThe report with all figures: {args.out}/report.md   the numbers: {args.out}/results.json")


if __name__ == "__main__":
    run(main)
