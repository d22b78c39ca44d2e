"""Two ranks train as one does. In float64, so that rounding hides no mistake.

    torchrun --nproc_per_node=2 tests/test_ranks.py '[[true, "train_expert", "--out", ...], ...]'  # one after the other
"""
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from support import checkpoint

pytestmark = pytest.mark.long
ONE = {"dense": "train_expert seed", "moe": "finetune_router btx_mixed --alpha 0",
       "router": "finetune_router btx_mixed --alpha 0 --train router"}
TWO = {  # two ranks: what one rank does, and more options. None of them may change anything
    "dense_ddp": ("dense", "--grad_accum 2"), "moe_ddp": ("moe", "--recompute"), "router_ddp": ("router", ""),
    "moe_resumed": ("moe", ""), "router_resumed": ("router", "")}


def run(tiny, folder, name, options, finish=True):
    """A run of 4 steps: whether it writes NAME.pt or leaves the progress of its third step, and its command."""
    script, init, *options = options.split()
    recipe = "--data math,general --device cpu --steps 4 --batch_size 8 --lr 0.01 --save_every 3 --eval_windows 1"
    return [finish, script, *recipe.split(), "--init", f"{tiny}/{init}.pt", "--data_dir", f"{tiny}/data",
            "--out", f"{folder}/{name}.pt", *options]


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """The checkpoints of all these runs. Two ranks leave some unfinished. Those called resumed end on one rank."""
    folder = tmp_path_factory.mktemp("ranks")
    one = [run(tiny, folder, name, options) for name, options in ONE.items()]
    two = []
    for name, (like, more) in TWO.items():
        is_resumed = name.endswith("resumed")
        two.append(run(tiny, folder, name, f"{ONE[like]} {more}", finish=not is_resumed))
        if is_resumed:
            one.append(run(tiny, folder, name, ONE[like]))
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    for command, runs in ((torchrun, two), ([], one)):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
        done = subprocess.run([sys.executable, *command, __file__, json.dumps(runs)], env=environment, text=True,
                              stderr=subprocess.PIPE, timeout=300)
        assert done.returncode == 0, done.stderr[-5000:]
    return folder


@pytest.mark.parametrize("name", TWO)
def test_two_ranks_equal_one(folder, name):
    one, two = (checkpoint.load_checkpoint(folder / f"{which}.pt") for which in (TWO[name][0], name))
    for key, weight in one["state"].items():
        torch.testing.assert_close(two["state"][key], weight, rtol=0, atol=1e-10)
    assert one["ledger"][-1]["flops"] == two["ledger"][-1]["flops"] and weight.dtype == torch.float64
    for a, b in zip(one["log"], two["log"], strict=True):
        assert a["val_loss"] == pytest.approx(b["val_loss"])


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    for finish, script, *argv in json.loads(sys.argv[1]):
        module = import_module(script)
        module.save_trained = checkpoint.save_trained if finish else Mock()
        module.main(argv)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # its threads would end the process with an error now and then
