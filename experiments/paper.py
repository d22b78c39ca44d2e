"""The paper's tables and figures from our runs, beside the paper's own numbers: what `make paper` ends with.

    python -m experiments.paper --collect out/seed0 --out results          # writes results/seed0.json
    python -m experiments.paper results/seed0.json results/seed1.json --out results

The first gathers what a run's folder holds: paper/results.json and hard/results.json, written by evaluate.py (or, of
`make rivals` alone, rivals/results.json), and some of what its checkpoints do. The second writes README.md and figures/ from
such files alone. What the models are is said in experiments.mk; what was to be tested, and how, in registered.md.
"""
import json
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch

from data import tokenizer
from data.loader import first_windows, read_domains, text_of
from data.task import DOMAINS, over_domains
from experiments.paired import cell, half_width, holm, p_value, table
from support import checkpoint as ckpt
from support import explore, figures
from support.files import check_other, has, prepare_output, read_json, reading, write_text
from support.settings import BadInput, option, parse, run
from train_expert import validate

COLUMNS = (*DOMAINS, "switch")
EXPERTS = ("math", "code", "wiki")
GROUPS = {"all": DOMAINS, "knowledge": ("general", "trivia"), "experts": EXPERTS, "switch": COLUMNS}  # what a mean is over

# ---- what was registered: (better, sign, worse, group), see registered.md ---------------------------------------------------

HYPOTHESES = [
    ("btx", ">", "dense_dm", "all"), ("btx", ">", "su_dm", "all"), ("su_dm", ">", "dense_dm", "all"),
    ("btx", ">", "dense_dm", "knowledge"), ("btx", ">", "su_dm", "knowledge"), ("dense_dm", ">", "su_dm", "knowledge"),
    ("btx", ">", "dense_dm", "experts"), ("btx", "~", "su_dm", "experts"), ("su_dm", ">", "dense_dm", "experts"),
    ("btx", ">", "su_cm_time", "all"), ("btx", ">", "su_cm_paper", "all"), ("btx", ">", "large", "all"),
    ("btx", ">", "btm_tfidf_top2", "all"), ("btm_tfidf_top2", ">", "btm_tfidf_top1", "all"), ("btx", ">", "btx_sample", "all"),
    ("soft_short", ">", "top2_short", "all"), ("top2_short", ">", "sample_short", "all"),
    ("sample_short", ">", "switch_short", "all"), ("soft_medium", ">", "top2_medium", "all"),
    ("top2_medium", ">", "sample_medium", "all"), ("lb_short", "~", "top2_short", "all"),
    ("frozen_short", "~", "top2_short", "all"), ("split4of8_short", "~", "top2_short", "all"),
    ("split4of8_short", ">", "split2of8_short", "all"), ("top2_short", ">", "blend_short", "all")]
EXPLORED = [  # not in the paper, or not registered
    ("btx", ">", "su_cm_flops", "all"), ("btx", ">", "su_cm_elapsed", "all"), ("btx", ">", "btm_bayes_top2", "all"),
    ("btm_bayes_top2", ">", "btm_tfidf_top2", "all"), ("btx", ">", "btx_nolb", "all"), ("btx_hidden", ">", "btx", "all"),
    ("btx_ff", ">", "btx", "all"), ("btx_x2", ">", "su_x2", "all"), ("btx_x4", ">", "su_x4", "all"),
    ("later", ">", "btx", "all")]
COUNTS, LEVEL = 0.01, 0.03  # the smallest difference that counts; what "about equal" allows

# ---- the paper's numbers (arXiv 2403.07816); rows are named as in experiments.mk --------------------------------------------

TABLE_1 = {  # GSM8K, MATH, HumanEval, MBPP, NQ, TriviaQA, MMLU
    "seed": (14.7, 2.5, 12.8, 20.8, 16.4, 58.5, 46.1), "math": (39.5, 18.8, 25.0, 33.6, 14.4, 37.1, 52.0),
    "code": (12.0, 4.0, 31.7, 40.2, 11.5, 29.9, 39.6), "wiki": (11.7, 3.1, 11.0, 15.2, 21.8, 57.2, 43.1)}
