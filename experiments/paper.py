"""Write the report: the paper's tables and figures from our runs, beside the paper's own numbers.

    python -m experiments.paper results/seed0.json results/seed1.json --out results

Reads one file for each seed, written by experiments.collect. Writes README.md, figures/ and table6.html into --out. Text and
tables are those of paper.md. There [[loss btx]] stands for Report.loss("btx"), and so on; [[loss btx with later]] counts only the
runs that have both models. A table's row whose model no run has is left out.
"""
import json
import re
from pathlib import Path
from statistics import mean

from data import tokenizer
from data.common import BadInput, make_parser, replacing, run
from data.task import DOMAINS, over_domains
from experiments.paired import half_width, holm, p_value, points, spread
from support import explore, figures

TEMPLATE = (Path(__file__).parent / "paper.md").read_text()
EXPERTS = ("math", "code", "wiki")
COLUMNS = (*DOMAINS, "switch")
GROUPS = {"all": DOMAINS, "knowledge": ("general", "trivia"), "experts": EXPERTS, "with_switch": COLUMNS}  # of a mean
SMALLEST = 0.01  # a smaller difference does not count
MARGIN = 0.03  # differences within it are about equal

COMPUTE = {  # the models of Figure 2, left
    "seed": "seed", "large": "larger dense model, from scratch", "dense_dm": "Dense (DM)", "su_dm": "sparse upcycling (DM)",
    "btm_tfidf_top2": "BTM Top-2, tf-idf", "btm_bayes_top2": "BTM Top-2, Bayes", "btx_sample": "BTX Sample Top-1",
    "btx": "BTX Top-2", "su_cm_time": "sparse upcycling (CM), equal device seconds",
    "su_cm_paper": "sparse upcycling (CM), the paper's share of tokens", "su_cm_flops": "sparse upcycling (CM), equal FLOPs",
    "su_cm_elapsed": "sparse upcycling (CM), equal elapsed time"}
NORMALISED = {  # those of Figure 2, right
    "seed": "seed", "math": "math", "code": "code", "wiki": "wiki", "large": "larger dense", "dense_dm": "Dense (DM)",
    "su_dm": "upcycling (DM)", "btm_tfidf_top2": "BTM Top-2, tf-idf", "btx": "BTX Top-2"}
BALANCE = {"btx": "BTX Top-2", "btx_nolb": "BTX Top-2, unbalanced"}  # those of Figures 3 to 5
ROUTERS = {  # those of Figure 6
    "switch_short": "Switch (short)", "sample_short": "Sample Top-1 (short)", "top2_short": "Top-2 (short)",
    "soft_short": "Soft (short)"}
STAGES = {  # each method's model at four points: seed, phase 1, mixed, end
    "BTX": ("seed", None, "btx_mixed", "btx"), "Dense (DM)": ("seed", "dense_dm_1", None, "dense_dm"),
    "sparse upcycling (DM)": ("seed", "su_dm_1", None, "su_dm")}


class Missing(BadInput):
    """No run has the model that is asked for."""


