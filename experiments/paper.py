"""Write the report: the paper's tables and figures from our runs, beside the paper's own numbers.

    python -m experiments.paper --collect out/seed0 --out results/seed0.json
    python -m experiments.paper results/seed0.json results/seed1.json --out results

The first gathers what the report needs of one run. The second writes README.md, figures/ and table6.html from such
files. Text and tables are those of paper.md. There [[loss btx]] stands for Report.loss("btx"), and with [[loss btx with
later]] only the runs that have both models count.
"""
import json
import re
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch

from cli import BadInput, make_parser, replacing, run
from data.loader import first_windows, load_domains
from data.task import DOMAINS
from data.tokenizer import load_tokenizer
from experiments import paper_figures
from experiments.paired import holm, points, spread, t_test
from support import explore, figures
from support.checkpoint import build_model, load_checkpoint

EXPERTS = ("math", "code", "wiki")
COLUMNS = (*DOMAINS, "switch")
GROUPS = {"all": DOMAINS, "knowledge": ("general", "trivia"), "experts": EXPERTS, "with_switch": COLUMNS}

COMPUTE = {  # the models of Figure 2, left
    "seed": "seed", "large": "larger dense model, from scratch", "dense_dm": "Dense (DM)",
    "su_dm": "sparse upcycling (DM)", "btm_tfidf_top2": "BTM Top-2, tf-idf", "btm_bayes_top2": "BTM Top-2, Bayes",
    "btx_sample": "BTX Sample Top-1", "btx": "BTX Top-2", "su_cm_flops": "sparse upcycling (CM), equal FLOPs",
    "su_cm_paper": "sparse upcycling (CM), the paper's share of tokens"}
NORMALISED = {  # those of Figure 2, right
    "seed": "seed", "math": "math", "code": "code", "wiki": "wiki", "large": "larger dense", "dense_dm": "Dense (DM)",
    "su_dm": "upcycling (DM)", "btm_tfidf_top2": "BTM Top-2, tf-idf", "btx": "BTX Top-2"}
BALANCE = {"btx": "BTX Top-2", "btx_nolb": "BTX Top-2, unbalanced"}  # those of Figures 3 to 5
ROUTERS = {"switch_short": "Switch (short)", "sample_short": "Sample Top-1 (short)", "top2_short": "Top-2 (short)",
           "soft_short": "Soft (short)"}  # those of Figure 6
EPSILONS = ("eps-1e-8", "eps-1e-5", "eps-1e-4")  # keys of averaging.json
MAIN = {"btx", "dense_dm", "su_dm"}  # registered.md: their rows need ten seeds, other registered rows five
PATHS = {  # a method's models at four points: seed, phase 1, mixed, end
    "BTX": ("seed", None, "btx_mixed", "btx"), "Dense (DM)": ("seed", "dense_dm_1", None, "dense_dm"),
    "sparse upcycling (DM)": ("seed", "su_dm_1", None, "su_dm")}


@torch.no_grad()
def measure_basin(folder, domains, n_windows=8):
    """The loss from the seed (place 0) to each branch and to the soup (1): {group: {end: [[place, loss], ...]}}."""
    seed = load_checkpoint(folder / "seed.pt")
    model = build_model(seed)
    windows = {name: first_windows(domains[name].val, model.config.block_size, n_windows) for name in DOMAINS}
    lines = {"knowledge": {}, "experts": {}}
    for name in (*EXPERTS, "soup"):
        end = load_checkpoint(folder / f"{name}.pt")["state"]
        for place in (i / 8 for i in range(-2, 13)):
            model.load_state_dict({key: torch.lerp(p, end[key], place) for key, p in seed["state"].items()})
            losses = {domain: model(rows[:, :-1], rows[:, 1:])[1].item() for domain, rows in windows.items()}
            for group, line in lines.items():
                line.setdefault(name, []).append([place, mean(losses[domain] for domain in GROUPS[group])])
    return lines


def read_gates(folder, domains, n_tokens=45):
    """What BTX does with a text of each domain, for Table 6."""
    btx = load_checkpoint(folder / "btx.pt")
    model, tokenizer = build_model(btx), load_tokenizer(btx["spec"])
    T = min(n_tokens, model.config.block_size)
    texts = {name: first_windows(domains[name].val, T, 1)[0].tolist() for name in DOMAINS}
    reads = [explore.trace_text(model, tokenizer, text) for text in texts.values()]
    return {"experts": btx["experts"], "texts": texts, "reads": reads}


