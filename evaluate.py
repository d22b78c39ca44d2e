"""Compare checkpoints as the paper does: accuracy and loss by domain, costs, and which experts the routers choose.

    python evaluate.py out/seed.pt out/math.pt out/code.pt out/wiki.pt out/btx.pt --btm seed,math,code,wiki --out out

Prints a table and writes report.md, results.json, figures/*.png and, of mixtures of experts, explore.html to --out.
"""
import json
import math
import os
import platform
import subprocess
from argparse import BooleanOptionalAction
from collections import defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm

from data.common import BadInput, check_output, make_parser, positive_int, replacing, run
from data.loader import check_tokenizer, first_windows, load_domains
from data.task import DOMAINS, over_domains
from data.tokenizer import END, encode_prompt
from model import expert_load, gumbel
from support import btm, checkpoint, explore, figures, ledger
from support.distributed import pick_device
from support.generation import stream
from support.grading import is_correct

BINS = 20  # of the histograms of router probabilities


def parse(argv):
    """The options of this script."""
    parser = make_parser(__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="checkpoints; each is called by its file's name")
    group = parser.add_argument_group("Branch-Train-Merge and sampling")
    group.add_argument("--btm", default="", metavar="NAMES", help="also merge these models, as in seed,math,code,wiki")
    group.add_argument("--btm_methods", default="bayes:1", metavar="METHODS",
                       help="how to merge (see support/btm.py), as in bayes:1,tfidf:2 (default: %(default)s)")
    group.add_argument("--hard_sampling", action="store_true",
                       help="Sample Top-1 models draw experts, as in the paper; otherwise they take the likeliest")
    group = parser.add_argument_group("data")
    group.add_argument("--data_dir", default="data/bin", help="folder that data.prepare wrote (default: %(default)s)")
    group.add_argument("--tasks", type=positive_int, default=400, help="most tasks for a domain (default: %(default)s)")
    group.add_argument("--windows", type=positive_int, default=100,
                       help="most validation sequences for a domain (default: %(default)s)")
    group = parser.add_argument_group("output and device")
    group.add_argument("--out", type=Path, default="out", help="folder to write to (default: %(default)s)")
    group.add_argument("--figures", action=BooleanOptionalAction, default=True, help="draw figures and explore.html")
    group.add_argument("--batch_size", type=positive_int, default=50, help="sequences at a time (default: %(default)s)")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, mps ... (default: %(default)s)")
    return parser.parse_args(argv)


def token_losses(model, idx):
    """For each token of idx, (B, T), but the first: its cross-entropy, and whether it is the likeliest, (B, T-1) each.

    Returns also the routing of the pass. model: a GPT or a BTM.
    """
    logits, _, routing = model(idx[:, :-1])  # (B, T-1, V)
    losses = F.cross_entropy(logits.flatten(0, 1), idx[:, 1:].flatten(), reduction="none")
    return losses.view(logits.shape[:2]), logits.argmax(-1) == idx[:, 1:], routing


