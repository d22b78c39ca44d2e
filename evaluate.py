"""Compare checkpoints as the paper does: accuracy and loss by domain, what each cost, and whom the routers ask.

    python evaluate.py out/seed.pt out/math.pt out/code.pt out/wiki.pt out/btx.pt --btm seed,math,code,wiki --out out

Writes report.md, results.json and figures/*.png into --out, and prints one table. All decoding is greedy.
"""
import json
import math
import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm

import checkpoint as ckpt
import figures
import sandbox
from data import tokenizer
from data.loader import read_meta, validation_windows
from data.prepare import DOMAINS
from data.task import Task
from model import expert_load
from settings import BadInput, option, parse, run
from train_expert import pick_device


@dataclass
class Settings:
    models: list = option([], "checkpoints; each is called by its file's name", positional=True)
    btm: str = option("", "also Branch-Train-Merge Top-1 of these models, by name, as in seed,math,code,wiki")
    data_dir: str = option("data/bin", "folder written by data.prepare")
    out: str = option("out", "folder for report.md, results.json and figures/")
    tasks: int = option(400, "tasks for each domain, at most", low=1)
    windows: int = option(100, "validation sequences for each domain, at most", low=1)
    batch_size: int = option(50, "sequences at a time", low=1)
    device: str = option("auto", "auto, cpu, cuda, mps ...")


def read_tasks(folder, domain, n):
    path = Path(folder) / domain / "tasks.jsonl"
    try:
        return [Task(**json.loads(line)) for line in path.read_text().splitlines()[:n]]
    except (ValueError, TypeError):
        raise BadInput(f"{path} is broken; prepare {domain} again") from None


def token_losses(model, idx):
    """For each token but the first of idx (B, T): its cross-entropy and whether greedy decoding gives it, both (B, T-1).

    Also returns the routing of the pass.
    """
    logits, _, routing = model(idx[:, :-1])
    losses = F.cross_entropy(logits.transpose(1, 2), idx[:, 1:], reduction="none")
    return losses, logits.argmax(-1) == idx[:, 1:], routing


def score_texts(model, windows, batch_size):
    """Read windows (n, T + 1); of each, the mean loss of its first and of its second half, each (n,), and the gate shares.

    The second half counts; the first is the prompt by which BTM picks its expert. Shares are (n_layer, N), or None.
    """
    first, second, loads = [], [], []
    for chunk in windows.split(batch_size):
        losses, _, routing = token_losses(model, chunk)
        half = losses.shape[1] // 2
        first.append(losses[:, :half].mean(1))
        second.append(losses[:, half:].mean(1))
        if routing:
            loads.append(torch.stack([expert_load(r) for r in routing]) * len(chunk))
    return torch.cat(first), torch.cat(second), sum(loads) / len(windows) if loads else None


def score_tasks(model, encoding, tasks, batch_size, device):
    """Which tasks greedy decoding solves, (n,) bool, and the mean loss of each prompt, (n,).

    Greedy decoding gives the reference answer if and only if, with the reference fed in, the likeliest token at each
    of its positions is the next token of the reference: one forward pass instead of a generation. Code that differs from the
    reference may still be right: it is generated, and run in the sandbox.
    """
    prompts = [[encoding.eot_token] + encoding.encode(t.prompt, allowed_special="all") for t in tasks]
    # code must also end where it should: what follows it would be run too
    answers = [encoding.encode_ordinary(t.answer) + [encoding.eot_token] * (t.kind == "code") for t in tasks]
    solved, prompt_loss = torch.zeros(len(tasks), dtype=torch.bool), torch.zeros(len(tasks))
    by_length = sorted(range(len(tasks)), key=lambda i: len(prompts[i]) + len(answers[i]))
    for batch in [by_length[i:i + batch_size] for i in range(0, len(tasks), batch_size)]:
        rows = [torch.tensor(prompts[i] + answers[i]) for i in batch]
        idx = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)  # causal: padding behind changes nothing
        losses, hits, _ = token_losses(model, idx)
        for row, i in enumerate(batch):
            p, end = len(prompts[i]) - 1, len(prompts[i]) + len(answers[i]) - 1
            solved[i], prompt_loss[i] = hits[row, p:end].all(), losses[row, :p].mean()
    todo = [i for i, task in enumerate(tasks) if task.kind == "code" and not solved[i]]
    sources = write_code(model, encoding, [prompts[i] for i in todo], max(map(len, answers)) + 10, batch_size, device)
    jobs = [(source, re.findall(r"def (\w+)", source)[0], tasks[i].cases) for source, i in zip(sources, todo, strict=True)]
    solved[todo] = torch.tensor(sandbox.grade(jobs), dtype=torch.bool)
    return solved, prompt_loss


