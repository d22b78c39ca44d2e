"""The paper's tables and figures from our runs, beside the paper's own numbers: what `make paper` ends with.

    python -m experiments.paper out/paper/seed0 out/paper/seed1 out/paper/seed2 --out results

Reads each folder's results.json and hard/results.json (written by evaluate.py), and the first one's btx.pt for Table 6. Writes
README.md, one JSON for each run, and figures/. What the models are is said in paper.mk.
"""
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from data import tokenizer
from data.loader import first_windows
from experiments.summarise import DOMAINS, cell, table
from support import checkpoint as ckpt
from support import explore, figures
from support.files import prepare_output, read_json, write_text
from support.settings import BadInput, option, parse, run

# ---- the paper's numbers (arXiv 2403.07816); rows are named as in paper.mk ------------------------------------------------

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
    "btx": ("533B", 926.1, "23 %", 47.9), "su_cm_time": ("252B", 1007.1, "100 %", 47.3), "su_cm_flops": None,
    "su_cm_elapsed": None, "su_dm": None, "dense_dm": None, "btx_sample": None, "large": None}
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
    "large": "larger dense model, from scratch", "dense_dm": "Dense (DM)", "su_dm": "Sparse upcycling (DM)",
    "su_cm_time": "Sparse upcycling (CM), equal time", "su_cm_flops": "Sparse upcycling (CM), equal FLOPs",
    "su_cm_elapsed": "Sparse upcycling (CM), equal elapsed time",
    "btm_tfidf_top1": "BTM Top-1, tf-idf", "btm_tfidf_top2": "BTM Top-2, tf-idf", "btm_bayes_top1": "BTM Top-1, Bayes",
    "btm_bayes_top2": "BTM Top-2, Bayes", "btx_sample": "BTX Sample Top-1", "btx": "BTX Top-2",
    "btx_nolb": "BTX Top-2, unbalanced",
    "switch": "Switch", "sample": "Sample Top-1", "top2": "Top-2", "soft": "Soft", "lb": "Top-2, balanced",
    "frozen": "Top-2, frozen experts", "blend": "blending", "hidden": "Top-2, hidden start",
    "split2of8": "split, top-2 of 8", "split4of8": "split, top-4 of 8"}


@dataclass
class Settings:
    runs: list = option([], "folders of make paper, one for each seed", positional=True)
    grid: bool = option(False, "the folders are those of make grid: write grid.md alone")
    data_dir: str = option("data/bin/paper", "folder written by data.prepare, for Table 6")
    out: str = option("results", "folder to write to")


class Results:
    """The numbers of all runs, by model, and the tables' cells made of them."""

    def __init__(self, runs):
        self.runs = runs

    def of(self, model, key, domain=None):
        """A value for each run; key "mean" is the mean accuracy over the domains."""
        models = [r["models"][model] for r in self.runs]
        if key == "mean":
            return [mean(m["accuracy"][d] for d in DOMAINS) for m in models]
        if key == "loss":
            return [mean(m["loss"][d] for d in DOMAINS) for m in models]
        return [m[key] if domain is None else m[key][domain] for m in models]

    def since_seed(self, model, key):
        """A cost without the seed's own, as the paper counts; all of it for the larger model, which has no seed."""
        return [c - s for c, s in zip(self.of(model, key), [0] * len(self.runs) if model == "large" else self.of("seed", key),
                                      strict=True)]

    def scores(self, model):
        """Accuracy by domain, mean and loss, as text."""
        return [*(cell(self.of(model, "accuracy", d), 100) for d in DOMAINS), cell(self.of(model, "mean"), 100),
                cell(self.of(model, "loss"), digits=3)]

    def difference(self, a, b, key="mean"):
        """Mean and standard error of a minus b, run by run; the error is None for one run."""
        deltas = [x - y for x, y in zip(self.of(a, key), self.of(b, key), strict=True)]
        return mean(deltas), stdev(deltas) / len(deltas) ** 0.5 if len(deltas) > 1 else None

    def verdict(self, a, sign, b):
        """One line: does a > b (or a ~ b, about equal) hold in the mean score, and is the difference beyond its noise?"""
        delta, error = self.difference(a, b)
        clear = error is None or abs(delta) > 2 * error
        if sign == "~":
            word = "yes" if abs(delta) <= 0.03 else "**no**" if clear else "not clearly"
        else:
            word = ("yes" if delta > 0 else "**no**") if clear else "not clearly"
        noise = "" if error is None else f" ± {100 * error:.1f}"
        loss = self.difference(b, a, "loss")[0]
        return [f"{full(a)} {sign.replace('~', '≈')} {full(b)}", f"{100 * delta:+.1f}{noise}", f"{loss:+.3f}", word]


