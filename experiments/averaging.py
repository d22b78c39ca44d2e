"""Where does averaging cost? Average the branches' tensors group by group, and measure what that does to the loss.

    python -m experiments.averaging out/seed0                                           # the recipe's branches
    python -m experiments.averaging out/own --data_dir data/bin/own --homes english=seed,python=python,headers=headers
    python -m experiments.averaging eps-1e-5=out/seed0 eps-1e-8=out/seed0/eps-1e-8 --out out/seed0/averaging.json

Each folder has a seed and its branches. Groups that are not averaged stay the seed's. Nothing is finetuned. Each text
is read twice: with the feed-forwards of its home expert (an oracle router), and as BTX does, with all feed-forwards
behind new routers (random). The last column is the mean over the texts whose home is not the seed.
"""
import json
from pathlib import Path
from statistics import mean

import torch

from data.common import make_parser, replacing, run
from data.loader import first_windows, load_domains
from evaluate import score_texts
from mix import average, mix
from model import GPT, GPTConfig
from support import checkpoint
from support.report import markdown

GROUPS = {  # parts of names of tensors
    "nothing": (), "embeddings": ("embed.",), "head": ("head.",), "norms": ("norm.",), "attention": (".attn.",),
    "everything": ("embed.", "head.", "norm.", ".attn.")}


def average_groups(states, parts):
    """The states of seed and branches with the same shared tensors: averaged if named by `parts`, else the seed's."""
    seed, *_ = states.values()
    shared = {}
    for name, tensor in seed.items():
        if any(part in name for part in parts):
            tensor = average([state[name] for state in states.values()])
        if ".ff." not in name:
            shared[name] = tensor
    return {name: {**state, **shared} for name, state in states.items()}


def measure(config, state, windows):
    """The mean loss in nats per token of a model with these weights."""
    model = GPT(config)
    model.load_state_dict(state)
    return score_texts(model.eval(), windows, 50)[0].mean().item()


@torch.no_grad()
def measure_groups(folder, homes, domains, n_windows):
    """{group: {router: {domain: loss}}} for the seed and the branches in a folder; the router is oracle or random.

    homes: {domain: name of its expert}, the seed's first.
    """
    models = {name: checkpoint.load(folder / f"{name}.pt") for name in dict.fromkeys(homes.values())}
    states = {name: model["model"] for name, model in models.items()}
    config = next(iter(models.values()))["config"]
    dense, moe = GPTConfig(**config), GPTConfig(**config | {"n_expert": len(states), "top_k": 2})
    windows = {name: first_windows(domains[name].val, dense.block_size, n_windows) for name in homes}
    losses = {}
    for group, parts in GROUPS.items():
        if group == "head" and dense.tie_weights:  # it is the embeddings
            continue
        merged = average_groups(states, parts)
        mixed = mix(list(merged.values()), moe, torch.Generator().manual_seed(0))
        losses[group] = {"oracle": {d: measure(dense, merged[homes[d]], rows) for d, rows in windows.items()},
                         "random": {d: measure(moe, mixed, rows) for d, rows in windows.items()}}
    whole = {d: measure(dense, states[homes[d]], rows) for d, rows in windows.items()}
    return losses | {"home expert, whole": {"oracle": whole}}


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("folders", nargs="+", metavar="[NAME=]FOLDER", help="folders with a seed and its branches")
    parser.add_argument("--homes", default="general=seed,trivia=seed,math=math,code=code,wiki=wiki",
                        help="the expert of each domain, the seed's first (default: %(default)s)")
    parser.add_argument("--data_dir", default="data/bin", help="folder written by data.prepare (default: %(default)s)")
    parser.add_argument("--windows", type=int, default=50, help="texts per domain (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="file for the numbers")
    args = parser.parse_args(argv)
    homes = dict(pair.split("=") for pair in args.homes.split(","))
    seed = next(iter(homes.values()))
    domains = load_domains(args.data_dir, homes)
    found = {}
    for pair in args.folders:
        name, _, folder = pair.rpartition("=")
        found[name or folder] = measure_groups(Path(folder), homes, domains, args.windows)
    for name, groups in found.items():
        rows = []
        for group, routers in groups.items():
            for router, losses in routers.items():
                branches = mean(loss for domain, loss in losses.items() if homes[domain] != seed)
                cells = [f"{loss:.3f}" for loss in losses.values()]
                rows.append([f"{group}, {router}", *cells, f"{branches:.3f}"])
        print(markdown([name, *homes, "branches"], rows))
    if args.out:
        with replacing(args.out) as part:
            part.write_text(json.dumps(found))


if __name__ == "__main__":
    run(main)
