"""Compare checkpoints as the paper does: accuracy and loss by domain, what each cost, and which experts the routers choose.

    python evaluate.py out/seed.pt out/math.pt out/code.pt out/wiki.pt out/btx.pt --btm seed,math,code,wiki --out out

Writes report.md, results.json, figures/*.png and, of mixtures of experts, explore.html into --out, and prints one table. All
decoding is greedy.
"""
import json
import math
import os
import platform
import subprocess
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm

from data import tokenizer
from data.loader import check_tokenizer, files_in, first_windows, prepared, read_domains, text_of
from data.task import DOMAINS, Task, over_domains
from model import expert_load, gumbel
from support import btm, explore, figures, ledger
from support import checkpoint as ckpt
from support.devices import pick_device
from support.files import check_other, has, output, read_json, reading, write_text
from support.grading import right
from support.settings import BadInput, option, parse, run


@dataclass
class Settings:
    models: list = option([], "checkpoints; each is called by its file's name", positional=True)
    btm: str = option("", "also Branch-Train-Merge of these models, by name, as in seed,math,code,wiki")
    btm_methods: str = option("bayes:1", "how it chooses (see support/btm.py) and how many experts, as in bayes:1,tfidf:2")
    hard_sampling: bool = option(False, "Sample Top-1 models draw their experts, as in the paper; else they take the likeliest")
    figures: bool = option(True, "draw figures/*.png, and write explore.html; in any case those of an earlier run go")
    data_dir: str = option("data/bin", "folder written by data.prepare")
    out: str = option("out", "folder for report.md, results.json, explore.html and figures/")
    tasks: int = option(400, "tasks for each domain, at most", low=1)
    windows: int = option(100, "validation sequences for each domain, at most", low=1)
    batch_size: int = option(50, "sequences at a time", low=1)
    device: str = option("auto", "auto, cpu, cuda, mps ...")


def read_tasks(domains, name, n):
    """The first n tasks of one of `domains`, see read_domain. Raises BadInput."""
    with reading(f"the tasks of {name}"):
        lines = domains[name]["tasks.jsonl"].tobytes().decode().splitlines()[:n]
        tasks = [Task(**read_json(f"a task of {name}", line)) for line in lines]
    types = {"prompt": str, "answer": str, "cases": list}
    if not all(has(vars(task), types) and task.kind in ("exact", "code") and 0 < len(task.prompt) < 10_000
               and 0 < len(task.answer) < 10_000 for task in tasks):
        raise BadInput(f"the tasks of {name} are broken; prepare {name} again")
    return tasks


def token_losses(model, idx):
    """For each token but the first of idx (B, T): its cross-entropy and whether greedy decoding gives it, both (B, T-1).

    Also returns the routing of the pass. model: anything that is called like a GPT. Raises ValueError if it computes no numbers.
    """
    logits, _, routing = model(idx[:, :-1])
    if not logits.isfinite().all():
        raise ValueError("its logits are not finite numbers; this model is broken")
    losses = F.cross_entropy(logits.flatten(0, 1), idx[:, 1:].flatten(), reduction="none")
    if not losses.isfinite().all():
        raise ValueError("its loss is not finite; this model is broken")
    return losses.view(logits.shape[:2]), logits.argmax(-1) == idx[:, 1:], routing