TABLE_2 = {  # math, code, knowledge, reasoning, MMLU, average
    "seed": (8.6, 16.8, 37.4, 63.3, 46.1, 40.7), "large": (16.3, 24.5, 40.0, 66.1, 52.8, 45.4),
    "dense_dm": (18.3, 25.8, 39.6, 63.3, 49.8, 44.5), "su_dm": (28.1, 34.7, 34.0, 62.3, 51.1, 46.3),
    "btm_tfidf_top1": (21.3, 36.4, 26.5, 61.0, 44.3, 43.1), "btm_tfidf_top2": (21.5, 36.6, 26.9, 61.2, 44.3, 43.4),
    "btm_bayes_top1": None, "btm_bayes_top2": None, "soup": None,
    "btx_sample": (26.4, 31.5, 40.1, 63.7, 53.2, 47.3), "btx": (27.4, 34.0, 41.0, 63.5, 52.5, 47.9), "btx_nolb": None}
TABLE_3 = {  # tokens, GPU-days, share of compute in MoE training, average
    "btx": ("533B", 926.1, "23 %", 47.9), "su_cm_time": ("252B", 1007.1, "100 %", 47.3), "su_cm_paper": None,
    "su_cm_flops": None, "su_cm_elapsed": None, "su_dm": None, "dense_dm": None, "btx_sample": None, "large": None}
TABLE_4 = {  # average at 10B, 40B, 80B (Sample Top-1: 160B) tokens
    "switch": ("switch_short", 24.7, None, None, None, None),
    "sample": ("sample_short", 33.0, "sample_medium", 35.3, "btx_sample", 36.9),
    "top2": ("top2_short", 34.6, "top2_medium", 35.9, "btx_nolb", 37.3),
    "soft": ("soft_short", 35.8, "soft_medium", 37.3, None, None)}
TABLE_5 = {  # GSM8K, HumanEval, NQ, ARC-c, MMLU, average
    "lb_short": (29.8, 27.4, 23.0, 43.4, 50.0, 34.7), "top2_short": (34.6, 19.5, 23.2, 44.4, 51.6, 34.6),
    "frozen_short": (34.8, 18.3, 24.1, 44.9, 51.4, 34.7), "blend_short": (13.9, 17.1, 9.9, 34.1, 36.2, 22.2),
    "split2of8_short": (22.0, 20.1, 16.8, 39.1, 41.8, 28.0), "split4of8_short": (29.6, 26.8, 22.9, 44.0, 49.4, 34.5)}
NAMES = {
    "seed": "seed", "math": "math expert", "code": "code expert", "wiki": "wiki expert", "soup": "average of all weights",
    "large": "larger dense model, from scratch", "dense_dm_1": "Dense (DM), first phase", "dense_dm": "Dense (DM)",
    "su_dm_1": "sparse upcycling (DM), first phase", "su_dm": "sparse upcycling (DM)",
    "su_cm_time": "sparse upcycling (CM), equal device seconds", "su_cm_flops": "sparse upcycling (CM), equal FLOPs",
    "su_cm_elapsed": "sparse upcycling (CM), equal elapsed time",
    "su_cm_paper": "sparse upcycling (CM), the paper's share of tokens",
    "su_x2": "sparse upcycling (DM), finetuned x 2", "btx_x2": "BTX, finetuned x 2",
    "su_x4": "sparse upcycling (DM), finetuned x 4", "btx_x4": "BTX, finetuned x 4", "three": "BTX of seed, math and code",
    "later_mixed": "wiki added, not finetuned", "later_short": "wiki added (short)", "later": "wiki added",
    "btm_tfidf_top1": "BTM Top-1, tf-idf", "btm_tfidf_top2": "BTM Top-2, tf-idf", "btm_bayes_top1": "BTM Top-1, Bayes",
    "btm_bayes_top2": "BTM Top-2, Bayes", "btx_sample": "BTX Sample Top-1", "btx": "BTX Top-2", "btx_mixed": "BTX, not finetuned",
    "btx_nolb": "BTX Top-2, unbalanced", "btx_hidden": "BTX, hidden start", "hidden_mixed": "BTX, hidden start, not finetuned",
    "btx_ff": "BTX, branches train feed-forwards", "ff_mixed": "the same, not finetuned",
    "switch": "Switch", "sample": "Sample Top-1", "top2": "Top-2", "soft": "Soft", "lb": "Top-2, balanced",
    "frozen": "Top-2, frozen experts", "blend": "blending", "split2of8": "split, top-2 of 8", "split4of8": "split, top-4 of 8"}

