"""Gather what evaluate.py measured for one training seed, in several folders, in one file.

    python -m experiments.collect out/seed0/[rp]*/results.json --out experiments/paper/runs/seed0.json
"""
import json
from pathlib import Path

from cli import make_parser, replacing, run


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="results.json of each evaluation")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    args = parser.parse_args(argv)
    gathered, *others = [json.loads(path.read_text()) for path in args.runs]
    for more in others:
        gathered["models"] |= more["models"]
        gathered["routing"] |= more["routing"]
    for name, routing in gathered["routing"].items():
        if name not in ("btx", "btx_nolb"):  # figure 5 shows only the histograms of these two
            routing.pop("probs", None)
    rounded = json.loads(json.dumps(gathered), parse_float=lambda digits: round(float(digits), 5))
    with replacing(args.out) as part:
        part.write_text(json.dumps(rounded))


if __name__ == "__main__":
    run(main)