def second_half(x):
    """The columns of x, (n, T), whose loss counts."""
    return x[:, x.shape[1] // 2:]


def histogram(probs):
    """For each expert the share of tokens in each of BINS equal steps of probability: (M, N) -> (N, BINS)."""
    steps = (probs * BINS).long().clamp(max=BINS - 1)  # (M, N)
    return F.one_hot(steps, BINS).float().mean(0)


def score_texts(model, windows, batch_size):
    """The mean loss of the second half of each window, given the first, (n,); windows: (n, T + 1).

    Returns also what the routers did, None for a dense model: each expert's mean gate, "share", (n_layer, N), and how its
    probability is distributed over the tokens, "probs", (n_layer, N, BINS).
    """
    losses, share, probs = [], 0, 0
    for chunk in windows.split(batch_size):
        loss, _, routing = token_losses(model, chunk)  # (B, T)
        losses.append(second_half(loss).cpu().double().mean(1))
        if routing:
            weight = len(chunk) / len(windows)
            share = share + weight * torch.stack([expert_load(layer) for layer in routing])
            probs = probs + weight * torch.stack([histogram(layer.probs) for layer in routing])
    return torch.cat(losses), {"share": share.tolist(), "probs": probs.tolist()} if routing else None


def score_tasks(model, tokenizer, tasks, batch_size, device, drawn=False):
    """Whether greedy decoding solves each task, (n,) bool.

    "exact": the model must write the answer. Nothing is generated to find out. The model reads prompt and answer in one
    pass, and each token of the answer must be the likeliest at its place. If so, greedy decoding would write this answer,
    because it would read the same text at each place. What it writes after the answer does not count.
    "code": the model must also end its text there. If it would write something else, that is generated and graded by what
    it computes. drawn: the model draws its experts, so a second pass would be a second try. Then all code is generated.
    """
    prompts = [encode_prompt(tokenizer, task.prompt) for task in tasks]
    answers = [tokenizer.encode(task.answer) + ([tokenizer.eot] if task.kind == "code" else []) for task in tasks]
    texts = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    solved = torch.zeros(len(tasks), dtype=torch.bool)
    for batch in equal_lengths(range(len(tasks)), texts, batch_size):
        idx = torch.tensor([texts[i] for i in batch], device=device)  # (B, T)
        _, likeliest, _ = token_losses(model, idx)                    # (B, T-1)
        for row, i in zip(likeliest, batch, strict=True):
            solved[i] = row[len(prompts[i]) - 1:].all()

    code = [i for i, task in enumerate(tasks) if task.kind == "code" and (drawn or not solved[i])]
    longest = max(len(answer) for answer in answers)
    for batch in equal_lengths(code, prompts, batch_size):
        idx = torch.tensor([prompts[i] for i in batch], device=device)  # (B, T)
        for i, answer in zip(batch, write_code(model, tokenizer, idx, longest + 10), strict=True):
            solved[i] = is_correct(tasks[i].prompt.split(END)[-1], answer, tasks[i].cases)
    return solved


def equal_lengths(indices, rows, batch_size):
    """Yield batches of indices; rows[i] is of one length for all i of a batch, so that nothing needs padding."""
    by_length = defaultdict(list)
    for i in indices:
        by_length[len(rows[i])].append(i)
    for same in by_length.values():
        for start in range(0, len(same), batch_size):
            yield same[start:start + batch_size]


def write_code(model, tokenizer, idx, max_new_tokens):
    """Continue the prompts idx, (B, T), greedily. Returns the texts, "" where no end-of-text token came."""
    written = idx[:, :0]
    for token, _ in stream(model, idx, max_new_tokens):
        written = torch.cat([written, token], dim=1)
        if (written == tokenizer.eot).any(1).all():
            break
    rows = [row if tokenizer.eot in row else [tokenizer.eot] for row in written.tolist()]
    return [tokenizer.decode(row[:row.index(tokenizer.eot)]) for row in rows]


def draw_experts(model, generator):
    """Make a Sample Top-1 model draw its experts in each forward pass."""
    def add_noise(model, args, options):
        return args, {**options, "noise": gumbel(model.config, args[0].numel(), 1.0, generator)}
    model.register_forward_pre_hook(add_noise, with_kwargs=True)


def bytes_per_token(tokenizer, windows):
    """The mean length of the tokens whose loss counts; windows: (n, T + 1). An end-of-text token has no bytes."""
    scored = second_half(windows[:, 1:]).flatten().tolist()
    text = tokenizer.decode([token for token in scored if token != tokenizer.eot])
    return len(text.encode()) / len(scored)


def moe_share(lineage):
    """The share of the FLOPs after the seed's that was spent on MoE finetuning (the paper's Table 3), or None."""
    flops = {stage: sum(e["flops"] for e in lineage[1:] if e["stage"] == stage) for stage in ("train", "finetune")}
    return flops["finetune"] / sum(flops.values()) if sum(flops.values()) else None


def machine():
    """Where, and from which commit, the numbers come."""
    try:
        git = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent)
        commit = git.stdout.strip() or "unknown"
    except OSError:  # git is not installed
        commit = "unknown"
    return {"commit": commit, "cpu": f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}",
            "cores": os.cpu_count(), "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "torch": torch.__version__, "python": platform.python_version()}