WANTED = {"seed", *EXPERTS, "soup", "btx_mixed", "btx", "dense_dm_1", "dense_dm", "su_dm_1", "su_dm"}  # of each run


@dataclass
class Settings:
    runs: list = option([], "files that --collect wrote, one for each seed", positional=True)
    collect: bool = option(False, "gather folders of make paper: of each write NAME.json alone")
    data_dir: str = option("data/bin", "for --collect: folder written by data.prepare")
    out: str = option("results", "folder to write to")


class Results:
    """The numbers of all runs, by model, and the tables' cells made of them."""

    def __init__(self, runs):
        self.runs = runs

    def of(self, model, key, domain=None):
        """A value for each run that has the model; key: a group of GROUPS for the mean accuracy over it, or the mean "loss"."""
        models = [r["models"][model] for r in self.runs if model in r["models"]]
        if key in GROUPS:
            return [mean(m["accuracy"][d] for d in GROUPS[key]) for m in models]
        if key == "loss" and domain is None:
            return [over_domains(m["loss"]) for m in models]
        return [m[key] if domain is None else m[key][domain] for m in models]

    def since_seed(self, model, key):
        """A cost without the seed's own, as the paper counts; all of it for the larger model, which has no seed."""
        return [r["models"][model][key] - (model != "large") * r["models"]["seed"][key]
                for r in self.runs if model in r["models"]]

    def scores(self, model):
        """Accuracy by column, mean over the domains, and loss, as text."""
        return [*(cell(self.of(model, "accuracy", d), 100) for d in COLUMNS), cell(self.of(model, "all"), 100),
                cell(self.of(model, "loss"), digits=3)]

    def with_all(self, *models):
        """The runs that have all these models, since rows of different seeds are not to be compared."""
        return Results([run for run in self.runs if {*models} <= run["models"].keys()])

    def deltas(self, a, b, key):
        """a minus b, in each run that has both."""
        both = self.with_all(a, b)
        return [x - y for x, y in zip(both.of(a, key), both.of(b, key), strict=True)]

    def holds(self, line, p):
        """The verdict on (better, sign, worse, group), whose corrected p is given: "yes", "**no**" or "open".

        ">" holds if the difference is significant and at least COUNTS; "~" if its confidence interval lies within LEVEL.
        """
        a, sign, b, group = line
        deltas = self.deltas(a, b, group)
        if len(deltas) < 2:
            return "one seed"
        delta, half = mean(deltas), half_width(deltas)
        if sign == "~":
            return "yes" if abs(delta) + half <= LEVEL else "**no**" if abs(delta) - half > LEVEL else "open"
        return "open" if p >= 0.05 or abs(delta) < COUNTS else "yes" if delta > 0 else "**no**"

    def verdicts(self, lines):
        """A row for each line that some run can answer: its difference in points ± half the 95 % interval by group, the judged
        one in bold, the number of runs, p, and the verdict."""
        lines = [line for line in lines if self.deltas(line[0], line[2], line[3])]
        corrected = iter(holm([p_value(self.deltas(a, b, group)) or 0.0 for a, sign, b, group in lines if sign == ">"]))
        for a, sign, b, group in lines:
            p, n = next(corrected) if sign == ">" else None, len(self.deltas(a, b, group))
            row = [f"{full(a)} {sign.replace('~', '≈')} {full(b)}"]
            for key in GROUPS:
                text = points(self.deltas(a, b, key))
                row.append(f"**{text}**" if key == group else text)
            yield [*row, str(n), "" if p is None or n < 2 else f"{p:.3f}", self.holds((a, sign, b, group), p)]

    def conditions(self):
        """What the recipe was to fulfil, as (sentence, measured, whether it holds), from means over the runs."""
        at = {m: {d: mean(self.of(m, "accuracy", d)) for d in COLUMNS} for m in ("seed", *EXPERTS, "btx", "dense_dm", "su_dm")}
        soup = mean(self.deltas("soup", "seed", "all"))
        yield "the average of all weights is no more than 3 points below the seed", f"{100 * soup:+.1f}", soup >= -0.03
        own = [at["seed"][d] for d in GROUPS["knowledge"]]
        yield "the seed solves 75 % of general and of trivia", percent(own), min(own) >= 0.75
        others = [at["seed"][d] for d in EXPERTS]
        yield "and at most 40 % of math, of code and of wiki", percent(others), max(others) <= 0.40
        home = [at[d][d] for d in EXPERTS]
        yield "each expert solves 90 % of its own domain", percent(home), min(home) >= 0.90
        lowest = [min(at[m][d] for m in ("btx", "dense_dm", "su_dm")) for d in DOMAINS]
        yield ("no domain is above 97 % for BTX, Dense (DM) and upcycling (DM) all (the lowest of them)", percent(lowest),
               max(lowest) <= 0.97)
        share = mean(self.of("btx", "moe_share"))
        yield "20 to 27 % of the compute after the seed is MoE training", percent([share]), 0.20 <= share <= 0.27
        seed, btx = (self.runs[0]["models"][m] for m in ("seed", "btx"))
        cost = self.since_seed("su_dm", "flops")[0] / self.since_seed("su_dm", "tokens")[0] / (seed["flops"] / seed["tokens"])
        yield "an MoE token costs 1.45 dense ones at least", f"{cost:.2f}", cost >= 1.45
        ff = (btx["params"] - seed["params"]) / 3 / seed["params"]
        yield "feed-forwards are half of the parameters at least", percent([ff]), ff >= 0.495
        pflop = btx["flops"] / 1e15
        yield "the pipeline costs 0.027 PFLOP at most", f"{pflop:.4f}", pflop <= 0.027