def second_half(x):
    """The columns whose loss counts, of x (n, T)."""
    return x[:, x.shape[1] // 2:]


BINS = 20  # of the histograms of router probabilities


def histogram(probs):
    """Of each expert's probabilities, (M, N): the share of tokens in each of BINS equal steps, (N, BINS)."""
    M, N = probs.shape
    bins = (probs * BINS).long().clamp(max=BINS - 1) + BINS * torch.arange(N, device=probs.device)  # (M, N)
    return bins.flatten().bincount(minlength=N * BINS).view(N, BINS) / M


def score_texts(model, windows, batch_size):
    """Read windows (n, T + 1); the mean loss of the second half of each, given the first, (n,) float64, and what routers did.

    That is None for a dense model, else each expert's share of the gates, (n_layer, N), and how its probability is distributed,
    (n_layer, N, BINS): the share of tokens with a probability in each of BINS equal steps from 0 to 1.
    """
    losses, loads, histograms = [], 0, 0
    for chunk in windows.split(batch_size):
        loss, _, routing = token_losses(model, chunk)
        losses.append(second_half(loss).cpu().double().mean(1))  # not infinite, as a sum in float32 may be
        if routing:
            loads = loads + torch.stack([expert_load(r) for r in routing]) * len(chunk) / len(windows)
            for_each = torch.stack([histogram(r.probs) for r in routing])
            histograms = histograms + for_each * len(chunk) / len(windows)
    return torch.cat(losses), {"share": loads.tolist(), "probs": histograms.tolist()} if routing else None


def score_tasks(model, encoding, tasks, batch_size, device, drawn=False):
    """Which tasks greedy decoding solves, (n,) bool.

    By teacher forcing: greedy decoding writes the reference answer if and only if, with the reference fed in, the argmax before
    each of its tokens is that token. So one forward pass replaces a generation. What follows the answer does not count, except
    in code. Code that differs from the reference may still be right: it is generated, and graded by grading.right. `drawn`: the
    model samples its experts, so two passes differ. Then all code is generated, or it would have two tries.
    """
    prompts = [[encoding.eot_token] + encoding.encode(t.prompt, allowed_special="all") for t in tasks]
    # code must also end where it should: what follows belongs to the function
    answers = [encoding.encode_ordinary(t.answer) + [encoding.eot_token] * (t.kind == "code") for t in tasks]
    spelled = [encoding.decode(a).startswith(t.answer) for a, t in zip(answers, tasks, strict=True)]  # some tokenizers cannot
    solved = torch.zeros(len(tasks), dtype=torch.bool)
    by_length = sorted(range(len(tasks)), key=lambda i: len(prompts[i]) + len(answers[i]))
    for batch in [by_length[i:i + batch_size] for i in range(0, len(tasks), batch_size)]:
        rows = [torch.tensor(prompts[i] + answers[i]) for i in batch]
        idx = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)  # causal: padding behind changes nothing
        _, hits, _ = token_losses(model, idx)
        for row, i in enumerate(batch):
            p, end = len(prompts[i]) - 1, len(prompts[i]) + len(answers[i]) - 1
            solved[i] = hits[row, p:end].all() and spelled[i]
    todo = [i for i, task in enumerate(tasks) if task.kind == "code" and (drawn or not solved[i])]
    written = write_code(model, encoding, [prompts[i] for i in todo], max(map(len, answers)) + 10, batch_size, device)
    for i, answer in zip(todo, written, strict=True):
        solved[i] = answer is not None and right(tasks[i].prompt.rpartition(tokenizer.END)[2], answer, tasks[i].cases)
    return solved


def write_code(model, encoding, prompts, max_new_tokens, batch_size, device):
    """Finish the functions that the prompts (lists of tokens) open; returns the answers as text, None where no end-of-text came.

    Prompts of several lengths share a batch: a row whose prompt is not over yet is given its next token, not asked for it.
    """
    answers = [None] * len(prompts)
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
            answer = out[len(row):len(row) + max_new_tokens]
            if encoding.eot_token in answer:
                text = b"".join(tokenizer.piece(encoding, t) for t in answer[:answer.index(encoding.eot_token)])
                answers[i] = text.decode("utf-8", "replace")
    return answers