def full(model):
    """A model's name for people: top2_short is `Top-2 (short)`."""
    base, _, length = model.rpartition("_")
    return NAMES.get(model) or f"{NAMES[base]} ({length})"


def cells(values, digits=1):
    return ["" if v is None else f"{v:.{digits}f}" if isinstance(v, float) else str(v) for v in values]


ORDER = [  # what the paper's tables say of these models: (better, sign, worse)
    ("btx", ">", "su_dm"), ("su_dm", ">", "dense_dm"), ("btx", ">", "dense_dm"), ("btx", ">", "large"),
    ("btx", ">", "btm_tfidf_top2"), ("btm_tfidf_top2", ">", "btm_tfidf_top1"), ("btx", ">", "su_cm_time"),
    ("btx", ">", "btx_sample"), ("soft_short", ">", "top2_short"), ("top2_short", ">", "sample_short"),
    ("sample_short", ">", "switch_short"), ("soft_medium", ">", "top2_medium"), ("top2_medium", ">", "sample_medium"),
    ("lb_short", "~", "top2_short"), ("frozen_short", "~", "top2_short"), ("split4of8_short", "~", "top2_short"),
    ("split4of8_short", ">", "split2of8_short"), ("top2_short", ">", "blend_short")]
MORE = [  # and what it does not say: a stronger BTM, equal FLOPs, and the router's start
    ("btx", ">", "btm_bayes_top2"), ("btm_bayes_top2", ">", "btm_tfidf_top2"), ("btx", ">", "su_cm_flops"),
    ("btx", ">", "su_cm_elapsed"),
    ("btx", ">", "btx_nolb"), ("hidden_short", ">", "top2_short")]


def tables(r):
    """Every table of the report, by name, as Markdown."""
    ours = [*DOMAINS, "mean", "loss"]
    out = {"order": table(["the paper's ordering", "mean score, points", "loss, nats less", "holds here"],
                          [r.verdict(*line) for line in ORDER])}
    out["more"] = table(["not in the paper", "mean score, points", "loss, nats less", "holds here"],
                        [r.verdict(*line) for line in MORE])
    out["1"] = table(["model", *ours[:-2], "paper: GSM8K", "MATH", "HumanEval", "MBPP", "NQ", "TriviaQA", "MMLU"],
                     [[full(m), *r.scores(m)[:-2], *cells(paper)] for m, paper in TABLE_1.items()])
    out["2"] = table(["model", *ours, "paper: math", "code", "knowledge", "reasoning", "MMLU", "average"],
                     [[full(m), *r.scores(m), *cells(paper or [None] * 6)] for m, paper in TABLE_2.items()])
    rows = []
    for m, paper in TABLE_3.items():
        share = r.of(m, "moe_share")[0]
        rows.append([full(m), f"{mean(r.since_seed(m, 'tokens')) / 1e6:.1f}", f"{mean(r.since_seed(m, 'flops')) / 1e12:.1f}",
                     cell(r.since_seed(m, "seconds"), digits=0), cell(r.since_seed(m, "elapsed"), digits=0),
                     "" if share is None else f"{100 * share:.0f} %", f"{mean(r.of(m, 'active_params')) / 1e3:.0f} of "
                     f"{mean(r.of(m, 'params')) / 1e3:.0f}", cell(r.of(m, "mean"), 100), *cells(paper or [None] * 4)])
    out["3"] = table(["model", "tokens, M", "TFLOP", "device seconds", "elapsed", "in MoE training", "active of all, k", "mean",
                      "paper: tokens", "GPU-days", "in MoE training", "average"], rows)
    out["4"] = table(["routing", "short", "medium", "long", "paper: 10B", "40B", "80B (Sample Top-1: 160B)"],
                     [[full(m), *("" if name is None else cell(r.of(name, "mean"), 100) for name in line[::2]),
                       *cells(line[1::2])] for m, line in TABLE_4.items()])
    out["4b"] = table(["routing", "short", "medium", "long"],
                      [[full(m), *("" if name is None else cell(r.of(name, "loss"), digits=3) for name in line[::2])]
                       for m, line in TABLE_4.items()])
    hard = Results([{"models": run["hard"]} for run in r.runs])
    out["hard"] = table(["BTX Sample Top-1 in evaluation", *ours],
                        [["the likeliest expert (as in all other tables)", *r.scores("btx_sample")],
                         ["an expert drawn from the router (the paper's)", *hard.scores("btx_sample")]])
    out["5"] = table(["model", *ours, "paper: GSM8K", "HumanEval", "NQ", "ARC-c", "MMLU", "average"],
                     [[full(m).removesuffix(" (short)"), *r.scores(m), *cells(paper)] for m, paper in TABLE_5.items()])
    out["hidden"] = table(["router rows", "finetuning", *ours],
                          [["random", "none", *r.scores("top2_mixed")], ["hidden", "none", *r.scores("hidden_mixed")],
                           ["random", "short", *r.scores("top2_short")], ["hidden", "short", *r.scores("hidden_short")]])
    return out