def markdown(head, rows):
    """A table as Markdown: names on the left, numbers in the other columns."""
    width = max(len(row[0]) for row in [head, *rows])
    line = ["-" * width] + ["------:"] * (len(head) - 1)
    return "\n".join(f"| {name:<{width}} | " + " | ".join(f"{cell:>7}" for cell in cells) + " |"
                     for name, *cells in [head, line, *rows])


def table(results):
    """The main table: accuracy in %, loss and perplexity, and costs."""
    domains = list(next(iter(results.values()))["accuracy"])
    rows = []
    for name, r in results.items():
        scores = [*r["accuracy"].values(), over_domains(r["accuracy"])] if domains else []
        loss = over_domains(r["loss"])
        rows.append([name, *(f"{100 * score:.1f}" for score in scores), f"{loss:.3f}", f"{math.exp(loss):.2f}",
                     *(f"{r[key] / 1e6:.2f}M" for key in ("params", "active_params", "tokens")),
                     f"{r['flops'] / 1e15:.3g}", f"{r['seconds']:.0f}", f"{r['elapsed']:.0f}"])
    means = ["mean"] if domains else []
    return markdown(["model", *domains, *means, "loss", "ppl", "params", "active", "tokens", "PFLOP", "seconds", "elapsed"], rows)


REPORT = """# Branch-Train-MiX: what came out

{table}

Accuracy is in % of each domain's test tasks. A `switch` task follows a text of another domain; no model is trained on such
texts, and they are not in the means. `loss`: nats per token in the second half of validation sequences, given the first, mean
over the domains; `ppl`: its exponential. `params`, `active`: parameters in all, and for one token. `tokens`, `PFLOP` (10^15
floating-point operations, backward passes included) and `seconds` (of all devices): training of all stages behind a model.
`elapsed`: seconds if branches train at the same time. Stages that shared the machine, as under `make -j`, took longer.

{pictures}
Loss by domain, in nats per token:

{loss}

Bits per byte of text, by which models of different tokenizers can be compared:

{bits_per_byte}

Measured on {where}.
"""


def write_report(path, results, info, pictures):
    """Write report.md; pictures: lines of Markdown."""
    parts = {"table": table(results), "pictures": "".join(f"{line}\n\n" for line in pictures)}
    for key in ("loss", "bits_per_byte"):
        domains = list(next(iter(results.values()))[key])
        parts[key] = markdown(["model", *domains], [[name, *(f"{r[key][d]:.3f}" for d in domains)] for name, r in results.items()])
    parts["where"] = ", ".join(f"{key} {value}" for key, value in info.items() if value)
    with replacing(path) as part:
        part.write_text(REPORT.format(**parts))


def draw(out, results, loads, checkpoints, pages):
    """Write the figures and explore.html; returns the lines of Markdown that show them."""
    figures.accuracy
    

def main(argv=None):
    args = parse(argv)
    device = pick_device(args.device)
    checkpoints = {}
    for path in args.models:
        if Path(path).stem in checkpoints:
            raise BadInput(f"{path}: another model has this name, too, and tables could not tell them apart; rename a file")
        checkpoints[Path(path).stem] = checkpoint.load(path)
    domains = load_domains(args.data_dir)
    for path, c in zip(args.models, checkpoints.values(), strict=True):
        tokenizer = check_tokenizer(domains, c["tokenizer"], path)  # the same for all
    merged = args.btm.split(",") if args.btm else []
    for name in merged:
        if name not in checkpoints or checkpoints[name]["experts"]:
            raise BadInput(f"--btm {name}: not one of the dense models given")
    ...