def score(model, encoding, tasks, windows, batch_size, device, drawn=False):
    """All that is measured of one model: {domain: {"loss", "routing", and with tasks "accuracy"}}."""
    scores = {}
    with torch.inference_mode():
        for domain in windows:
            losses, routing = score_texts(model, windows[domain].to(device), batch_size)
            scores[domain] = {"loss": losses.mean().item(), "routing": routing}
            if tasks[domain]:
                solved = score_tasks(model, encoding, tasks[domain], batch_size, device, drawn)
                scores[domain]["accuracy"] = solved.double().mean().item()
    return scores


def bytes_per_token(encoding, windows):
    """The mean length of the tokens that score_texts takes the loss of, windows (n, T + 1); the end of a text has none."""
    scored = second_half(windows[:, 1:]).flatten().tolist()
    return max(1, sum(len(tokenizer.piece(encoding, t)) for t in scored if t != encoding.eot_token)) / len(scored)


def summary(scores, model, lineage, lengths):
    """One model's entry in results.json; lengths: {domain: see bytes_per_token}."""
    return {**{key: {domain: s[key] for domain, s in scores.items() if key in s} for key in ("accuracy", "loss")},
            "bits_per_byte": {domain: s["loss"] / math.log(2) / lengths[domain] for domain, s in scores.items()},
            "params": model.num_params(), "active_params": model.num_params(active=True), **ledger.totals(lineage),
            "elapsed": ledger.elapsed(lineage), "moe_share": moe_share(lineage)}


def moe_share(lineage):
    """The share of FLOPs spent in MoE training (the paper's Table 3), the first stage, a seed's, not counted; None before any."""
    flops = {stage: sum(e["flops"] for e in lineage[1:] if e["stage"] == stage) for stage in ("train", "finetune")}
    return flops["finetune"] / sum(flops.values()) if sum(flops.values()) else None


def table(results):
    """The results as a Markdown table: accuracy in %, mean loss in nats per token and its perplexity, and the costs."""
    accuracy = {name: (a := r["accuracy"]) | ({"mean": over_domains(a)} if a else {}) for name, r in results.items()}
    head = ["model", *next(iter(accuracy.values())), "loss", "ppl", "params", "active", "tokens", "PFLOP", "seconds", "elapsed"]
    wide = max(map(len, ["model", *results]))
    lines = [head, ["-" * wide, *["-" * 6 + ":"] * (len(head) - 1)]]
    for name, r in results.items():
        loss = over_domains(r["loss"])
        cells = [name, *(f"{100 * share:.1f}" for share in accuracy[name].values()),
                 f"{loss:.3f}", f"{math.exp(min(loss, 700)):.2f}",
                 *(f"{r[key] / 1e6:.2f}M" for key in ("params", "active_params", "tokens")),
                 f"{r['flops'] / 1e15:.3g}", f"{r['seconds']:.0f}", f"{r['elapsed']:.0f}"]
        lines.append(cells)
    return "\n".join(f"| {name:<{wide}} | " + " | ".join(f"{cell:>7}" for cell in cells) + " |" for name, *cells in lines)


def draw_experts(model, generator):
    """A function called like the model, whose experts are drawn from the generator."""
    return lambda idx, **options: model(idx, noise=gumbel(model.config, idx.numel(), 1.0, generator), **options)


def machine():
    """Where and from which commit the numbers come."""
    root = Path(__file__).resolve().parent  # and no other repository that this one lies in, or that GIT_DIR names
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    own["GIT_CEILING_DIRECTORIES"] = str(root.parent)

    def git(*words):
        return subprocess.run(["git", *words], capture_output=True, text=True, cwd=root, env=own).stdout.strip()
    try:
        commit = git("describe", "--always")
        if git("status", "--porcelain", "--untracked-files=no", ":!results"):  # results may change, the code may not
            commit += "-dirty"
    except OSError:
        commit = ""  # no git on this machine
    cpu = f"{platform.processor() or platform.machine()} with {torch.backends.cpu.get_cpu_capability()}"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"commit": commit or "unknown", "cpu": cpu, "cores": os.cpu_count(),
            "gpu": gpu, "torch": torch.__version__, "python": platform.python_version()}