GRID = """# Models at several learning rates

One seed, mean accuracy (loss) at each peak learning rate, the best in bold, in runs a little over half as long as the report's
(600 steps a branch, 900 of finetuning); from these the rates in [paper.mk](../experiments/paper.mk) were chosen, on the test
tasks of the first of the report's seeds. Where two are level, one of them was taken; the short runs have the rate of the long
ones. Dense
(DM) and sparse upcycling have one rate for both of their phases, BTX one for the branches (second table) and one for the
finetuning.

Some best rates lie at the edge of what was tried, where a better one may lie beyond: the lowest of Dense (DM), of sparse
upcycling and of the math expert, the highest of the larger model. The math expert is better at a rate that was not chosen, since
BTX is not.

{rates}

The branches' rate, with the finetuning at the recipe's: each expert at home, and BTX made of them.

{branches}

`make grid` repeats it ({where}).
"""


def grid(folders):
    """The report of `make grid`; folders are named RATE or branch-RATE."""
    results = {folder.name: read_json(folder / "some" / "results.json") for folder in folders}
    texts = {}
    for kind, prefix in (("rates", ""), ("branches", "branch-")):
        names = [n for n in results if n.startswith("branch-") == bool(prefix)]
        rows = []
        for model in dict.fromkeys(model for name in names for model in results[name]["models"]):
            found = {name: results[name]["models"][model] for name in names if model in results[name]["models"]}
            home = [model] if model in DOMAINS else DOMAINS  # an expert's own domain
            scores = {name: mean(m["accuracy"][d] for d in home) for name, m in found.items()}
            best = max(scores.values())
            cells = []
            for name in names:
                mark = "**" if scores.get(name) == best else ""
                cells.append(f"{mark}{100 * scores[name]:.1f}{mark} ({mean(found[name]['loss'][d] for d in home):.3f})"
                             if name in found else "")
            rows.append([full(model), *cells])
        texts[kind] = table(["model", *(name.removeprefix(prefix) for name in names)], rows)
    return GRID.format(where=where(next(iter(results.values()))["machine"]), **texts)


def where(machine):
    return f"{machine['cores']} cores of {machine['cpu']}, torch {machine['torch']}, commit {machine['commit']}"


