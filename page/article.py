"""Write the article results/index.html: models that run in the reader's browser, and the results of committed runs.

    python -m page.article data/start/{seed,math,code,wiki}.pt out/page/steps{0,770}.pt --runs results/seed1[0-4].json
"""
from pathlib import Path

from cli import make_parser, run

from data.loader import load_domains
from data.task import DOMAINS
from experiments.paper import CHOICE_HEAD, choice_rows, read_run
from page.live import collect, fill
from support.checkpoint import load_checkpoint

TITLES = ("Right answers, one domain in a text", "Right answers, two domains in a text")


def results_html(runs):
    """One chart and one table of the models in CHOICE. Each row is a mean over the same runs."""
    rows = choice_rows(runs)
    lines = ['<div class="grid wide">']
    for column, title in enumerate(TITLES, 1):
        lines.append(f"<figure><figcaption>{title}</figcaption><ol>")
        for row in rows:
            percent, _, _ = row[column].partition(" ")  # the mean
            lines.append(f'<li class="bar" style="--share: {percent}%"><span>{row[0]}</span>'
                         f"<span>{percent}\u00a0%</span></li>")
        lines.append("</ol></figure>")
    lines.append("</div><details><summary>The table behind it</summary>")
    lines.append('<div class="scroll" tabindex="0" role="region" aria-label="Results"><table>')
    lines.append("<tr>" + "".join(f"<th>{column}</th>" for column in CHOICE_HEAD) + "</tr>")
    for label, *cells in rows:
        lines.append(f"<tr><th>{label}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    lines.append(f"""</table></div>
<p>In %, means ± standard deviations over {len(runs)} runs of the whole recipe, with training seeds of their own. TFLOP,
  10¹² operations with numbers, are counted from the seed on. The longest chain is those that must be done one after
  another; branches train at the same time.</p>
  </details>""")
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
    runs = [read_run(path) for path in args.runs]
    fill(args.out, collect(models, tasks), results_html(runs))
    print(f"wrote {args.out}")


if __name__ == "__main__":
    run(main)