def write_code(model, encoding, prompts, max_new_tokens, batch_size, device):
    """Finish the functions that the prompts (lists of tokens) open; returns their sources, prompt included, end-of-text excluded.

    Prompts of several lengths share a batch: a row whose prompt is not over yet is given its next token, not asked for it.
    """
    sources = [None] * len(prompts)
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for batch in [by_length[i:i + batch_size] for i in range(0, len(prompts), batch_size)]:
        rows = [list(prompts[i]) for i in batch]
        cache, new = [], torch.tensor([row[:len(rows[0])] for row in rows], device=device)
        written = [row[:len(rows[0])] for row in rows]
        for _ in range(len(rows[-1]) - len(rows[0]) + max_new_tokens):
            likeliest = model(new, cache=cache)[0][:, -1].argmax(-1).tolist()
            for row, out, token in zip(rows, written, likeliest, strict=True):
                out.append(row[len(out)] if len(out) < len(row) else token)
            if all(encoding.eot_token in out[len(row):] for row, out in zip(rows, written, strict=True)):
                break
            new = torch.tensor([out[-1:] for out in written], device=device)
        for i, row, out in zip(batch, rows, written, strict=True):
            answer = out[len(row):]
            answer = answer[:answer.index(encoding.eot_token)] if encoding.eot_token in answer else answer
            sources[i] = encoding.decode(row + answer).split(tokenizer.END)[-1]
    return sources


def score(model, encoding, tasks, windows, batch_size, device):
    """All that is measured of one model, {domain: {"solved", "prompt_loss", "first", "second", "load"}}."""
    scores = {}
    with torch.inference_mode():
        for domain in tasks:
            first, second, load = score_texts(model, windows[domain].to(device), batch_size)
            solved, prompt_loss = score_tasks(model, encoding, tasks[domain], batch_size, device)
            scores[domain] = {"solved": solved, "prompt_loss": prompt_loss, "first": first.cpu(), "second": second.cpu(),
                              "load": load}
    return scores


def merge_top1(experts):
    """Branch-Train-Merge Top-1 from the scores of its experts: each text goes to the expert that finds its prompt likeliest.

    No expert is asked again, since the chosen one's answer is the one it gave alone (Li et al. 2022: a posterior over experts
    from the likelihood of the prefix, here with a uniform prior and all weight on its largest value).
    """
    merged = {}
    for domain in experts[0]:
        stacked = {key: torch.stack([e[domain][key] for e in experts]) for key in ("solved", "prompt_loss", "first", "second")}
        by_prompt, by_half = stacked["prompt_loss"].argmin(0)[None], stacked["first"].argmin(0)[None]
        merged[domain] = {"solved": stacked["solved"].gather(0, by_prompt)[0], "load": None,
                          "second": stacked["second"].gather(0, by_half)[0]}
    return merged


def summary(scores, params, active_params, lineage):
    """One model's entry in results.json."""
    return {"accuracy": {domain: s["solved"].float().mean().item() for domain, s in scores.items()},
            "loss": {domain: s["second"].mean().item() for domain, s in scores.items()},
            "params": params, "active_params": active_params, **ckpt.totals(lineage),
            "elapsed": elapsed(lineage)}


def elapsed(lineage):
    """Seconds from start to end if every stage starts as soon as the stages it needs are done, branches at the same time."""
    done = {}
    for entry in lineage:
        done[entry["id"]] = entry["seconds"] + max((done[p] for p in entry["parents"]), default=0.0)
    return max(done.values(), default=0.0)


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def table(results):
    """The results as a Markdown table: accuracy in %, mean loss in nats per token and its perplexity, and the costs."""
    domains = list(next(iter(results.values()))["accuracy"])
    head = ["model", *domains, "mean", "loss", "ppl", "params", "active", "tokens", "PFLOP", "seconds", "elapsed"]
    lines = ["| " + " | ".join(f"{h:>9}" for h in head) + " |", "|" + "|".join(["-" * 10 + ":"] * len(head)) + "|"]
    for name, r in results.items():
        loss = mean(r["loss"].values())
        cells = [name, *(f"{100 * r['accuracy'][d]:.1f}" for d in domains), f"{100 * mean(r['accuracy'].values()):.1f}",
                 f"{loss:.3f}", f"{math.exp(loss):.2f}", f"{r['params'] / 1e6:.2f}M", f"{r['active_params'] / 1e6:.2f}M",
                 f"{r['tokens'] / 1e6:.2f}M", f"{r['flops'] / 1e15:.3g}", f"{r['seconds']:.0f}", f"{r['elapsed']:.0f}"]
        lines.append("| " + " | ".join(f"{c:>9}" for c in cells) + " |")
    return "\n".join(lines)


def machine():
    """Where and from which commit the numbers come."""
    try:
        git = ["git", "describe", "--always", "--dirty"]
        commit = subprocess.run(git, capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()
    except OSError:
        commit = ""  # no git on this machine
    cpu = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else []
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"commit": commit or "unknown", "cpu": (cpu or [platform.processor()])[0], "cores": os.cpu_count(),
            "gpu": gpu, "torch": torch.__version__, "python": platform.python_version()}


