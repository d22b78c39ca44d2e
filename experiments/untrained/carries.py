"""What carries a mixture that is not finetuned? Variants of one mixture, made and scored; one training seed.

    python -m experiments.untrained.carries out/pretrained/seed0 --data_dir data/bin/pretrained --out out/carries
"""
from pathlib import Path

import evaluate
import mix
from cli import make_parser, run
from experiments import collect
from support import router_start

ALL = ("seed", "math", "code", "wiki")
RIGHT = "english,math,code,wiki"
# {name: (models, their domains, options, windows of each domain)}
VARIANTS = {
    "sharp": (ALL, RIGHT, [], 16),
    "attention_of_seed": (ALL, RIGHT, [], 16),
    "without_seed": (ALL[1:], "math,code,wiki", [], 16),
    "windows_2": (ALL, RIGHT, [], 2),
    "windows_4": (ALL, RIGHT, [], 4),
    "windows_64": (ALL, RIGHT, [], 64),
    "wrong_order": (ALL, "math,english,wiki,code", [], 16),
    "top_3": (ALL, RIGHT, ["--top_k", "3"], 16),
    "top_4": (ALL, RIGHT, ["--top_k", "4"], 16),
    "switch": (ALL, RIGHT, ["--routing", "switch"], 16)}


def average_of_models(tensors):
    """As mix.average."""
    return sum(t.float() for t in tensors) / len(tensors)


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, help="with seed.pt, math.pt, code.pt and wiki.pt")
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    results = []
    for name, (models, domains, options, n_windows) in VARIANTS.items():
        result = args.out / "scores" / name / "results.json"
        results.append(str(result))
        if result.exists():
            continue
        mixed = args.out / f"{name}.pt"
        router_start.N_WINDOWS = n_windows
        mix.average = (lambda tensors: tensors[0].float()) if name == "attention_of_seed" else average_of_models
        mix.main([*(f"{args.folder}/{model}.pt" for model in models), "--out", str(mixed), "--router_data", domains,
                  "--ridge", "--data_dir", args.data_dir, *options])
        evaluate.main([str(mixed), "--device", "cpu", "--dtype", "bfloat16", "--batch_size", "8", "--tasks", "200",
                       "--windows", "100", "--data_dir", args.data_dir, "--out", str(result.parent), "--no_figures"])
        mixed.unlink()
    collect.main([*results, "--out", str(args.out / "pretrained_0_carries.json")])


if __name__ == "__main__":
    run(main)
