"""Runs that are killed at random moments, and started again by the same command, end as if nothing had been."""
import multiprocessing
import random
import time

import pytest
import torch

import finetune_router
import train_expert
from support import checkpoint


def saved_step(out):
    """How many steps the state of a run has behind it. Raises BadInput if that file is not whole."""
    path = checkpoint.state_path(out)
    return checkpoint.read(path, checkpoint.STATE_KEYS)["step"] if path.exists() else 0


@pytest.mark.long
@pytest.mark.parametrize("module,init", [(train_expert, "seed"), (finetune_router, "sample_mixed")])
def test_a_killed_run_goes_on(tiny, tmp_path, monkeypatch, module, init):
    """SIGKILL, at any moment of a step or of a save. The state is read all the time, and is always whole."""
    options = (f"--init {tiny}/{init}.pt --data math=0.5,general=0.5 --data_dir {tiny}/data --device cpu --steps 60 "
               "--batch_size 2 --save_every 1 --eval_windows 1 --eval_every 20 --out").split()
    module.main([*options, f"{tmp_path}/whole.pt"])
    out, rng, last = tmp_path / "killed.pt", random.Random(0), 0
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "torch.distributed.checkpoint.state_dict"])  # slow to import
    for step in sorted(rng.sample(range(1, 40), 6)):
        run = context.Process(target=module.main, args=([*options, str(out)],), daemon=True)
        run.start()
        while saved_step(out) < step:
            assert run.is_alive() and saved_step(out) >= last
        time.sleep(rng.uniform(0, 0.02))
        run.kill()
        run.join()
        last = saved_step(out)
        assert run.exitcode < 0 and last >= step and not out.exists()
    module.main([*options, str(out)])
    want, got = (checkpoint.load(tmp_path / name) for name in ("whole.pt", "killed.pt"))
    assert all(torch.equal(want["model"][name], got["model"][name]) for name in want["model"])
    assert [line["val_loss"] for line in got["log"]] == [line["val_loss"] for line in want["log"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.pt", "whole.pt"]