def collect(folder, data_dir):
    """Gather one run: its scores, the losses between seed and branches, and a text by expert."""
    found = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/results.json")}
    if "rivals" not in found:
        raise BadInput(f"{folder}: no rivals/results.json in it; run make rivals")
    gathered = found["rivals"]
    for part in found.keys() & {"paper", "beyond"}:  # not for every seed
        gathered["models"] |= found[part]["models"]
        gathered["routing"] |= found[part]["routing"]
    for how in found.keys() & {"drawn", "mean_gate"}:  # experiments/sample_top1.py
        gathered["models"][f"btx_sample_{how}"] = found[how]["models"]["btx_sample"]
    if (folder / "averaging.json").exists():
        gathered["averaging"] = json.loads((folder / "averaging.json").read_text())
    domains = load_domains(data_dir, DOMAINS)
    gathered |= {"basin": measure_basin(folder, domains), "text": read_gates(folder, domains)}
    return json.loads(json.dumps(gathered), parse_float=lambda digits: round(float(digits), 5))  # 5 digits are enough


class Report(NamedTuple):
    """The results of several runs. The methods of the second half give what [[...]] stands for."""

    runs: list
    template: str = ""  # the page, for methods that count its rows

    def having(self, *names):
        """A report on the runs that have all these models. Only models of the same seeds should be compared."""
        return Report([run for run in self.runs if run["models"].keys() >= {*names}], self.template)

    def results(self, name):
        """A model's scores and costs in each run that has it, as evaluate.py wrote them."""
        found = self.having(name).runs
        if not found:
            raise BadInput(f"no run has {name} and what it is compared with; run make paper")
        return [run["models"][name] for run in found]

    def scores_in(self, name, group, key="accuracy"):
        """A model's accuracy (or "loss") in each run, the mean over GROUPS[group] or over columns, as in math+code."""
        columns = GROUPS.get(group) or group.split("+")
        return [mean(result[key][column] for column in columns) for result in self.results(name)]

    def differences(self, a, b, group, key="accuracy"):
        """a's accuracy (or "loss") minus b's, in each run that has both."""
        both = self.having(a, b)
        return [x - y for x, y in zip(both.scores_in(a, group, key), both.scores_in(b, group, key), strict=True)]

    def costs(self, name, key):
        """A model's cost in each run, without the seed's, as the paper counts it. The larger model has no seed."""
        costs = [result[key] for result in self.results(name)]
        if name == "large":
            return costs
        seeds = self.having(name).results("seed")
        return [cost - seed[key] for cost, seed in zip(costs, seeds, strict=True)]

    def is_tested(self, table, a, b):
        """Whether two models were run with as many seeds as registered; what is explored needs two."""
        needed = 2
        if table == "registered":
            needed = 10 if {a, b} <= MAIN else 5
        return len(self.having(a, b).runs) >= needed

    def rows(self, call):
        """The arguments of every [[call ...]] in the page."""
        return re.findall(rf"\[\[{call} (.+?)\]\]", self.template)

    def list_tested(self, table):
        """The hypotheses (a, ">", b, group) of a table that were run with enough seeds."""
        tested = []
        for words in self.rows(f"judge {table}"):
            a, sign, b, group = words.split()
            if sign == ">" and self.is_tested(table, a, b):
                tested.append((a, sign, b, group))
        return tested

    def corrected_p(self, table, hypothesis):
        """p of a hypothesis (a, ">", b, group), corrected for all of its table that were run."""
        tested = self.list_tested(table)
        p_values = [t_test(self.differences(a, b, group))[0] for a, _, b, group in tested]
        return holm(p_values)[tested.index(hypothesis)]

    def fill(self, template):
        """Replace each [[method argument ...]] by what that method returns."""
        def call(match):
            words, _, other = match[1].partition(" with ")
            method, *arguments = words.split()
            report = self.having(other) if other else self
            return getattr(report, method)(*arguments)
        return re.sub(r"\[\[(.+?)\]\]", call, template)

    # ---- what stands in [[...]]

    def seeds(self):
        return str(len(self.runs))

    def n_tested(self, table):
        """How many hypotheses of a table Holm's correction counts."""
        return str(len(self.list_tested(table)))

    def machines(self):
        """Where, and with which code, the numbers were made."""
        sentence = "{cores} cores of {cpu}, torch {torch}, commit {commit}"
        return "; ".join(dict.fromkeys(sentence.format(**run["machine"]) for run in self.runs))

    def accuracy(self, name, column):
        return spread(self.scores_in(name, column), 100)

    def scores(self, name):
        """Cells: the accuracy in each column, and the mean over the domains."""
        return " | ".join(self.accuracy(name, column) for column in (*COLUMNS, "all"))

    def n_seeds(self, name):
        return str(len(self.results(name)))

    def loss(self, name):
        return spread(self.scores_in(name, "all", "loss"), digits=3)

    def minus(self, a, b, group, key="accuracy"):
        return points(self.differences(a, b, group, key), digits=1 if key == "accuracy" else 2)

    def gap(self, a, b, group):
        """How many points a is ahead of b, as a whole number."""
        return f"{100 * mean(self.differences(a, b, group)):.0f}"

    def part(self, a, b, c, group):
        """How much of a's lead over c does b have? In %."""
        all_three = self.having(a, b, c)
        lead = mean(all_three.differences(a, c, group))
        return f"{100 * mean(all_three.differences(b, c, group)) / lead:.0f}" if lead else "0"

    def count(self, table, verdict):
        """How many rows of a table have this verdict: yes, open or no."""
        rows = self.rows(f"judge {table}")
        verdicts = [self.judge(table, *row.split()).split(" | ")[-1].strip("*") for row in rows]
        return str(verdicts.count(verdict))

    def count_below(self, limit, column, *names):
        """In how many runs all these models are below `limit` % in a column."""
        accuracies = zip(*(self.scores_in(name, column) for name in names), strict=True)
        return str(sum(100 * max(accuracy) < float(limit) for accuracy in accuracies))

    def averaging_cost(self, group, eps):
        """How much the loss of the whole home experts grows when this group of their tensors is averaged."""
        runs = [run["averaging"][eps] for run in self.runs if "averaging" in run]
        costs = [mean(run[group]["whole"][d] - run["nothing"]["whole"][d] for d in EXPERTS) for run in runs]
        return f"{mean(costs):.2f}"

    def judge(self, table, a, sign, b, judged):
        """Cells: the difference over each group, the judged one bold, in loss; runs, p, verdict."""
        cells = {group: self.minus(a, b, group) for group in GROUPS}
        cells[judged] = f"**{cells[judged]}**"
        differences = self.differences(a, b, judged)
        p, verdict = "", "not tested"
        if self.is_tested(table, a, b) and sign == "≈":
            verdict = decide_equal(differences)
        elif self.is_tested(table, a, b):
            corrected = self.corrected_p(table, (a, sign, b, judged))
            p, verdict = f"{corrected:.3f}", decide_greater(differences, corrected)
        losses = [self.minus(a, b, group, "loss") for group in ("all", "knowledge", "experts")]
        return " | ".join([*cells.values(), *losses, str(len(differences)), p, verdict])

    def cost(self, name):
        """Cells: tokens, FLOPs, those one after another, share of MoE training, active of all parameters."""
        results = self.results(name)
        tokens, flops = mean(self.costs(name, "tokens")) / 1e6, mean(self.costs(name, "flops")) / 1e12
        longest = flops
        if name.startswith("btx"):  # two of its three branches are trained beside the first
            longest -= 2 * mean(self.costs("math", "flops")) / 1e12
        share = results[0]["moe_share"]
        share = "" if share is None else f"{100 * share:.0f} %"
        active, params = results[0]["active_params"] / 1e3, results[0]["params"] / 1e3  # the same in all runs
        return f"{tokens:.1f} | {flops:.1f} | {longest:.1f} | {share} | {active:.0f} of {params:.0f}"

    def averaging(self, group, *readers):
        """Cells: the loss in the experts' domains if this group of tensors is averaged, by reader and epsilon."""
        runs = [run["averaging"] for run in self.runs if "averaging" in run]
        cells = []
        for reader in readers:  # "whole", "oracle" or "random": see averaging.py
            for eps in EPSILONS:
                losses = [mean(run[eps][group][reader][d] for d in EXPERTS) for run in runs]
                cells.append(spread(losses, digits=3))
        return " | ".join(cells)

    def condition(self, what, smallest, largest):
        """Cells: what was measured, and whether it is within bounds. See registered.md."""
        def percent(name, *domains):
            return [100 * mean(self.scores_in(name, domain)) for domain in domains]

        seed, btx = self.results("seed")[0], self.results("btx")[0]
        dense_token = seed["flops"] / seed["tokens"]
        moe_token = self.costs("su_dm", "flops")[0] / self.costs("su_dm", "tokens")[0]
        feed_forwards = self.results("large")[0]["params"] - seed["params"]  # `large` has them twice as wide
        finetuned = [percent(name, *DOMAINS) for name in ("btx", "dense_dm", "su_dm")]
        template, values = {
            "average": ("{:+.1f}", [100 * mean(self.differences("soup", "seed", "all"))]),
            "known": ("{:.1f} %", percent("seed", *GROUPS["knowledge"])),
            "untaught": ("{:.1f} %", percent("seed", *EXPERTS)),
            "home": ("{:.1f} %", [*percent("math", "math"), *percent("code", "code"), *percent("wiki", "wiki")]),
            "lowest": ("{:.1f} %", [min(accuracies) for accuracies in zip(*finetuned, strict=True)]),
            "moe_share": ("{:.1f} %", [100 * mean(result["moe_share"] for result in self.results("btx"))]),
            "moe_token": ("{:.2f}", [moe_token / dense_token]),
            "feed_forwards": ("{:.1f} %", [100 * feed_forwards / seed["params"]]),
            "pflop": ("{:.4f}", [btx["flops"] / 1e15])}[what]
        measured = ", ".join(template.format(value) for value in values)
        holds = float(smallest) <= min(values) and max(values) <= float(largest)
        verdict = "yes" if holds else "**no**"
        return f"{measured} | {verdict}"