REPORT = """# Branch-Train-MiX: what came out

{table}

Columns: accuracy in % on test tasks of each domain (`switch`: a text of one domain, then a task of another, never trained on) and
their mean; `loss`, nats per token in the second half of validation windows given the first, mean over the domains, and `ppl`, its
exponential;
parameters in all and for one token; training tokens, PFLOP (10^15 floating-point operations, backward pass included) and device
seconds of all stages behind the model; `elapsed`, the seconds with all branches trained at the same time.

{pictures}

Loss by domain:

{losses}

Measured on {where}.
"""


def report(results, info, out):
    captions = {"accuracy": "accuracy by domain", "routing": "share of the gates of each expert", "curves": "validation loss"}
    pictures = [f"![{caption}](figures/{name}.png)" for name, caption in captions.items()
                if (out / "figures" / f"{name}.png").exists()]
    domains = list(next(iter(results.values()))["loss"])
    losses = ["| model | " + " | ".join(domains) + " |", "|---" * (len(domains) + 1) + "|"]
    losses += [f"| {name} | " + " | ".join(f"{r['loss'][d]:.3f}" for d in domains) + " |" for name, r in results.items()]
    where = ", ".join(f"{key} {value}" for key, value in info.items() if value)
    return REPORT.format(table=table(results), losses="\n".join(losses), where=where,
                         pictures="\n\n".join(pictures))


def main(argv=None):
    settings = parse(Settings, argv)
    if not settings.models:
        raise BadInput("name the checkpoints to compare, as in: evaluate.py out/seed.pt out/btx.pt")
    ckpt.check_stems(settings.models, taken=["btm_top1"])
    device, out = pick_device(settings.device), Path(settings.out)
    checkpoints = {Path(path).stem: ckpt.load(path) for path in settings.models}
    known = {p.parent.name for p in Path(settings.data_dir).glob("*/tasks.jsonl") if p.stat().st_size}
    domains = [d for d in (*DOMAINS, "switch") if d in known] + sorted(known - {*DOMAINS, "switch"})
    if not domains:
        raise BadInput(f"--data_dir: there are no tasks in {settings.data_dir}; run python -m data.prepare")
    for path, c in zip(settings.models, checkpoints.values(), strict=True):
        if any(read_meta(settings.data_dir, d)["fingerprint"] != c["tokenizer"]["fingerprint"] for d in domains):
            raise BadInput(f"{path} was trained with another tokenizer than {settings.data_dir} was prepared with")
    merged = [name for name in settings.btm.split(",") if name]
    for name in merged:
        if name not in checkpoints or checkpoints[name]["config"]["n_expert"]:
            raise BadInput(f"--btm: {name!r} is not one of the dense models given")
    encoding = tokenizer.load(next(iter(checkpoints.values()))["tokenizer"]["name"])
    tasks = {d: read_tasks(settings.data_dir, d, settings.tasks) for d in domains}
    block_size = min(c["config"]["block_size"] for c in checkpoints.values())
    windows = {d: validation_windows(settings.data_dir, d, block_size, settings.windows) for d in domains}
    ckpt.prepare_output(out / "figures" / "accuracy.png")

    scores, results, loads = {}, {}, {}
    for name, c in tqdm(checkpoints.items(), desc="evaluate"):
        model = ckpt.build(c, device)
        scores[name] = score(model, encoding, tasks, windows, settings.batch_size, device)
        results[name] = summary(scores[name], model.num_params(), model.num_params(active=True), c["lineage"])
        if c["experts"]:
            loads[name] = {"experts": c["experts"],
                           "share": {d: s["load"].tolist() for d, s in scores[name].items()}}
    if merged:
        parts = [results[name] for name in merged]
        lineage = ckpt.join_lineages(checkpoints[name]["lineage"] for name in merged)
        results["btm_top1"] = summary(merge_top1([scores[name] for name in merged]), sum(p["params"] for p in parts),
                                      parts[0]["active_params"], lineage)
    order = [n for n in results if n not in ("btm_top1", *loads)] + [n for n in ("btm_top1", *loads) if n in results]
    results = {name: results[name] for name in order}
    logs = {Path(path).stem: (c, figures.read_log(path)) for path, c in zip(settings.models, checkpoints.values(), strict=True)}
    figures.accuracy(results, out / "figures" / "accuracy.png")
    figures.routing(loads, out / "figures" / "routing.png")
    figures.curves(logs, order, domains, out / "figures" / "curves.png")
    info = machine()
    text = json.dumps({"models": results, "routing": loads, "machine": info}, indent=1)
    ckpt.write_whole(out / "results.json", lambda file: file.write(text.encode()))
    ckpt.write_whole(out / "report.md", lambda file: file.write(report(results, info, out).encode()))
    print(table(results))
    print(f"\nreport: {out}/report.md   figures: {out}/figures/*.png   numbers: {out}/results.json")


if __name__ == "__main__":
    run(main)
