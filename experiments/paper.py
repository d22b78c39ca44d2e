"""Write the paper's tables and figures with the numbers of our runs, beside the paper's own numbers.

    python -m experiments.paper --collect out/seed0/[rp]*/results.json --out results/seed0.json
    python -m experiments.paper results/seed*.json --timed results/equal_flops/seed*.json --out results

The first command gathers what evaluate.py measured for one run. The second writes tables.md and figures/ from that.
"""
import json
from cli import BadInput, make_parser, replacing, run
from pathlib import Path
from statistics import mean

from data.task import DOMAINS
from experiments import paper_figures
from experiments.paired import GROUPS, costs, differences, having, points, scores
from support import figures
from support.report import markdown, spread

COLUMNS = (*DOMAINS, "switch")

MODELS = {  # the names of make and their names in the tables
    "seed": "seed", "math": "math expert", "code": "code expert", "wiki": "wiki expert",
    "average": "average of all weights", "average_tuned": "average of all weights, finetuned",
    "large": "larger dense model", "dense_dm": "Dense (DM)", "dense_dm_1": "Dense (DM), first phase",
    "su_dm": "sparse upcycling (DM)", "su_dm_1": "sparse upcycling (DM), first phase",
    "su_cm_flops": "sparse upcycling (CM), equal FLOPs",
    "su_cm_paper": "sparse upcycling (CM), the paper's share of tokens",
    "btm_tfidf_top1": "BTM Top-1, tf-idf", "btm_tfidf_top2": "BTM Top-2, tf-idf",
    "btm_bayes_top1": "BTM Top-1, Bayes", "btm_bayes_top2": "BTM Top-2, Bayes",
    "btx_mixed": "mixed, not finetuned", "btx": "BTX Top-2",
    "btx_nolb": "BTX Top-2, unbalanced", "btx_sample": "BTX Sample Top-1",
    "switch_short": "Switch (short)", "sample_short": "Sample Top-1 (short)", "sample_medium": "Sample Top-1 (medium)",
    "top2_short": "Top-2 (short)", "top2_medium": "Top-2 (medium)", "soft_short": "Soft (short)",
    "soft_medium": "Soft (medium)", "lb_short": "Top-2, balanced (short)",
    "frozen_short": "Top-2, frozen experts (short)", "blend_short": "blending (short)",
    "split2of8_short": "split, top-2 of 8 (short)", "split4of8_short": "split, top-4 of 8 (short)",
    "btx_noseed": "BTX of the three branches alone",
    "hidden_mixed": "mixed, hidden start, not finetuned", "btx_hidden": "BTX, hidden start",
    "ridge_mixed": "mixed, ridge start, not finetuned", "btx_ridge": "BTX, ridge start"}

# ---- the models of each table, with the paper's numbers ------------------------------------------------------------
TABLE_1 = {
    "seed": "14.7 2.5 12.8 20.8 16.4 58.5 46.1", "math": "39.5 18.8 25.0 33.6 14.4 37.1 52.0",
    "code": "12.0 4.0 31.7 40.2 11.5 29.9 39.6", "wiki": "11.7 3.1 11.0 15.2 21.8 57.2 43.1"}
TABLE_2 = {
    "seed": "8.6 16.8 37.4 63.3 46.1 40.7", "large": "16.3 24.5 40.0 66.1 52.8 45.4",
    "dense_dm": "18.3 25.8 39.6 63.3 49.8 44.5", "su_dm": "28.1 34.7 34.0 62.3 51.1 46.3",
    "btm_tfidf_top1": "21.3 36.4 26.5 61.0 44.3 43.1", "btm_tfidf_top2": "21.5 36.6 26.9 61.2 44.3 43.4",
    "btm_bayes_top1": "", "btm_bayes_top2": "", "average": "", "btx_sample": "26.4 31.5 40.1 63.7 53.2 47.3",
    "btx": "27.4 34.0 41.0 63.5 52.5 47.9", "btx_nolb": "", "btx_noseed": "", "average_tuned": ""}
TABLE_3 = {
    "btx": ["533B", "926.1", "23 %", "47.9"], "su_cm_flops": [], "su_cm_paper": ["252B", "1007.1", "100 %", "47.3"],
    "su_dm": [], "dense_dm": [], "btx_sample": [], "large": []}
TABLE_4 = {
    "switch_short": "24.7", "sample_short": "33.0", "top2_short": "34.6", "soft_short": "35.8", "sample_medium": "35.3",
    "top2_medium": "35.9", "soft_medium": "37.3", "btx_sample": "36.9", "btx_nolb": "37.3"}