class Report:
    """The results of several runs. The methods of the second half give what [[...]] stands for."""

    def __init__(self, runs):
        self.runs = runs

    def having(self, *names):
        """A report on the runs that have all these models. Only models of the same seeds should be compared."""
        return Report([run for run in self.runs if run["models"].keys() >= {*names}])

    def models(self, name):
        """One model's results in each run that has it."""
        found = self.having(name).runs
        if not found:
            raise Missing(f"no run has the model {name}; run make paper")
        return [run["models"][name] for run in found]

    def accuracies(self, name, group):
        """A model's accuracy in each run: the mean over a group of domains, or that of one column."""
        columns = GROUPS.get(group, [group])
        return [mean(model["accuracy"][column] for column in columns) for model in self.models(name)]

    def differences(self, a, b, group):
        """a's accuracy minus b's, in each run that has both."""
        both = self.having(a, b)
        return [x - y for x, y in zip(both.accuracies(a, group), both.accuracies(b, group), strict=True)]

    def costs(self, name, key):
        """A model's cost in each run, without the seed's, as the paper counts it. The larger model has no seed."""
        costs = [model[key] for model in self.models(name)]
        if name == "large":
            return costs
        return [cost - seed[key] for cost, seed in zip(costs, self.having(name).models("seed"), strict=True)]

    def corrected_p(self, hypothesis, family):
        """p of a hypothesis (a, ">", b, group), corrected for all of its family that several runs can answer."""
        tested = [h for h in family if h[1] == ">" and len(self.having(h[0], h[2]).runs) > 1]
        p_values = [p_value(self.differences(a, b, group)) for a, _, b, group in tested]
        return holm(p_values)[tested.index(hypothesis)]

    def judge(self, hypothesis, family):
        """Cells: the difference over each group of domains, the judged one in bold; the number of runs; p; the verdict."""
        a, sign, b, judged = hypothesis
        cells = {group: points(self.differences(a, b, group)) for group in GROUPS}
        cells[judged] = f"**{cells[judged]}**"
        differences = self.differences(a, b, judged)
        if len(differences) == 1:
            p, verdict = "", "one seed"
        elif sign == "≈":
            p, verdict = "", equal_verdict(differences)
        else:
            corrected = self.corrected_p(hypothesis, family)
            p, verdict = f"{corrected:.3f}", greater_verdict(differences, corrected)
        return " | ".join([*cells.values(), str(len(differences)), p, verdict])

    def fill(self, words):
        """The text for [[words]]."""
        words, _, other = words.partition(" with ")
        name, *arguments = words.split()
        report = self.having(arguments[0], other) if other else self
        return getattr(report, name)(*arguments)

    # what stands in [[...]] begins here

    def seeds(self):
        return str(len(self.runs))

    def machines(self):
        return describe_machines(self.runs)

    def accuracy(self, name, column):
        return spread(self.accuracies(name, column), 100)

    def scores(self, name):
        """Cells: the accuracy in each column, and the mean over the domains."""
        return " | ".join(self.accuracy(name, column) for column in (*COLUMNS, "all"))

    def loss(self, name):
        return spread([over_domains(model["loss"]) for model in self.models(name)], digits=3)

    def minus(self, a, b, group):
        return points(self.differences(a, b, group))

    def cost(self, name):
        """Cells: tokens, FLOPs, device seconds, elapsed seconds, the share of MoE training, active of all parameters."""
        models = self.models(name)
        share = "" if models[0]["moe_share"] is None else f"{100 * models[0]['moe_share']:.0f} %"
        active, params = (mean(model[key] for model in models) / 1e3 for key in ("active_params", "params"))
        return " | ".join([f"{mean(self.costs(name, 'tokens')) / 1e6:.1f}", f"{mean(self.costs(name, 'flops')) / 1e12:.1f}",
                           spread(self.costs(name, "seconds"), digits=0), spread(self.costs(name, "elapsed"), digits=0),
                           share, f"{active:.0f} of {params:.0f}"])

    def registered(self, *hypothesis):
        return self.judge(hypothesis, find_family("registered"))

    def explored(self, *hypothesis):
        return self.judge(hypothesis, find_family("explored"))

    def conditions(self):
        """A row for each condition of registered.md: what should hold, what was measured, whether it holds."""
        rows = []
        for sentence, measured, holds in check_conditions(self):
            rows.append(f"| {sentence} | {measured} | {'yes' if holds else '**no**'} |")
        return "\n".join(rows)


def find_family(which):
    """The hypotheses of one table, "registered" or "explored": tuples (a, sign, b, group)."""
    return [tuple(words.split()) for words in re.findall(rf"\[\[{which} (.+?)\]\]", TEMPLATE)]


def greater_verdict(differences, p):
    """Whether a > b: the difference must be significant, and large enough to count."""
    if p >= 0.05 or abs(mean(differences)) < SMALLEST:
        return "open"
    return "yes" if mean(differences) > 0 else "**no**"


def equal_verdict(differences):
    """Whether a ≈ b: the confidence interval must lie within the margin."""
    size, half = abs(mean(differences)), half_width(differences)
    if size + half <= MARGIN:
        return "yes"
    return "**no**" if size - half > MARGIN else "open"


def describe_machines(runs):
    """Where and from which code the runs come."""
    machines = [run["machine"] for run in runs]
    return "; ".join(dict.fromkeys(f"{machine['cores']} cores of {machine['cpu']}, torch {machine['torch']}, "
                                   f"commit {machine['commit']}" for machine in machines))


def check_conditions(report):
    """What the recipe was to fulfil: tuples (sentence, what was measured, whether it holds), of means over the runs."""
    def percent(shares):
        return ", ".join(f"{100 * share:.1f} %" for share in shares)

    def accuracy(name, column):
        return mean(report.accuracies(name, column))

    soup = mean(report.differences("soup", "seed", "all"))
    knowledge = [accuracy("seed", domain) for domain in GROUPS["knowledge"]]
    untaught = [accuracy("seed", domain) for domain in EXPERTS]
    home = [accuracy(domain, domain) for domain in EXPERTS]
    lowest = [min(accuracy(name, domain) for name in ("btx", "dense_dm", "su_dm")) for domain in DOMAINS]
    share = mean(model["moe_share"] for model in report.models("btx"))
    seed, btx = report.models("seed")[0], report.models("btx")[0]
    moe_token = report.costs("su_dm", "flops")[0] / report.costs("su_dm", "tokens")[0]
    price = moe_token / (seed["flops"] / seed["tokens"])
    feed_forwards = (btx["params"] - seed["params"]) / 3 / seed["params"]
    pflop = btx["flops"] / 1e15
    return [
        ("the average of all weights is no more than 3 points below the seed", f"{100 * soup:+.1f}", soup >= -0.03),
        ("the seed solves 75 % of general and of trivia", percent(knowledge), min(knowledge) >= 0.75),
        ("and at most 40 % of math, of code and of wiki", percent(untaught), max(untaught) <= 0.40),
        ("each expert solves 90 % of its own domain", percent(home), min(home) >= 0.90),
        ("no domain is above 97 % for BTX, Dense (DM) and upcycling (DM) all (the lowest of them)", percent(lowest),
         max(lowest) <= 0.97),
        ("20 to 27 % of the compute after the seed is MoE training", percent([share]), 0.20 <= share <= 0.27),
        ("an MoE token costs 1.45 dense ones at least", f"{price:.2f}", price >= 1.45),
        ("feed-forwards are half of the parameters at least", percent([feed_forwards]), feed_forwards >= 0.495),
        ("the pipeline costs 0.027 PFLOP at most", f"{pflop:.4f}", pflop <= 0.027)]