def points(deltas):
    """The mean of differences in points, ± half of its 95 % confidence interval."""
    half = half_width(deltas)
    return f"{100 * mean(deltas):+.1f}" + (f" ± {100 * half:.1f}" if half is not None else "")


def percent(shares):
    return ", ".join(f"{100 * share:.1f} %" for share in shares)


def full(model):
    """A model's name for people: top2_short is `Top-2 (short)`."""
    base, _, length = model.rpartition("_")
    return NAMES.get(model) or f"{NAMES[base]} ({length})"


def cells(values, digits=1):
    return ["" if v is None else f"{v:.{digits}f}" if isinstance(v, float) else str(v) for v in values]


def tables(r):
    """Every table of the report, by name, as Markdown; a model that no run has is left out."""
    def there(models):
        return {m: paper for m, paper in dict(models).items() if r.of(m, "tokens")}
    ours, hard = [*COLUMNS, "mean", "loss"], Results([{"models": run["hard"]} for run in r.runs])
    judged = ["all five", "seed's knowledge", "experts' domains", "with `switch`", "seeds", "p (Holm)", "holds"]
    out = {"order": table(["the paper's ordering", *judged], r.verdicts(HYPOTHESES)),
           "more": table(["explored", *judged], r.verdicts(EXPLORED)),
           "conditions": table(["what should hold", "measured", ""],
                               [[s, v, "yes" if ok else "**no**"] for s, v, ok in r.conditions()])}
    out["1"] = table(["model", *ours[:-1], "paper: GSM8K", "MATH", "HumanEval", "MBPP", "NQ", "TriviaQA", "MMLU"],
                     [[full(m), *r.scores(m)[:-1], *cells(paper)] for m, paper in there(TABLE_1).items()])
    out["2"] = table(["model", *ours, "paper: math", "code", "knowledge", "reasoning", "MMLU", "average"],
                     [[full(m), *r.scores(m), *cells(paper or [None] * 6)] for m, paper in there(TABLE_2).items()])
    rows = []
    for m, paper in there(TABLE_3).items():
        share = r.of(m, "moe_share")[0]
        rows.append([full(m), f"{mean(r.since_seed(m, 'tokens')) / 1e6:.1f}", f"{mean(r.since_seed(m, 'flops')) / 1e12:.1f}",
                     cell(r.since_seed(m, "seconds"), digits=0), cell(r.since_seed(m, "elapsed"), digits=0),
                     "" if share is None else f"{100 * share:.0f} %", f"{mean(r.of(m, 'active_params')) / 1e3:.0f} of "
                     f"{mean(r.of(m, 'params')) / 1e3:.0f}", cell(r.of(m, "all"), 100), *cells(paper or [None] * 4)])
    out["3"] = table(["model", "tokens, M", "TFLOP", "device seconds", "elapsed", "in MoE training", "active of all, k", "mean",
                      "paper: tokens", "GPU-days", "in MoE training", "average"], rows)
    for name, key, scale, digits in (("4", "all", 100, 1), ("4b", "loss", 1, 3)):
        theirs = ["paper: 10B", "40B", "80B (Sample Top-1: 160B)"] if name == "4" else []
        out[name] = table(["routing", "short", "medium", "long", *theirs],
                          [[full(m), *("" if model is None else cell(r.of(model, key), scale, digits) for model in line[::2]),
                            *(cells(line[1::2]) if name == "4" else [])] for m, line in TABLE_4.items()])
    out["hard"] = table(["BTX Sample Top-1 in evaluation", *ours],
                        [[how, *of.scores("btx_sample")] for how, of in (("the likeliest expert (as in all other tables)", r),
                         ("an expert drawn from the router (the paper's)", hard)) if of.of("btx_sample", "tokens")])
    out["5"] = table(["model", *ours, "paper: GSM8K", "HumanEval", "NQ", "ARC-c", "MMLU", "average"],
                     [[full(m).removesuffix(" (short)"), *r.scores(m), *cells(paper)] for m, paper in there(TABLE_5).items()])
    for name, models in {"stages": ("seed", "dense_dm_1", "su_dm_1", "btx_mixed", "dense_dm", "su_dm", "btx"),
                         "hidden": ("btx_mixed", "hidden_mixed", "btx", "btx_hidden"),
                         "ff": ("btx_mixed", "ff_mixed", "btx", "btx_ff"),
                         "longer": ("btx", "btx_x2", "btx_x4", "su_dm", "su_x2", "su_x4"),
                         "later": ("three", "later_mixed", "later_short", "later", "btx")}.items():
        same = r.with_all(*models)
        out[name] = table(["model", *ours], [[full(m), *same.scores(m)] for m in models if same.of(m, "tokens")])
    return out


