"""Two ranks train as one does."""
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from support.checkpoint import load_checkpoint

ROOT = Path(__file__).parent.parent
TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]


@pytest.mark.long
@pytest.mark.parametrize("script, init, options", [
    ("train_expert", "seed", "--grad_accum 2"), ("finetune_router", "btx_mixed", "--alpha 0 --recompute"),
    ("finetune_router", "btx_mixed", "--alpha 0 --train router")])
def test_two_ranks_equal_one(script, init, options, tiny, tmp_path):
    """With an epsilon so large that AdamW does not make much of rounding."""
    recipe = (f"--init {tiny}/{init}.pt --data math,general --data_dir {tiny}/data --device cpu --steps 4 --lr 0.03 "
              f"--batch_size 8 --eps 0.01 --eval_windows 1 {options} --out {tmp_path}")
    import_module(script).main(f"{recipe}/one.pt".split())
    command = [sys.executable, *TORCHRUN, f"{script}.py", *f"{recipe}/two.pt".split()]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, timeout=300)
    one, two = load_checkpoint(tmp_path / "one.pt"), load_checkpoint(tmp_path / "two.pt")
    start = load_checkpoint(tiny / f"{init}.pt")
    for name, weight in one["state"].items():
        torch.testing.assert_close(two["state"][name], weight, rtol=0, atol=1e-5)
    assert max((one["state"][name] - start["state"][name]).abs().max() for name in start["state"]) > 0.01
    assert one["ledger"][-1]["flops"] == two["ledger"][-1]["flops"] and two["ledger"][-1]["ranks"] == 2
    assert one["log"][-1]["val_loss"] == pytest.approx(two["log"][-1]["val_loss"], abs=1e-5)
