"""The last validation losses of several runs, by which a learning rate is chosen.

    python -m experiments.rates out/pretrained/seed0/rates/*.pt

Lowest is best: the mean over the domains that the runs were trained on, in nats per token.
"""
from cli import make_parser, run
from pathlib import Path
from statistics import mean

from support.checkpoint import load_checkpoint
from support.report import markdown


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("models", nargs="+", type=Path, help="trained checkpoints")
    args = parser.parse_args(argv)
    rows = []
    for path in args.models:
        checkpoint = load_checkpoint(path)
        settings, losses = checkpoint["ledger"][-1]["settings"], checkpoint["log"][-1]["val_loss"]
        losses = {name: losses[name] for name in settings["data"]}
        rows.append([path.stem, str(settings["steps"]), f"{settings['lr']:g}",
                     *(f"{loss:.3f}" for loss in losses.values()), f"{mean(losses.values()):.4f}"])
    print(markdown(["run", "steps", "rate", *losses, "mean"], rows))


if __name__ == "__main__":
    run(main)