def where(machine):
    return f"{machine['cores']} cores of {machine['cpu']}, torch {machine['torch']}, commit {machine['commit']}"


def draw(r, out):
    """All figures of the numbers alone."""
    main = [m for m in TABLE_2 if m not in ("soup", "btm_tfidf_top1", "btm_bayes_top1", "btx_nolb")]
    main = [m for m in main + [m for m in TABLE_3 if m.startswith("su_cm")] if r.of(m, "tokens")]
    same = r.with_all(*main)
    of = {m: r.with_all(m) for m in main}
    figures.compute({full(m): (mean(runs.since_seed(m, "flops")), runs.of(m, "all"), mean(runs.of(m, "active_params")))
                     for m, runs in of.items()}, out / "figure2_left.png", full("btx"))
    short = {"seed": "seed", "math": "math", "code": "code", "wiki": "wiki", "large": "larger dense", "dense_dm": "Dense (DM)",
             "su_dm": "upcycling (DM)", "btm_tfidf_top2": "BTM Top-2, tf-idf", "btx": "BTX Top-2"}
    figures.normalised({name: [mean(same.of(m, "accuracy", d)) for d in COLUMNS]
                        for m, name in short.items() if same.of(m, "tokens")}, COLUMNS, out / "figure2_right.png")
    routing = max((run["routing"] for run in r.runs), key=len)
    balanced = {full(m): routing[m] for m in ("btx", "btx_nolb") if m in routing}
    figures.routing(balanced, out / "figure3_4.png")
    figures.routing({full(f"{m}_short"): routing[f"{m}_short"] for m in TABLE_4 if f"{m}_short" in routing}, out / "figure6.png")
    figures.probabilities(balanced, out / "figure5.png")
    stages = {"BTX": ("seed", None, "btx_mixed", "btx"), "Dense (DM)": ("seed", "dense_dm_1", None, "dense_dm"),
              "sparse upcycling (DM)": ("seed", "su_dm_1", None, "su_dm")}
    titles = {"knowledge": "general and trivia", "experts": "math, code and wiki"}
    figures.lines({titles[group]: lines for group, lines in r.runs[0]["basin"].items()}, out / "basin.png")
    figures.forgetting({name: {d: [m and r.of(m, "accuracy", d) for m in models] for d in DOMAINS}
                        for name, models in stages.items()},
                       {d: {m: mean(r.of(m, "accuracy", d)) for m in EXPERTS} for d in DOMAINS}, out / "forgetting.png")