TABLE_5 = {
    "lb_short": "29.8 27.4 23.0 43.4 50.0 34.7", "top2_short": "34.6 19.5 23.2 44.4 51.6 34.6",
    "frozen_short": "34.8 18.3 24.1 44.9 51.4 34.7", "blend_short": "13.9 17.1 9.9 34.1 36.2 22.2",
    "split2of8_short": "22.0 20.1 16.8 39.1 41.8 28.0", "split4of8_short": "29.6 26.8 22.9 44.0 49.4 34.5"}
CHOICE = {  # "Is it worth it?"
    "seed": "seed", "average": "average of all weights", "average_tuned": "average of all weights, finetuned",
    "dense_chain": "Dense, equal FLOPs in sequence",
    "dense_chain_5e-4": "Dense, equal FLOPs in sequence, half the rate", "dense_data": "Dense, equal tokens",
    "su_dm": "upcycling, equal data", "su_own_flops": "upcycling, equal FLOPs in total", "btx": "BTX",
    "btm_bayes_top1": "BTM", "btm_document_top1": "BTM that restarts at each end of text"}
CHOICE_HEAD = ("model", "texts of one domain", "texts that change", "TFLOP in total", "TFLOP in sequence", "M weights")
MAIN = ("seed", "average", "btm_bayes_top1",
        "dense_dm_1", "dense_dm", "su_dm_1", "su_dm", "btx_mixed", "btx")  # after each of their phases
STARTS = ("btx_mixed", "hidden_mixed", "ridge_mixed", "btx", "btx_hidden", "btx_ridge")

DIFFERENCES = [("btx", "btm_tfidf_top2", "all"), ("btx", "dense_dm", "all"), ("btx", "dense_dm", "knowledge"),
               ("btx", "dense_dm", "experts"), ("btx", "su_dm", "all"), ("btx", "su_dm", "experts"),
               ("btx", "btm_bayes_top1", "switch"), ("btx", "math", "math"), ("btx", "code", "code"),
               ("btx", "wiki", "wiki")]
CHOICE_DIFFERENCES = [("btx", "dense_chain", "all"), ("btx", "dense_data", "all"), ("btx", "su_own_flops", "all"),
                      ("btx", "su_own_flops", "knowledge"), ("btx", "average_tuned", "all"),
                      ("btx", "btm_document_top1", "switch")]
LABELS = {"switch": "changing"}  # of columns; the router Switch is something else


def score_table(runs, models, *paper_head):
    """A table of each model's accuracy by column, their mean, and the loss, over the seeds that have all these models.

    models: {name: the paper's numbers}, or a list of names.
    """
    runs = having(runs, *models)
    rows = []
    for name in models:
        row = [MODELS[name], *(spread(scores(runs, name, column), 100) for column in (*COLUMNS, "all"))]
        row.append(spread(scores(runs, name, "all", "loss"), digits=3))
        if paper_head:
            row += models[name].split()
        rows.append(row)
    columns = [LABELS.get(column, column) for column in COLUMNS]
    return markdown([f"model ({len(runs)} training seeds)", *columns, "mean", "loss", *paper_head], rows)


def cost_table(runs):
    """Table 3: tokens, FLOPs, the share of MoE training, active parameters and mean accuracy.

    The numbers are means over the seeds that have all of these models.
    """
    runs = having(runs, *TABLE_3)
    rows = []
    for name, numbers in TABLE_3.items():
        tokens, flops = mean(costs(runs, name, "tokens")) / 1e6, mean(costs(runs, name, "flops")) / 1e12
        model = runs[0]["models"][name]  # share and size are the same in all runs
        share = "" if model["moe_share"] is None else f"{100 * model['moe_share']:.0f} %"
        size = f"{model['active_params'] / 1e3:.0f} of {model['params'] / 1e3:.0f}"
        accuracy = spread(scores(runs, name), 100)
        rows.append([MODELS[name], f"{tokens:.1f}", f"{flops:.1f}", share, size, accuracy, *numbers])
    head = ["model", "tokens, M", "TFLOP", "in MoE training", "active of all, k", "mean"]
    return markdown([*head, "paper: tokens", "GPU-days", "in MoE training", "average"], rows)


def choice_rows(runs):
    """For each model of CHOICE, as texts: accuracies, FLOPs in total and in the longest chain of stages, and weights.

    All rows use the seeds that have all of these models.
    """
    runs = having(runs, *CHOICE)
    rows = []
    for name, label in CHOICE.items():
        flops, longest = mean(costs(runs, name, "flops")) / 1e12, mean(costs(runs, name, "chain_flops")) / 1e12
        weights = runs[0]["models"][name]["params"] / 1e6
        rows.append([label, spread(scores(runs, name), 100), spread(scores(runs, name, "switch"), 100),
                     f"{flops:.1f}", f"{longest:.1f}", f"{weights:.2f}"])
    return rows


