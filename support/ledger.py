"""The ledger of a checkpoint: which stages are behind a model, and what they cost (the paper's Table 3).

It is a list of plain entries, parents before children. Two branches of one seed share the seed's entry, which counts once.
"""
import hashlib
import json
from pathlib import Path

from support.files import has
from support.settings import BadInput

NUMBER = (int, float)
ENTRY = {"id": str, "stage": str, "name": str, "parents": list, "tokens": NUMBER, "flops": NUMBER,
         "seconds": NUMBER, "ranks": int, "settings": dict}


def check(lineage):
    """Raise ValueError unless a value is a ledger: plain entries, parents before children, none twice."""
    ids = set()
    for entry in lineage:
        if (not has({"ranks": 1, "settings": {}} | entry, ENTRY) or not 1 <= entry.get("ranks", 1) < 2**31
                or not all(0 <= entry[key] < 1e40 for key in ("tokens", "flops", "seconds"))
                or entry["id"] in ids or not all(p in ids for p in entry["parents"])):
            raise ValueError("its lineage is no list of stages, parents before children")
        ids.add(entry["id"])
    if not ids:
        raise ValueError("its lineage is empty: it does not say of which stages it is")


def entry(stage, out, parents, tokens=0, flops=0, seconds=0.0, **what):
    """One stage's line in the ledger.

    tokens, flops (forward and backward) and seconds are those of this stage alone; parents are the ids of the entries
    it started from. `what` says what was done, see `setup`. The id is a hash of everything but the time taken, so that two
    branches of one seed are seen to share it.
    """
    made = {"stage": stage, "name": Path(out).stem, "parents": parents, "tokens": tokens, "flops": flops, **what}
    key = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:12]
    return {"id": key, **made, "seconds": seconds}


def join(lineages):
    """The union of several ledgers, each stage once, parents before children. Raises BadInput if they contradict each other."""
    joined = {}
    for entry in (entry for lineage in lineages for entry in lineage):
        if joined.setdefault(entry["id"], entry) | {"seconds": 0} != entry | {"seconds": 0}:
            raise BadInput(f"two ledgers have different stages under the id {entry['id']}; one of the checkpoints was changed")
    return list(joined.values())


def totals(lineage):
    """Tokens, FLOPs and device seconds of all stages in a ledger, as a dictionary."""
    return {key: sum(entry[key] for entry in lineage) for key in ("tokens", "flops", "seconds")}


def wall_seconds(entry):
    """Seconds from start to end of one stage."""
    return entry["seconds"] / entry.get("ranks", 1)


def elapsed(lineage):
    """Seconds from start to end if every stage starts as soon as the stages it needs are done, branches at the same time."""
    done = {}
    for entry in lineage:
        done[entry["id"]] = wall_seconds(entry) + max((done[p] for p in entry["parents"]), default=0.0)
    return max(done.values(), default=0.0)
