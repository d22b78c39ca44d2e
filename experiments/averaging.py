"""Where does averaging cost? Average the branches' tensors group by group, and measure what that does to the loss.

    python -m experiments.averaging out/seed0                                           # the recipe's branches
    python -m experiments.averaging out/own --data_dir data/bin/own --homes english=seed,python=python,headers=headers
    python -m experiments.averaging eps-1e-5=out/seed0 eps-1e-8=out/seed0/eps-1e-8 --out out/seed0/averaging.json

Each folder has a seed and its branches. Nothing is finetuned. Each text has a home expert. "whole": the home expert
reads it, with this group averaged. "oracle": the seed reads it, with this group averaged and the home expert's
feed-forwards. "random": the mixture of these models reads it, with new routers. Losses are in nats per token; the last
column is the mean over the texts whose home is a branch.
"""
import json
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch

from cli import BadInput, make_parser, positive_int, replacing, run
from data.loader import first_windows, load_domains
from evaluate import score_texts
from mix import average, mix
from model import GPT, GPTConfig, is_feed_forward
from support.checkpoint import load_checkpoint
from support.report import markdown

TENSORS = {  # groups of tensors, by parts of their names
    "nothing": (), "embeddings": ("embed.",), "head": ("head.",), "norms": ("norm.",), "attention": (".attn.",),
    "everything": ("embed.", "head.", "norm.", ".attn.")}


def average_group(states, parts):
    """The average over seed and branches of each tensor whose name contains one of `parts`. states: {model: state}."""
    averaged = {}
    for name in states["seed"]:
        if any(part in name for part in parts):
            averaged[name] = average([state[name] for state in states.values()])
    return averaged


def measure(config, state, windows):
    """The mean loss of a model with these weights, in nats per token, over the second half of each window."""
    model = GPT(config).eval()
    model.load_state_dict(state)
    return score_texts(model, windows, batch_size=10)[0].mean().item()


@torch.no_grad()
def measure_groups(folder, homes, domains, n_windows):
    """{group: {"whole", "oracle" or "random": {domain: loss}}} for the seed and the branches in a folder.

    homes: {domain: name of its expert}. The seed is called "seed".
    """
    checkpoints = {name: load_checkpoint(folder / f"{name}.pt") for name in dict.fromkeys(homes.values())}
    states = {name: checkpoint["state"] for name, checkpoint in checkpoints.items()}
    dense = GPTConfig(**checkpoints["seed"]["config"])
    moe = replace(dense, n_expert=len(states), top_k=2)
    of_seed = {name: tensor for name, tensor in states["seed"].items() if not is_feed_forward(name)}
    losses = {}
    for group, parts in TENSORS.items():
        if group == "head" and dense.tie_weights:  # it is the embeddings
            continue
        averaged = average_group(states, parts)
        merged = {name: {**state, **of_seed, **averaged} for name, state in states.items()}
        mixed = mix(list(merged.values()), moe, torch.Generator().manual_seed(0))
        losses[group] = {"whole": {}, "oracle": {}, "random": {}}
        for domain, home in homes.items():
            windows = first_windows(domains[domain].val, dense.block_size, n_windows, domains[domain].is_own)
            losses[group]["whole"][domain] = measure(dense, {**states[home], **averaged}, windows)
            losses[group]["oracle"][domain] = measure(dense, merged[home], windows)
            losses[group]["random"][domain] = measure(moe, mixed, windows)
    return losses


def print_table(folder, losses, homes):
    """Print what measure_groups returns for a folder."""
    rows = []
    for group, readers in losses.items():
        for reader, by_domain in readers.items():
            of_branches = [loss for domain, loss in by_domain.items() if homes[domain] != "seed"]
            numbers = [*by_domain.values(), mean(of_branches)]
            rows.append([f"{group}, {reader}", *(f"{number:.3f}" for number in numbers)])
    print(markdown([folder, *homes, "branches"], rows))


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("folders", nargs="+", metavar="[NAME=]FOLDER", help="folders with a seed and its branches")
    parser.add_argument("--homes", default="general=seed,trivia=seed,math=math,code=code,wiki=wiki",
                        help="the expert of each domain; one is called seed (default: %(default)s)")
    parser.add_argument("--data_dir", default="data/bin", help="folder that data.prepare wrote (default: %(default)s)")
    parser.add_argument("--windows", type=positive_int, default=50, help="texts per domain (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="file for the numbers")
    args = parser.parse_args(argv)
    homes = dict(pair.split("=") for pair in args.homes.split(","))
    if "seed" not in homes.values():
        raise BadInput(f"--homes {args.homes}: one of the experts has to be the seed, as in english=seed")
    domains = load_domains(args.data_dir, homes)
    results = {}
    for pair in args.folders:
        name, _, folder = pair.rpartition("=")
        losses = measure_groups(Path(folder), homes, domains, args.windows)
        results[name or folder] = losses
        print_table(name or folder, losses, homes)
    if args.out:
        with replacing(args.out) as part:
            part.write_text(json.dumps(results))


if __name__ == "__main__":
    run(main)
