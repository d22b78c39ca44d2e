"""How many steps of one model's training cost what another model cost: for compute-matched baselines (the paper's Table 3).

    python -m experiments.budget out/su_dm.pt --like out/btx.pt --since out/seed.pt --by flops

Prints the number of steps of the kind of training that su_dm's last stage was, whose FLOPs are those of all stages behind btx
that are not behind seed; or whose measured seconds are those of all these stages (time), or of the longest chain of them
(elapsed: branches at the same time); or which have as many of these stages' tokens as upcycling had of BTX's in the same time on
the paper's machines (paper). Read from the ledgers in the checkpoints.
"""
from dataclasses import dataclass

from support import checkpoint as ckpt
from support import ledger
from support.files import reading
from support.settings import BadInput, option, parse, run

PAPER_SHARE = 252 / 533  # Table 3: billions of tokens of sparse upcycling (CM) and of BTX


@dataclass
class Settings:
    model: list = option([], "one checkpoint, trained in the way whose steps are counted", positional=True)
    like: str = option("", "checkpoint whose cost is to be met")
    since: str = option("", "checkpoint whose cost does not count")
    by: str = option("flops", "which cost", choices=("flops", "time", "elapsed", "paper"))


def main(argv=None):
    settings = parse(Settings, argv)
    if len(settings.model) != 1:
        raise BadInput("name one checkpoint, as in: python -m experiments.budget out/su_dm.pt --like out/btx.pt "
                       "--since out/seed.pt")
    if not settings.like or not settings.since:
        raise BadInput("--like and --since: name the checkpoint whose cost is to be met, and one whose cost does not count")
    model, like, since = (ckpt.load(path)["lineage"] for path in (settings.model[0], settings.like, settings.since))
    last, key = model[-1], {"flops": "flops", "paper": "tokens"}.get(settings.by, "seconds")
    if "settings" not in last or not last[key]:
        raise BadInput(f"{settings.model[0]}: its last stage is no training")
    if settings.by == "elapsed":
        budget = ledger.elapsed(like) - ledger.elapsed(since)
    else:
        known = {entry["id"] for entry in since}
        budget = ledger.totals([entry for entry in like if entry["id"] not in known])[key]
        budget *= PAPER_SHARE if settings.by == "paper" else 1
    if budget <= 0:
        raise BadInput(f"{settings.like} cost nothing beyond {settings.since}; there is nothing to match")
    cost = ledger.wall_seconds(last) if settings.by == "elapsed" else last[key]  # of its last stage
    with reading(settings.model[0]):
        print(max(1, round(budget / cost * last["settings"]["steps"])))


if __name__ == "__main__":
    run(main)