def decide_greater(differences, p):
    """a > b holds if the difference is significant, and at least one point."""
    if p >= 0.05 or abs(mean(differences)) < 0.01:
        return "open"
    return "yes" if mean(differences) > 0 else "**no**"


def decide_equal(differences):
    """a ≈ b holds if the whole confidence interval is within three points."""
    size, half = abs(mean(differences)), t_test(differences)[1]
    if size + half <= 0.03:
        return "yes"
    return "**no**" if size - half > 0.03 else "open"


def draw(report, out):
    """Draw every figure but Table 6's. Those of routing and of the basin are of the first run that has all models."""
    alike = report.having(*COMPUTE)  # models of the same seeds
    first = alike.runs[0]
    circles = {}
    for name, label in COMPUTE.items():
        active = report.results(name)[0]["active_params"]
        circles[label] = mean(report.costs(name, "flops")), report.scores_in(name, "all"), active
    paper_figures.compute(circles, out / "figure2_left.png", top="BTX Top-2")
    scores = {}
    for name, label in NORMALISED.items():
        scores[label] = [mean(alike.scores_in(name, column)) for column in COLUMNS]
    paper_figures.normalised(scores, COLUMNS, out / "figure2_right.png")
    balance = {label: first["routing"][name] for name, label in BALANCE.items()}
    figures.routing(balance, out / "figure3_4.png")
    paper_figures.probabilities(balance, out / "figure5.png")
    figures.routing({label: first["routing"][name] for name, label in ROUTERS.items()}, out / "figure6.png")
    titles = {"knowledge": "general and trivia", "experts": "math, code and wiki"}
    paper_figures.basin({titles[group]: lines for group, lines in first["basin"].items()}, out / "basin.png")
    averaged = [run["averaging"] for run in report.runs if "averaging" in run]
    paper_figures.averaging(averaged, EPSILONS, EXPERTS, out / "averaging.png")
    experts, paths = {}, {method: {} for method in PATHS}
    for domain in DOMAINS:
        experts[domain] = {name: mean(report.scores_in(name, domain)) for name in EXPERTS}
        for method, names in PATHS.items():
            paths[method][domain] = [report.scores_in(name, domain) if name else None for name in names]
    paper_figures.forgetting(paths, experts, out / "forgetting.png")