REPORT = """# Branch-Train-MiX: what came out

{table}

Columns: accuracy in % on test tasks of each domain, on `switch` (a text of one domain, then a task of another, never trained on),
and the mean over the domains, without `switch`; `loss`, nats per token in the second half of validation windows given the first,
mean over the domains, and `ppl`, its exponential; parameters in all and for one token; training tokens, PFLOP (10^15
floating-point operations, backward pass included) and device seconds of all stages behind the model; `elapsed`, the seconds with
all branches trained at the same time. Stages that shared the machine with others, as under `make -j`, took longer for it.

{pictures}

Loss by domain, in nats per token:

{losses}

The same in bits per byte of text, which models of other tokenizers can be compared by:

{bits}

Measured on {where}.
"""


def report(results, info, drawn):
    """report.md as text; drawn: the names of those PICTURES that there are."""

    def by_domain(key):
        domains = list(next(iter(results.values()))[key])
        rows = [f"| {name} | " + " | ".join(f"{r[key][d]:.3f}" for d in domains) + " |" for name, r in results.items()]
        return "\n".join(["| model | " + " | ".join(domains) + " |", "|---" * (len(domains) + 1) + "|", *rows])
    where = ", ".join(f"{key} {value}" for key, value in info.items() if value)
    return REPORT.format(table=table(results), losses=by_domain("loss"), bits=by_domain("bits_per_byte"), where=where,
                         pictures="\n\n".join(PICTURES[name] for name in drawn))


PICTURES = {"figures/accuracy.png": "![accuracy by domain](figures/accuracy.png)",
            "figures/routing.png": "![share of the gates of each expert](figures/routing.png)",
            "figures/curves.png": "![validation loss](figures/curves.png)",
            "explore.html": "Which expert wrote which token: [explore.html](explore.html), to be opened in a browser."}
OUTPUTS = ("results.json", "report.md", *PICTURES)


def draw(out, drawings):
    """Write the PICTURES; drawings: functions of a path, in order. What fails is one line of warning: the scores are there."""
    for name, drawing in zip(PICTURES, drawings, strict=True):
        try:
            with reading(out / name, "drawn"):
                drawing(out / name)
        except BadInput as error:
            print(f"evaluate.py: {error}", file=sys.stderr)