def fill_template(template, report):
    """Put the report's numbers into a text. A table's row whose model no run has is left out."""
    lines = []
    for line in template.splitlines():
        try:
            lines.append(re.sub(r"\[\[(.+?)\]\]", lambda match: report.fill(match[1]), line))
        except Missing:
            if not line.startswith("|"):
                raise
    return "\n".join(lines) + "\n"


def draw(report, out):
    """Draw every figure but Table 6's."""
    found = {name for run in report.runs for name in run["models"]}
    main = [name for name in COMPUTE if name in found]
    figures.compute({COMPUTE[name]: (mean(report.costs(name, "flops")), report.accuracies(name, "all"),
                                     mean(model["active_params"] for model in report.models(name))) for name in main},
                    out / "figure2_left.png", top="BTX Top-2")
    alike = report.having(*main)  # models of the same seeds
    figures.normalised({label: [mean(alike.accuracies(name, column)) for column in COLUMNS]
                        for name, label in NORMALISED.items() if name in found}, COLUMNS, out / "figure2_right.png")
    routing = report.runs[0]["routing"]
    balance = {label: routing[name] for name, label in BALANCE.items() if name in routing}
    figures.routing(balance, out / "figure3_4.png")
    figures.probabilities(balance, out / "figure5.png")
    routers = {label: routing[name] for name, label in ROUTERS.items() if name in routing}
    if routers:
        figures.routing(routers, out / "figure6.png")
    basin = report.runs[0]["basin"]
    figures.lines({"general and trivia": basin["knowledge"], "math, code and wiki": basin["experts"]}, out / "basin.png")
    stages = {}
    for method, names in STAGES.items():
        stages[method] = {domain: [name and report.accuracies(name, domain) for name in names] for domain in DOMAINS}
    experts = {domain: {name: mean(report.accuracies(name, domain)) for name in EXPERTS} for domain in DOMAINS}
    figures.forgetting(stages, experts, out / "forgetting.png")


def write_table_6(text, out):
    """Draw text of each domain on the colours of the experts with the largest gates, and write the page that shows all gates.

    text: what experiments.collect read, {"experts", "texts": {domain: tokens}, "reads": of explore.read}.
    """
    shipped = tokenizer.load()
    rows = {}
    for (domain, tokens), read in zip(text["texts"].items(), text["reads"], strict=True):
        rows[domain] = []
        for token, gates in zip(tokens[1:], read["gates"], strict=True):  # gates: (n_layer, N)
            sums = [sum(gate) for gate in zip(*gates, strict=True)]
            rows[domain].append((explore.piece(shipped, token), sums.index(max(sums))))
    figures.coloured_text(rows, text["experts"], out / "figures" / "table6.png")
    explore.write(out / "table6.html", shipped, text["texts"], {"btx": (text["experts"], text["reads"])})


def read_run(path):
    """Read a file that experiments.collect wrote. Raises BadInput."""
    try:
        found = json.loads(Path(path).read_text())
        drawn = found["hard"].get("btx_sample")
        if drawn:
            found["models"]["btx_sample_drawn"] = drawn  # with experts drawn in evaluation, too
        return found
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(f"{path}: not a file that experiments.collect wrote; run make paper") from None


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("runs", nargs="+", help="files that experiments.collect wrote, one for each seed")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder to write to (default: %(default)s)")
    args = parser.parse_args(argv)
    report = Report([read_run(path) for path in args.runs])
    text = fill_template(TEMPLATE, report)
    draw(report, args.out / "figures")
    write_table_6(report.runs[0]["text"], args.out)
    with replacing(args.out / "README.md") as part:
        part.write_text(text, encoding="utf-8")
    print(f"report: {args.out}/README.md   figures: {args.out}/figures/*.png")


if __name__ == "__main__":
    run(main)
