"""Gather what the report needs of one run, so that the report needs no checkpoint.

    python -m experiments.collect out/seed0 --out results/seed0.json

Reads what evaluate.py wrote into out/seed0/paper and out/seed0/hard, or into out/seed0/rivals after `make rivals`. Adds two
things that the checkpoints do: the loss on the way from the seed to each branch, and BTX's gates on a text of each domain.
"""
import json
from pathlib import Path
from statistics import mean

import torch

from data import tokenizer
from data.common import BadInput, make_parser, replacing, run
from data.loader import first_windows, load_domains
from data.task import DOMAINS
from experiments.paper import EXPERTS, GROUPS
from support import checkpoint, explore


@torch.no_grad()
def measure_basin(folder, domains, n_windows=8):
    """The loss on the lines from the seed to each branch and to the average of all: {group: {end: [[place, loss], ...]}}.

    Place 0 is the seed, 1 the end. The groups are the seed's domains and the experts'.
    """
    seed = checkpoint.load(folder / "seed.pt")
    model = checkpoint.build(seed)
    windows = {d: first_windows(domains[d].val, model.config.block_size, n_windows) for d in DOMAINS}  # (8, T + 1) each
    lines = {"knowledge": {}, "experts": {}}
    for name in (*EXPERTS, "soup"):
        end = checkpoint.load(folder / f"{name}.pt")
        for place in (i / 8 for i in range(-2, 13)):
            model.load_state_dict({key: torch.lerp(p, end["model"][key], place) for key, p in seed["model"].items()})
            losses = {d: model(rows[:, :-1], rows[:, 1:])[1].item() for d, rows in windows.items()}
            for group, ends in lines.items():
                ends.setdefault(name, []).append([place, mean(losses[d] for d in GROUPS[group])])
    return lines


def read_gates(folder, domains, n_tokens=45):
    """What BTX does with text of each domain, for Table 6: {"experts", "texts": {domain: tokens}, "reads": of explore.read}."""
    btx = checkpoint.load(folder / "btx.pt")
    model = checkpoint.build(btx)
    T = min(n_tokens, model.config.block_size)
    texts = {d: first_windows(domains[d].val, T, 1)[0].tolist() for d in DOMAINS}
    words = tokenizer.load(btx["tokenizer"])
    return {"experts": btx["experts"], "texts": texts, "reads": [explore.read(model, words, text) for text in texts.values()]}


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, help="folder of a run, as out/seed0")
    parser.add_argument("--data_dir", default="data/bin", help="folder written by data.prepare (default: %(default)s)")
    parser.add_argument("--out", required=True, help="file to write")
    args = parser.parse_args(argv)
    files = [args.folder / name / "results.json" for name in ("paper", "rivals", "hard")]
    paper, rivals, hard = (json.loads(path.read_text()) if path.exists() else None for path in files)
    results = paper or rivals
    if results is None:
        raise BadInput(f"{args.folder}: neither paper/results.json nor rivals/results.json is in it; run make rivals")
    domains = load_domains(args.data_dir, DOMAINS)
    results["hard"] = hard["models"] if hard else {}
    results["basin"] = measure_basin(args.folder, domains)
    results["text"] = read_gates(args.folder, domains)
    short = json.loads(json.dumps(results), parse_float=lambda digits: round(float(digits), 5))  # 5 digits are enough
    with replacing(args.out) as part:
        part.write_text(json.dumps(short))
    print(f"wrote {args.out}")


if __name__ == "__main__":
    run(main)
