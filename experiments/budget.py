"""Print the number of steps that cost as much as another model did, for the compute-matched (CM) baselines of Table 3.

    python -m experiments.budget out/btx.pt --like out/btx.pt --since out/seed.pt --by flops

The budget is what the model of --like cost beyond the model of --since. A step costs as much as a step in the last
training of the first model. --by flops counts all FLOPs, and --by chain those of the longest chain of stages. --by
paper counts tokens, and gives upcycling the share of tokens that it had in the paper.
"""
from cli import make_parser, run
from support.checkpoint import load_checkpoint
from support.ledger import chain_flops, totals

PAPER_SHARE = 252 / 533  # Table 3: billions of tokens of sparse upcycling (CM) and of BTX


def match_steps(last, like, since, by):
    """How many steps of the ledger entry `last` cost as much as the ledger `like` did beyond the ledger `since`."""
    if by == "flops":
        ratio = (totals(like)["flops"] - totals(since)["flops"]) / last["flops"]
    elif by == "chain":
        ratio = (chain_flops(like) - chain_flops(since)) / last["flops"]
    else:
        ratio = PAPER_SHARE * (totals(like)["tokens"] - totals(since)["tokens"]) / last["tokens"]
    return max(1, round(ratio * last["settings"]["steps"]))


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("model", help="checkpoint whose last training shows what a step costs")
    parser.add_argument("--like", required=True, help="checkpoint whose cost is the budget")
    parser.add_argument("--since", required=True, help="checkpoint whose cost is subtracted from the budget")
    parser.add_argument("--by", default="flops", choices=("flops", "chain", "paper"), help="cost that is to be equal")
    args = parser.parse_args(argv)
    model, like, since = (load_checkpoint(path)["ledger"] for path in (args.model, args.like, args.since))
    print(match_steps(model[-1], like, since, args.by))


if __name__ == "__main__":
    run(main)
