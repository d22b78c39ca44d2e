"""Two ranks train as one does, with DDP and with FSDP2. In float64, so that rounding does not hide a mistake.

    torchrun --nproc_per_node=2 tests/test_ranks.py '[["train_expert", "--out", "a.pt", ...]]'  # one run after the other
"""
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.long
RUNS = {  # name: the script, the model it starts from, and options
    "dense": "train_expert seed", "frozen": "train_expert seed --train feed-forwards",
    "accumulated": "train_expert seed --grad_accum 2", "moe": "finetune_router btx_mixed --alpha 0",
    "router": "finetune_router btx_mixed --alpha 0 --train router",
    "thrifty": "finetune_router btx_mixed --alpha 0 --grad_accum 2 --recompute"}


def words(folder, tiny, name, label, *more):
    """A run of 4 steps that writes NAME_LABEL.pt, and a state after the third."""
    script, init, *options = RUNS[name].split()
    recipe = "--data math=0.5,general=0.5 --device cpu --steps 4 --batch_size 8 --lr 0.01 --save_every 3 --eval_windows 1"
    return [script, *recipe.split(), "--init", f"{tiny}/{init}.pt", "--data_dir", f"{tiny}/data",
            "--out", f"{folder}/{name}_{label}.pt", *options, *more]


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """The folder with all runs: NAME_1.pt on one rank, NAME_ddp.pt and NAME_shard.pt on two, NAME_resumed.pt on two, then one."""
    folder = tmp_path_factory.mktemp("ranks")
    two = [words(folder, tiny, name, "ddp") for name in RUNS]
    two += [words(folder, tiny, name, "shard", "--shard") for name in RUNS]
    two += [["unfinished", *words(folder, tiny, name, "resumed", "--shard")] for name in ("moe", "router")]
    one = [words(folder, tiny, name, "1") for name in RUNS]
    one += [words(folder, tiny, name, "resumed") for name in ("moe", "router")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    for command, runs in ((torchrun, two), ([sys.executable], one)):
        done = subprocess.run([*command, __file__, json.dumps(runs)], capture_output=True, text=True, timeout=200,
                              env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})
        assert done.returncode == 0, done.stderr[-5000:]
    return folder


@pytest.mark.parametrize("name,label", [(name, label) for name in RUNS for label in ("ddp", "shard")]
                         + [("moe", "resumed"), ("router", "resumed")])
def test_two_ranks_equal_one(trained, name, label):
    import torch

    from support import checkpoint
    one, two = (checkpoint.load(trained / f"{name}_{which}.pt") for which in ("1", label))
    for key, weight in one["model"].items():
        assert weight.dtype == torch.float64
        torch.testing.assert_close(two["model"][key], weight, rtol=0, atol=1e-10)
    assert one["lineage"][-1]["flops"] == two["lineage"][-1]["flops"]
    for a, b in zip(one["log"], two["log"], strict=True):
        assert a["val_loss"] == pytest.approx(b["val_loss"])


if __name__ == "__main__":
    import torch

    from support import checkpoint
    torch.set_default_dtype(torch.float64)
    for script, *argv in json.loads(sys.argv[1]):
        if script == "unfinished":
            script, *argv = argv
            checkpoint.save_trained = lambda *arguments: None
        import_module(script).main(argv)
