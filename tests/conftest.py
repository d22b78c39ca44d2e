"""What several test files share: tiny data and models, made by the scripts themselves; and make."""
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mix
import train_expert
from data import prepare

torch.set_num_threads(1)  # for such small models, more threads just wait on each other


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A folder with data/, a seed, two branches and mixed models of all three; only read it.

    seed.pt, math.pt, code.pt: 2 layers, width 16, 3 steps. btx_mixed.pt: Top-2. sample_mixed.pt, soft_mixed.pt.
    """
    folder = tmp_path_factory.mktemp("tiny")
    prepare.main(["--out", f"{folder}/data", "--train_tokens", "3000", "--val_tokens", "600", "--tasks", "6"])
    shape = "--n_layer 2 --n_embd 16 --n_head 2 --d_ff 16 --block_size 128".split()
    recipe = ["--data_dir", f"{folder}/data", *"--steps 3 --eval_windows 4 --device cpu".split()]
    models = [f"{folder}/seed.pt", f"{folder}/math.pt", f"{folder}/code.pt"]
    train_expert.main(["--data", "general", "--out", models[0], *shape, *recipe])
    train_expert.main(["--data", "math", "--init", models[0], "--out", models[1], *recipe])
    train_expert.main(["--data", "code", "--init", models[0], "--out", models[2], *recipe])
    mix.main([*models, "--out", f"{folder}/btx_mixed.pt"])
    for name in ("sample", "soft"):
        mix.main([*models, "--routing", name, "--out", f"{folder}/{name}_mixed.pt"])
    return folder


def make(*arguments):
    """Call make with these arguments, for two programs at a time, but install nothing."""
    old = "-o .venv/ready -o .venv/pretrained"  # so they are not made again; make does not tell those that it calls
    command = ["make", "-j2", *old.split(), f"MAKE=make {old}", f"PY={sys.executable}", *arguments]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