def difference_table(runs, names, wanted):
    """A table of differences in accuracy between two models of the same seeds, over all domains or a group of them.

    names: {model: its name in the table}; wanted: a list of (model, model, group).
    """
    rows = []
    for a, b, group in wanted:
        found = differences(runs, a, b, group)
        domains = ", ".join(LABELS.get(domain, domain) for domain in GROUPS.get(group, [group]))
        if group == "all":
            domains = "all five"
        rows.append([f"{names[a]} − {names[b]}", domains, points(found), str(len(found))])
    return markdown(["difference", "domains", "points", "seeds"], rows)


def make_page(runs, timed):
    """The text of tables.md: paper.template, filled with its tables."""
    template = Path(__file__).with_suffix(".template").read_text(encoding="utf-8")
    return template.format(
        table_1=score_table(runs, TABLE_1, "paper: GSM8K", "MATH", "HumanEval", "MBPP", "NQ", "TriviaQA", "MMLU"),
        main=score_table(runs, MAIN),
        choice=markdown(CHOICE_HEAD, choice_rows(timed)),
        choice_differences=difference_table(timed, CHOICE, CHOICE_DIFFERENCES),
        table_2=score_table(runs, TABLE_2, "paper: math", "code", "knowledge", "reasoning", "MMLU", "average"),
        table_3=cost_table(runs),
        table_4=score_table(runs, TABLE_4, "paper: average"),
        table_5=score_table(runs, TABLE_5, "paper: GSM8K", "HumanEval", "NQ", "ARC-c", "MMLU", "average"),
        differences=difference_table(runs, MODELS, DIFFERENCES),
        starts=score_table(runs, STARTS))


def draw(runs, timed, out):
    """Draw all figures. Figures 3 to 6 show the first run that has all models."""
    paper_figures.worth_it(having(timed, *CHOICE), out / "worth_it.png")
    first = having(runs, *MODELS)[0]
    paper_figures.gain(runs, out / "gain.png")
    paper_figures.compute(runs, out / "figure2.png")
    balance = {MODELS[name]: first["routing"][name] for name in ("btx", "btx_nolb")}
    figures.draw_routing(balance, out / "figure3_4.png")
    paper_figures.probabilities(balance, out / "figure5.png")
    routers = ("switch_short", "sample_short", "top2_short", "soft_short")
    figures.draw_routing({MODELS[name]: first["routing"][name] for name in routers}, out / "figure6.png")


def read_run(path):
    """Read the results of a run, as evaluate.py or --collect wrote them. Raises BadInput."""
    try:
        text = path.read_text().replace('"soup', '"average')  # the average's name in older files
        results = json.loads(text)
    except (OSError, ValueError):
        results = None
    if not isinstance(results, dict) or "models" not in results:
        raise BadInput(f"{path}: there are no results of a run in this file; make help says what writes them")
    return results


def collect(runs):
    """Join the results of several evaluations of one run."""
    gathered = runs[0]
    for more in runs[1:]:
        gathered["models"] |= more["models"]
        gathered["routing"] |= more["routing"]
    for name, routing in gathered["routing"].items():
        if name not in ("btx", "btx_nolb"):  # figure 5 shows the histograms of these two alone
            routing.pop("probs", None)
    # the same with all numbers rounded to 5 decimals
    return json.loads(json.dumps(gathered), parse_float=lambda digits: round(float(digits), 5))


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="files from --collect; with --collect, a run's results.json")
    parser.add_argument("--collect", action="store_true", help="gather the results of one run in one file")
    parser.add_argument("--timed", nargs="+", type=Path, default=[], help="results.json of the runs at equal FLOPs")
    parser.add_argument("--out", type=Path, default="results", help="folder to write to; with --collect, file to write")
    args = parser.parse_args(argv)
    runs = [read_run(path) for path in args.runs]
    if args.collect:
        with replacing(args.out) as part:
            part.write_text(json.dumps(collect(runs)))
        return
    timed = [read_run(path) for path in args.timed]
    if not having(runs, *MODELS) or not having(timed, *CHOICE):
        raise BadInput("no run has all the models of the tables; run make paper")
    with replacing(args.out / "tables.md") as part:
        part.write_text(make_page(runs, timed), encoding="utf-8")
    draw(runs, timed, args.out / "figures")
    print(f"tables: {args.out}/tables.md   figures: {args.out}/figures/*.png")


if __name__ == "__main__":
    run(main)