def draw(r, out):
    """All figures but Table 6's."""
    main = [m for m in TABLE_2 if m not in ("soup", "btm_tfidf_top1", "btm_bayes_top1", "btx_nolb")]
    main += ["su_cm_time", "su_cm_flops", "su_cm_elapsed"]
    figures.compute({full(m): (mean(r.since_seed(m, "flops")), r.of(m, "mean"), mean(r.of(m, "active_params"))) for m in main},
                    out / "figure2_left.png")
    short = {"seed": "seed", "math": "math", "code": "code", "wiki": "wiki", "large": "larger dense", "dense_dm": "Dense (DM)",
             "su_dm": "upcycling (DM)", "btm_tfidf_top2": "BTM Top-2, tf-idf", "btx": "BTX Top-2"}
    figures.normalised({name: [mean(r.of(m, "accuracy", d)) for d in DOMAINS] for m, name in short.items()}, DOMAINS,
                       out / "figure2_right.png")
    routing = r.runs[0]["routing"]
    balanced = {"BTX Top-2": routing["btx"], "BTX Top-2, unbalanced": routing["btx_nolb"]}
    figures.routing(balanced, out / "figure3_4.png")
    figures.routing({full(f"{m}_short"): routing[f"{m}_short"] for m in TABLE_4}, out / "figure6.png")
    figures.probabilities(balanced, out / "figure5.png")


def table_6(folder, data_dir, out, n_tokens=45):
    """Text of each domain coloured by the expert with the largest gate: a picture, and a page."""
    checkpoint = ckpt.load(folder / "btx.pt")
    model, encoding = ckpt.build(checkpoint), tokenizer.of(checkpoint["tokenizer"], folder / "btx.pt")
    T = min(n_tokens, checkpoint["config"]["block_size"])
    texts = {domain: first_windows(data_dir, domain, T, 1)[0].tolist() for domain in ("general", "math", "code", "wiki")}
    reads = [explore.read(model, encoding, tokens) for tokens in texts.values()]
    rows = {}
    for (domain, tokens), what in zip(texts.items(), reads, strict=True):
        sums = [[sum(layer[i] for layer in gates) for i in range(len(checkpoint["experts"]))] for gates in what["gates"]]
        rows[domain] = [(explore.piece(encoding, t), s.index(max(s))) for t, s in zip(tokens[1:], sums, strict=True)]
    figures.coloured_text(rows, checkpoint["experts"], out / "figures" / "table6.png")
    explore.write(out / "table6.html", encoding, texts, {"btx": (checkpoint["experts"], reads)})


def main(argv=None):
    settings = parse(Settings, argv)
    if not settings.runs:
        raise BadInput("name the folders of the runs, as in: python -m experiments.paper out/paper/seed0 out/paper/seed1")
    runs, out = [], Path(settings.out)
    if settings.grid:
        for folder in map(Path, settings.runs):
            if not (folder / "some" / "results.json").exists():
                raise BadInput(f"{folder}/some/results.json: no such file; make grid writes it")
        prepare_output(out / "grid.md")
        text = grid([Path(folder) for folder in settings.runs])
        write_text(out / "grid.md", text)
        print(text)
        return
    for folder in map(Path, settings.runs):
        for file in (folder / "results.json", folder / "hard" / "results.json"):
            if not file.exists():
                raise BadInput(f"{file}: no such file; make paper writes it")
        runs.append(read_json(folder / "results.json"))
        runs[-1]["hard"] = read_json(folder / "hard" / "results.json")["models"]
    ordered = {model for line in ORDER + MORE for model in line[::2]}
    needed = {*TABLE_1, *TABLE_2, *TABLE_3, *TABLE_5, *ordered, "hidden_mixed", "top2_mixed"}
    for folder, numbers in zip(settings.runs, runs, strict=True):
        if needed - numbers["models"].keys():
            raise BadInput(f"{folder}/results.json lacks {', '.join(sorted(needed - numbers['models'].keys()))}; run make paper")
    prepare_output(out / "figures" / "table6.png")
    r = Results(runs)
    for folder, numbers in zip(settings.runs, runs, strict=True):
        text = json.dumps(json.loads(json.dumps(numbers), parse_float=lambda digits: round(float(digits), 5)))
        write_text(out / f"{Path(folder).name}.json", text)
    draw(r, out / "figures")
    table_6(Path(settings.runs[0]), settings.data_dir, out)
    template = (Path(__file__).parent / "paper.md").read_text()
    for name, text in tables(r).items():
        template = template.replace(f"[[table {name}]]", text)
    template = template.replace("[[n]]", str(len(runs))).replace("[[where]]", where(runs[0]["machine"]))
    write_text(out / "README.md", template)
    print(tables(r)["order"])
    print(f"\nreport: {out}/README.md   figures: {out}/figures/*.png")


if __name__ == "__main__":
    run(main)
