"""What several test files share: tiny data and models, made by the scripts themselves; make in this process."""
import importlib
import re
import shlex
import subprocess

import pytest
import torch

import mix
import train_expert
from data import prepare

torch.set_num_threads(1)  # for so small models more threads only wait for each other


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A folder with data/, a seed, two branches and two mixed models of all three; only read it.

    seed.pt, math.pt, code.pt: 2 layers, width 16, 3 steps. btx_mixed.pt: top-2. sample_mixed.pt: Sample Top-1.
    """
    folder = tmp_path_factory.mktemp("tiny")
    prepare.main(["--out", f"{folder}/data", "--train_tokens", "3000", "--val_tokens", "600", "--tasks", "6"])
    shape = "--n_layer 2 --n_embd 16 --n_head 2 --d_ff 16 --block_size 32".split()
    recipe = ["--data_dir", f"{folder}/data", *"--steps 3 --eval_windows 4 --device cpu".split()]
    models = [f"{folder}/seed.pt", f"{folder}/math.pt", f"{folder}/code.pt"]
    train_expert.main(["--data", "general", "--out", models[0], *shape, *recipe])
    train_expert.main(["--data", "math", "--init", models[0], "--out", models[1], *recipe])
    train_expert.main(["--data", "code", "--init", models[0], "--out", models[2], *recipe])
    mix.main([*models, "--out", f"{folder}/btx_mixed.pt"])
    mix.main([*models, "--routing", "sample", "--out", f"{folder}/sample_mixed.pt"])
    return folder


def call(command, capsys):
    """Do in this process what a line of `make -n` says, such as "python mix.py ..."; returns what it prints."""
    command = re.sub(r"\$\((.+?)\)", lambda inner: call(inner[1], capsys), command)
    script, *options = shlex.split(command.removeprefix("python ").removeprefix("-m "))
    importlib.import_module(script.removesuffix(".py")).main(options)
    return capsys.readouterr().out


def make(arguments, capsys):
    """Do in this process what make would do with these arguments; nothing is installed, and no time is stamped."""
    command = ["make", "-n", "-o", ".venv/ready", "-o", ".venv/pretrained", "PY=python", "MAKE=make", *arguments]
    planned = subprocess.run(command, capture_output=True, text=True, check=True).stdout.replace("\\\n", "")
    for line in dict.fromkeys(planned.splitlines()):  # make plans the data twice
        line = line.removeprefix("TQDM_DISABLE=1 ")
        if line.startswith("python "):
            call(line, capsys)
        elif line.startswith(("cp ", "mkdir ", "rm ")):
            subprocess.run(line, shell=True, check=True)
        elif not line.startswith(("make ", "make[", "touch ", "python3 ", ".venv/bin/pip ")):
            raise ValueError(f"make plans a command that is not known here: {line}")
