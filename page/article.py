"""Write the article results/index.html: models that run in the reader's browser, and the results of committed runs.

    python -m page.article data/start/{seed,math,code,wiki}.pt out/page/steps{0,770}.pt --runs results/seed1[0-4].json
"""
import json
from pathlib import Path
from statistics import mean

from cli import BadInput, make_parser, run
from data.loader import load_domains
from data.task import DOMAINS
from experiments.paired import costs, having, scores, spread
from page.live import collect, fill
from support.checkpoint import load_checkpoint

ROWS = {"seed": "seed", "soup": "average of all weights", "dense_dm": "Dense, same text as BTX",
        "su_dm": "upcycling, same text as BTX", "su_own_flops": "upcycling, same FLOPs as BTX", "btx": "<b>BTX</b>",
        "btm_bayes_top1": "BTM"}
BRANCHED = ("soup", "btm_bayes_top1", "btx")  # three branches are trained at the same time
MEASURES = {"all": "Right answers, one domain in a text", "switch": "Right answers, two domains in a text"}
COLUMNS = ("model", "one domain, %", "two domains, %", "million weights", "10¹² FLOPs", "longest chain")


def chain(runs, name):
    """The FLOPs since the seed that must be spent one after the other: of three branches only one counts."""
    flops = mean(costs(runs, name, "flops"))
    if name in BRANCHED:
        flops -= 2 * mean(costs(runs, "math", "flops"))
    return flops


def results_html(runs):
    """One chart and one table of the models in ROWS. Each row is a mean over the same runs. Raises BadInput."""
    if len(having(runs, "math", *ROWS)) < len(runs):
        raise BadInput(f"--runs: each must have the models {', '.join(ROWS)}")
    lines = ['<div class="grid wide">']
    for measure, title in MEASURES.items():
        lines.append(f"<figure><figcaption>{title}</figcaption><ol>")
        for name, label in ROWS.items():
            percent = f"{100 * mean(scores(runs, name, measure)):.1f}"
            lines.append(f'<li class="bar" style="--share: {percent}%"><span>{label}</span>'
                         f"<span>{percent}\u00a0%</span></li>")
        lines.append("</ol></figure>")
    lines.append("</div><details><summary>The table behind it</summary>")
    lines.append('<div class="scroll" tabindex="0" role="region" aria-label="Results"><table>')
    lines.append("<tr>" + "".join(f"<th>{column}</th>" for column in COLUMNS) + "</tr>")
    for name, label in ROWS.items():
        cells = [spread(scores(runs, name, measure), 100) for measure in MEASURES]
        cells.append(f"{runs[0]['models'][name]['params'] / 1e6:.2f}")
        cells.append(f"{mean(costs(runs, name, 'flops')) / 1e12:.1f}")
        cells.append(f"{chain(runs, name) / 1e12:.1f}")
        lines.append(f"<tr><th>{label}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    lines.append(f"""</table></div>
<p>Means ± standard deviations over {len(runs)} runs of the whole recipe, with training seeds of their own. FLOPs,
  operations with numbers, are counted from the seed on. The longest chain is those that must be done one after another;
  branches train at the same time.</p></details>""")
    return "\n".join(lines)


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="the experts in order, then mixtures of them")
    parser.add_argument("--runs", nargs="+", type=Path, required=True, help="results.json of evaluate.py, by seed")
    parser.add_argument("--data_dir", default="data/bin", help="folder that data.prepare wrote (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/index.html"), help="page to write")
    args = parser.parse_args(argv)
    models = {Path(path).stem: load_checkpoint(path) for path in args.models}
    tasks = {name: domain.tasks for name, domain in load_domains(args.data_dir, [*DOMAINS, "switch"]).items()}
    runs = [json.loads(path.read_text()) for path in args.runs]
    fill(args.out, collect(models, tasks), results_html(runs))
    print(f"wrote {args.out}")


if __name__ == "__main__":
    run(main)
