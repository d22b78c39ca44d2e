"""Task arithmetic (Ilharco et al. 2023): seed + scale * sum of (branch − seed), one dense model without training.

    python -m experiments.task_arithmetic out/seed.pt out/math.pt out/code.pt out/wiki.pt --scale 0.4 --out out/task.pt

With N branches, a scale of 1 / (N + 1) gives the plain average of the seed and its branches.
"""
from cli import make_parser, run
from support.checkpoint import check_branches, check_save_path, load_checkpoint, save_checkpoint
from support.ledger import join_ledgers, new_entry


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("models", nargs="+", help="the seed, and then its branches")
    parser.add_argument("--scale", type=float, required=True, help="how much of each branch's change to add")
    parser.add_argument("--out", required=True, help="checkpoint to write")
    args = parser.parse_args(argv)
    checkpoints = [load_checkpoint(path) for path in args.models]
    check_branches(args.models, checkpoints)
    check_save_path(args.out, args.models)
    ledgers = [checkpoint["ledger"] for checkpoint in checkpoints]
    entry = new_entry("average", args.out, [ledger[-1] for ledger in ledgers], settings=vars(args))
    seed, *branches = [checkpoint["state"] for checkpoint in checkpoints]
    state = {}
    for name, tensor in seed.items():
        changes = [branch[name].float() - tensor.float() for branch in branches]
        state[name] = tensor.float() + args.scale * sum(changes)
    save_checkpoint(args.out, checkpoints[0] | {"state": state, "ledger": [*join_ledgers(ledgers), entry]})
    print(f"wrote {args.out}")


if __name__ == "__main__":
    run(main)
