"""The ledger of a checkpoint: which stages are behind a model, and what they cost (the paper's Table 3).

It is a list of plain entries, parents before children. Branches of one seed share the seed's entry, which counts once.
"""
import hashlib
import json
from pathlib import Path


def entry(stage, out, parents, tokens=0, flops=0, seconds=0.0, ranks=1, **what):
    """One stage's line in the ledger.

    tokens, flops (forward and backward) and seconds are those of this stage alone. seconds are summed over its ranks.
    parents: the ids of the entries that it started from. `what` says what was done. The id is a hash of everything but
    the time, so that two branches are seen to share their seed.
    """
    made = {"stage": stage, "name": Path(out).stem, "parents": parents, "tokens": tokens, "flops": flops, **what}
    key = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:12]
    return {"id": key, **made, "seconds": seconds, "ranks": ranks}


def join(lineages):
    """The union of several ledgers: each stage once, parents before children."""
    joined = {}
    for lineage in lineages:
        for stage in lineage:
            joined.setdefault(stage["id"], stage)
    return list(joined.values())


def totals(lineage):
    """Tokens, FLOPs and device seconds of all stages in a ledger, as a dictionary."""
    return {key: sum(stage[key] for stage in lineage) for key in ("tokens", "flops", "seconds")}


def elapsed(lineage):
    """Seconds from start to end if each stage starts as soon as its parents are done; branches run at the same time."""
    done = {}
    for stage in lineage:
        ready = max((done[parent] for parent in stage["parents"]), default=0.0)
        done[stage["id"]] = ready + stage["seconds"] / stage["ranks"]
    return max(done.values(), default=0.0)