def basin(folder, data, n_windows=8):
    """The loss on the lines from the seed to each branch and to the average of all: {group: {end: [[place, loss], ...]}}.

    Place 0 is the seed, 1 the end. Groups: the seed's domains and the experts'.
    """
    ends = {name: ckpt.load(folder / f"{name}.pt") for name in ("seed", *EXPERTS, "soup")}
    seed, model = ends.pop("seed"), ckpt.build(ckpt.load(folder / "seed.pt"))
    T = seed["config"]["block_size"]
    windows = {d: first_windows(text_of(data, d, "val", T), T, n_windows) for d in DOMAINS}
    lines = {"knowledge": {}, "experts": {}}
    for name, end in ends.items():
        for place in (i / 8 for i in range(-2, 13)):
            with torch.no_grad():
                for key, p in model.state_dict().items():
                    p.copy_(torch.lerp(seed["model"][key], end["model"][key], place))
            losses = {d: validate(model, w, "cpu") for d, w in windows.items()}
            for group, points in lines.items():
                points.setdefault(name, []).append([place, mean(losses[d] for d in GROUPS[group])])
    return lines


def read_text(folder, data, n_tokens=45):
    """For Table 6 what BTX does with text of each domain: {"experts", "texts": {domain: tokens}, "reads": see explore.read}."""
    checkpoint = ckpt.load(folder / "btx.pt")
    model, encoding = ckpt.build(checkpoint), tokenizer.of(checkpoint["tokenizer"], folder / "btx.pt")
    T = min(n_tokens, checkpoint["config"]["block_size"])
    texts = {d: first_windows(text_of(data, d, "val", T), T, 1)[0].tolist() for d in DOMAINS}
    return {"experts": checkpoint["experts"], "texts": texts, "reads": [explore.read(model, encoding, t) for t in texts.values()]}


