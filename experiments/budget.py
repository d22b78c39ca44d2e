"""For how many steps may sparse upcycling train at the cost of BTX? The compute-matched baselines (CM) of the paper's Table 3.

    python -m experiments.budget out/su_dm.pt --like out/btx.pt --since out/seed.pt --by flops

Prints a number of steps. The budget is the cost of the stages behind btx.pt that are not behind seed.pt. The price of a step
is that of the last stage of su_dm.pt. Both are read from the ledgers in the checkpoints. Costs are compared by

    flops     floating-point operations
    time      device seconds
    elapsed   seconds from start to end, with the branches at the same time
    paper     tokens: the same share of BTX's tokens that upcycling (CM) had in the paper
"""
from data.common import BadInput, make_parser, run
from support import checkpoint, ledger

PAPER_SHARE = 252 / 533  # Table 3: billions of tokens of sparse upcycling (CM) and of BTX


def steps_to_match(last, like, since, by):
    """Return the steps of the stage `last` (a ledger entry) that cost what the ledger `like` cost since the ledger `since`."""
    known = {entry["id"] for entry in since}
    spent = ledger.totals([entry for entry in like if entry["id"] not in known])
    if by == "flops":
        budget, price = spent["flops"], last["flops"]
    elif by == "time":
        budget, price = spent["seconds"], last["seconds"]
    elif by == "elapsed":
        budget, price = ledger.elapsed(like) - ledger.elapsed(since), last["seconds"] / last["ranks"]
    else:
        budget, price = PAPER_SHARE * spent["tokens"], last["tokens"]
    return max(1, round(budget / price * last["settings"]["steps"]))


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("model", help="checkpoint whose last stage shows what a step costs")
    parser.add_argument("--like", required=True, help="checkpoint whose cost is the budget")
    parser.add_argument("--since", required=True, help="checkpoint whose own cost is not part of the budget")
    parser.add_argument("--by", default="flops", choices=("flops", "time", "elapsed", "paper"), help="which cost")
    args = parser.parse_args(argv)
    model, like, since = (checkpoint.load(path)["lineage"] for path in (args.model, args.like, args.since))
    if not model[-1]["tokens"]:
        raise BadInput(f"{args.model}: its last stage trained nothing; name a finetuned checkpoint")
    print(steps_to_match(model[-1], like, since, args.by))


if __name__ == "__main__":
    run(main)
