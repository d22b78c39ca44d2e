"""The ledger of a checkpoint: what was done to make it, and what that cost (the paper's Table 3).

It is a list of dictionaries, parents before children. Branches of one seed share the seed's entry, which counts once.
"""
import hashlib
import json
from pathlib import Path


def new_entry(action, out, parents, tokens=0, flops=0, seconds=0.0, ranks=1, **details):
    """One entry of a ledger. action: "import", "train", "mix", "average" or "finetune".

    tokens, flops (forward and backward) and seconds are those of this entry alone; seconds are summed over its ranks.
    parents: the entries that it started from. Its own id is a hash of everything but the time and the number of ranks,
    so the seed has the same id in the ledgers of all its branches.
    """
    entry = {"action": action, "name": Path(out).stem, "parents": [parent["id"] for parent in parents],
             "tokens": tokens, "flops": flops, **details}
    key = hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:12]
    return {"id": key, **entry, "seconds": seconds, "ranks": ranks}


def join_ledgers(ledgers):
    """The union of several ledgers. Each entry occurs once, and parents come before children."""
    joined = {}
    for ledger in ledgers:
        for entry in ledger:
            joined.setdefault(entry["id"], entry)
    return list(joined.values())


def totals(ledger):
    """A dictionary with the tokens, FLOPs and device seconds of all entries together."""
    return {key: sum(entry[key] for entry in ledger) for key in ("tokens", "flops", "seconds")}


def longest_chain(ledger, cost):
    """The cost of the longest chain of entries. cost: a function from an entry to a number.

    Each entry starts as soon as its parents are done, so only the costliest of several branches counts.
    """
    cost_until = {}  # {entry: the cost of the longest chain that ends with it}
    for entry in ledger:
        cost_before = max((cost_until[parent] for parent in entry["parents"]), default=0)
        cost_until[entry["id"]] = cost_before + cost(entry)
    return max(cost_until.values(), default=0)


def elapsed(ledger):
    """The seconds of the longest chain."""
    return longest_chain(ledger, lambda entry: entry["seconds"] / entry["ranks"])


def chain_flops(ledger):
    """The FLOPs of the longest chain."""
    return longest_chain(ledger, lambda entry: entry["flops"])


def moe_share(ledger):
    """The share of MoE training in the FLOPs since the seed (the paper's Table 3). None if there are no FLOPs."""
    since_seed = ledger[1:]  # the first entry is the seed's
    moe = sum(entry["flops"] for entry in since_seed if entry["action"] == "finetune")
    every = sum(entry["flops"] for entry in since_seed)
    return moe / every if every else None