def table_6(seen, out):
    """Text of each domain coloured by the expert with the largest gate: a picture, and a page; seen: see read_text."""
    encoding, rows = tokenizer.load(), {}
    for (domain, tokens), read in zip(seen["texts"].items(), seen["reads"], strict=True):
        sums = [[sum(layer[i] for layer in gates) for i in range(len(seen["experts"]))] for gates in read["gates"]]
        rows[domain] = [(explore.piece(encoding, t), s.index(max(s))) for t, s in zip(tokens[1:], sums, strict=True)]
    figures.coloured_text(rows, seen["experts"], out / "figures" / "table6.png")
    explore.write(out / "table6.html", encoding, seen["texts"], {"btx": (seen["experts"], seen["reads"])})


def collect(folder, data_dir, out):
    """Write all of one run that the report needs into one file, so that the report needs no checkpoint."""
    data = read_domains(data_dir, DOMAINS)
    file, hard = folder / "paper" / "results.json", folder / "hard" / "results.json"
    file = file if file.exists() else folder / "rivals" / "results.json"
    check_other(out, [file, hard])
    numbers = read_results(file, WANTED)
    numbers |= {"hard": read_results(hard, ["btx_sample"])["models"] if hard.exists() else {}, "basin": basin(folder, data),
                "text": read_text(folder, data)}
    text = json.dumps(json.loads(json.dumps(numbers), parse_float=lambda digits: round(float(digits), 5)))
    write_text(out, text)
    print(f"wrote {out}")


def read_results(file, wanted):
    """A results.json that evaluate.py wrote, with the models wanted. Raises BadInput."""
    if not file.exists():
        raise BadInput(f"{file}: no such file; see experiments.mk for what writes it")
    numbers = read_json(file)
    types = {"accuracy": dict, "loss": dict, "tokens": (int, float), "flops": (int, float)}
    if not has(numbers, {"models": dict, "machine": dict}) or not all(has(m, types) for m in numbers["models"].values()):
        raise BadInput(f"{file}: not what evaluate.py writes")
    if missing := sorted({*wanted} - numbers["models"].keys()):
        raise BadInput(f"{file} lacks {', '.join(missing)}; run make paper")
    return numbers


def main(argv=None):
    settings = parse(Settings, argv)
    folders, out = [Path(folder) for folder in settings.runs], Path(settings.out)
    if not folders:
        raise BadInput("name the files of the runs, as in: python -m experiments.paper results/seed0.json results/seed1.json")
    if len({folder.name for folder in folders}) < len(folders):
        raise BadInput(f"{', '.join(settings.runs)}: two folders have one name, which stands for the run; rename one")
    if settings.collect:
        for folder in folders:
            prepare_output(out / f"{folder.name}.json")
            collect(folder, settings.data_dir, out / f"{folder.name}.json")
        return
    runs = [read_results(file, WANTED) for file in folders]
    if not all(has(numbers, {"hard": dict, "basin": dict, "text": dict}) for numbers in runs):
        raise BadInput(f"{', '.join(settings.runs)}: name the files that --collect wrote")
    prepare_output(out / "figures" / "table6.png")
    with reading(", ".join(settings.runs), "reported"):
        r = Results(runs)
        draw(r, out / "figures")
        table_6(runs[0]["text"], out)
        made = tables(r)
        words = {"table": made.get, "n": lambda: str(len(runs)),
                 "where": lambda: "; ".join(dict.fromkeys(where(run["machine"]) for run in runs)),
                 "of": lambda model, key: cell(r.of(model, *(["accuracy"] if key in COLUMNS else []), key), 100),
                 "minus": lambda a, b, group: points(r.deltas(a, b, group))}
        template = (Path(__file__).parent / "paper.md").read_text()
        text = re.sub(r"\[\[(\w+)\s*([\w\s]*)\]\]", lambda m: words[m[1]](*m[2].split()), template)
        write_text(out / "README.md", text)
    print(made["order"])
    print(f"\nreport: {out}/README.md   figures: {out}/figures/*.png")


if __name__ == "__main__":
    run(main)