def write_table_6(text, out):
    """Draw texts on the colours of the experts with the largest gates, and write the page. text: see read_gates."""
    tokenizer = load_tokenizer()
    rows = {domain: [] for domain in text["texts"]}
    for (domain, tokens), read in zip(text["texts"].items(), text["reads"], strict=True):
        for token, gates in zip(tokens[1:], read["gates"], strict=True):  # gates: (n_layer, N)
            sums = [sum(layers) for layers in zip(*gates, strict=True)]  # (N,)
            rows[domain].append((explore.piece(tokenizer, token), sums.index(max(sums))))
    figures.coloured_text([[row] for row in rows.items()], text["experts"], out / "figures" / "table6.png")
    explore.write_page(out / "table6.html", tokenizer, text["texts"], {"btx": (text["experts"], text["reads"])})


def read_run(path):
    """Read the results of a run, as evaluate.py or --collect wrote them. Raises BadInput."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        raise BadInput(f"{path}: no results of a run in it; make help says what writes them") from None


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="files that --collect wrote; with --collect: a run's folder")
    parser.add_argument("--collect", action="store_true", help="gather what the report needs of one run")
    parser.add_argument("--data_dir", default="data/bin", help="folder written by data.prepare (default: %(default)s)")
    parser.add_argument("--out", type=Path, default="results", help="what to write, a folder; with --collect: a file")
    args = parser.parse_args(argv)
    if args.collect:
        with replacing(args.out) as part:
            part.write_text(json.dumps(collect(args.runs[0], args.data_dir)))
        return
    template = (Path(__file__).parent / "paper.md").read_text(encoding="utf-8")
    report = Report([read_run(path) for path in args.runs], template)
    with replacing(args.out / "README.md") as part:
        part.write_text(report.fill(template), encoding="utf-8")
    draw(report, args.out / "figures")
    write_table_6(report.runs[0]["text"], args.out)
    print(f"report: {args.out}/README.md   figures: {args.out}/figures/*.png")


if __name__ == "__main__":
    run(main)
