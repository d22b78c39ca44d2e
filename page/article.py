"""Write the article results/index.html: models that run in the reader's browser, and what committed runs say of them.

    python -m page.article data/start/{seed,math,code,wiki}.pt out/page/steps{0,770}.pt
"""
from pathlib import Path

from cli import make_parser, run

from data.loader import load_domains
from data.task import DOMAINS
from page.live import collect, fill
from support.checkpoint import load_checkpoint


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="the experts in order, then mixtures of them")
    parser.add_argument("--data_dir", default="data/bin", help="folder that data.prepare wrote (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/index.html"), help="page to write")
    args = parser.parse_args(argv)
    models = {Path(path).stem: load_checkpoint(path) for path in args.models}
    tasks = {name: domain.tasks for name, domain in load_domains(args.data_dir, [*DOMAINS, "switch"]).items()}
    fill(args.out, collect(models, tasks), is_article=True)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    run(main)
