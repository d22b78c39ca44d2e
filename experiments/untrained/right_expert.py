"""The loss if routers chose the right expert for every token: the ceiling of any rule in rules.md, and what is left.

    python -m experiments.untrained.right_expert OUT/{seed,math,code,wiki}.pt --mixed FILE --data_dir data/bin

Prints the mean loss over domains, in nats, of the mixture in --mixed, of the average whose feed-forwards are those of
the branch that learned the domain, and of that branch itself. The first model named learned all other domains.
"""
import torch
import torch.nn.functional as F

import mix
from cli import make_parser, positive_int, run
from data.loader import load_domains
from model import is_feed_forward
from support.checkpoint import build_model, load_checkpoint


def loss(model, windows):
    """The mean loss of the second half of windows, (n, T + 1), as in evaluate.py."""
    n = windows.shape[1] // 2
    logits = torch.cat([model(chunk[:, :-1], n_last=n)[0].float() for chunk in windows.split(8)])  # (n, T / 2, V)
    return F.cross_entropy(logits.flatten(0, 1), windows[:, -n:].flatten()).item()


@torch.no_grad()
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("models", nargs="+", help="the seed and its branches")
    parser.add_argument("--mixed", required=True, help="a mixture of them")
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--windows", type=positive_int, default=64)
    args = parser.parse_args(argv)
    branches = {path.rsplit("/", 1)[-1].removesuffix(".pt"): load_checkpoint(path) for path in args.models}
    seed = next(iter(branches.values()))
    domains = load_domains(args.data_dir)
    domains.pop("switch")
    states = [branch["state"] for branch in branches.values()]
    average = {name: mix.average([state[name] for state in states]) for name in states[0]}
    mixed = build_model(load_checkpoint(args.mixed))
    found = {"the mixture": [], "the right expert always": [], "own branch": []}
    for name, domain in domains.items():
        windows = domain.windows(domain.val, seed["config"]["block_size"], args.windows)
        branch = branches.get(name, seed)
        experts = {key: value for key, value in branch["state"].items() if is_feed_forward(key)}
        models = mixed, build_model(branch | {"state": average | experts}), build_model(branch)
        for row, model in zip(found.values(), models, strict=True):
            row.append(loss(model, windows))
    for name, losses in found.items():
        print(f"{name}: {sum(losses) / len(losses):.3f}   {dict(zip(domains, [round(x, 3) for x in losses]))}")


if __name__ == "__main__":
    run(main)