def main(argv=None):
    settings = parse(Settings, argv)
    if not settings.models:
        raise BadInput("name the checkpoints to compare, as in: evaluate.py out/seed.pt out/btx.pt")
    merged = settings.btm.split(",") if settings.btm else []
    if settings.btm_methods != Settings.btm_methods and not merged:
        raise BadInput("--btm_methods: name the models to merge by --btm, as in --btm seed,math,code,wiki")
    methods = [btm.read_method(word, len(merged)) for word in settings.btm_methods.split(",") if merged]
    names = [*(btm.name(*m) for m in methods), *(Path(path).stem for path in settings.models)]  # they stand for models in tables
    for name in names:
        if names.count(name) > 1 or "|" in name:  # which would end a cell of the tables
            raise BadInput(f"two models are called {name}, or it has a |: rename a file, or give --btm_methods each way once")
    device, out = pick_device(settings.device), Path(settings.out)
    checkpoints = {Path(path).stem: ckpt.load(path) for path in settings.models}
    data = read_domains(settings.data_dir, prepared(settings.data_dir))
    domains = [d for d in (*DOMAINS, "switch") if d in data] + [d for d in data if d not in (*DOMAINS, "switch")]
    if not domains:
        raise BadInput(f"--data_dir: there are no domains in {settings.data_dir}; run python -m data.prepare")
    for path, c in zip(settings.models, checkpoints.values(), strict=True):
        encoding = check_tokenizer(data, c["tokenizer"], path)  # all are the same
    for name in merged:
        if name not in checkpoints or checkpoints[name]["config"]["n_expert"] or merged.count(name) > 1:
            raise BadInput(f"--btm: {name!r} is not one of the dense models given, or is named twice")
    tasks = {d: read_tasks(data, d, settings.tasks) for d in domains}
    block_size = min(c["config"]["block_size"] for c in checkpoints.values())
    windows = {d: first_windows(text_of(data, d, "val", block_size), block_size, settings.windows) for d in domains}
    lengths = {d: bytes_per_token(encoding, w) for d, w in windows.items()}
    known_by = {method: btm.expert_data(method, data, merged, [checkpoints[name] for name in merged])
                for method, _ in methods}

    def models():  # one at a time; dense ones, then Branch-Train-Merge, then mixtures of experts
        for name in [n for n, c in checkpoints.items() if not c["experts"]]:
            yield name, ckpt.build(checkpoints[name], device), checkpoints[name]["lineage"]
        for method, k in methods:
            experts = [ckpt.build(checkpoints[name], device) for name in merged]
            lineage = ledger.join(checkpoints[name]["lineage"] for name in merged)
            yield btm.name(method, k), btm.BTM(experts, method, k, known_by[method]), lineage
        for name in [n for n, c in checkpoints.items() if c["experts"]]:
            yield name, ckpt.build(checkpoints[name], device), checkpoints[name]["lineage"]

    inputs = [*settings.models, *files_in(settings.data_dir)]
    for name in OUTPUTS:
        check_other(out / name, inputs)
    mine = [name for name in OUTPUTS if settings.figures or name not in PICTURES or (out / name).is_file()]  # written or removed
    with ExitStack() as files:
        for name in mine:
            files.enter_context(output(out / name))
        results, loads, pages = {}, {}, {}
        texts = {f"{domain} {n}": w.tolist() for domain in domains for n, w in enumerate(windows[domain][:2, :257], 1)}
        for name, model, lineage in tqdm(models(), total=len(checkpoints) + len(methods), desc="evaluate"):
            drawn = settings.hard_sampling and model.config.routing == "sample"
            forward = draw_experts(model, torch.Generator(device).manual_seed(0)) if drawn else model
            with reading(name, "evaluated"):
                scores = score(forward, encoding, tasks, windows, settings.batch_size, device, drawn)
                if model.config.n_expert and settings.figures:
                    reads = [explore.read(forward, encoding, text, device) for text in texts.values()]
                    pages[name] = checkpoints[name]["experts"], reads
            results[name] = summary(scores, model, lineage, lengths)
            if model.config.n_expert:
                loads[name] = {"experts": checkpoints[name]["experts"],
                               **{key: {d: s["routing"][key] for d, s in scores.items()} for key in ("share", "probs")}}
        info = machine()
        read = {"tasks": settings.tasks, "windows": settings.windows, "hard_sampling": settings.hard_sampling,
                "digests": {name: domain["files"] for name, domain in data.items()}}
        numbers = {"models": results, "routing": loads, "machine": info, "data": read}
        write_text(out / "results.json", json.dumps(numbers, indent=1, allow_nan=False))
        for name in mine[1:]:  # of an earlier run
            with suppress(OSError):
                (out / name).unlink()
        if settings.figures:
            draw(out, (partial(figures.accuracy, results), partial(figures.routing, loads),
                       partial(figures.curves, checkpoints, list(results), domains),
                       partial(explore.write, encoding=encoding, texts=texts, models=pages)))
        drawn = [name for name in PICTURES if settings.figures and (out / name).exists()]
        write_text(out / "report.md", report(results, info, drawn))
        print(table(results))
        print(f"\nreport: {out}/report.md   numbers: {out}/results.json" + f"   figures: {out}/figures/*.png" * bool(drawn)
              + f"   routing, token by token: {out}/explore.html" * ("explore.html" in drawn))


if __name__ == "__main__":
    run(main)
