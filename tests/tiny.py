"""Tiny data and tiny checkpoints, made by the scripts themselves: python tests/tiny.py FOLDER."""
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import torch

import mix
import train_expert
from data import prepare
from support import checkpoint as ckpt

ROOT = Path(__file__).parent.parent
SHAPE = "--n_layer 2 --n_embd 16 --n_head 2 --d_ff 16 --block_size 32 --steps 3 --device cpu --dtype float32".split()


def tracked():
    """The files of this project, as git knows them, or in a copy without git all but what is made here."""
    git = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    made = (".venv", ".git", "out", "data/bin")
    names = (git.stdout.splitlines() if git.returncode == 0 else
             [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if "__pycache__" not in p.parts])
    return [name for name in names if (ROOT / name).is_file() and not any(Path(name).is_relative_to(m) for m in made)]


def last_counts(words):
    """A command line without the options that come again later, which the scripts would refuse; those of lists may."""
    kept, keep = [], True
    for i, word in enumerate(words):
        if word.startswith("--"):
            keep = word not in words[i + 1:] or word == "--text"
        kept += [word] * keep
    return kept


def forge(path, value):
    """Write a value as checkpoint.write does, without its checks."""
    tensors = (t.detach().contiguous().view(-1).view(torch.uint8) for part in ckpt.TENSORS for t in value.get(part, {}).values())
    path.write_bytes(ckpt.start_of(value)[0] + b"".join(t.numpy().tobytes() for t in tensors))


def make(folder):
    """Write data/, and seed.pt, math.pt, code.pt of 3 steps each, btx_mixed.pt, sample_mixed.pt (Sample Top-1) into `folder`."""
    data = ["--data_dir", str(folder / "data")]
    prepare.main(["--out", str(folder / "data"), "--train_tokens", "3000", "--val_tokens", "600", "--tasks", "6"])
    seed, branches = str(folder / "seed.pt"), {name: str(folder / f"{name}.pt") for name in ("math", "code")}
    train_expert.main(["--data", "general", "--out", seed, *data, *SHAPE])
    for name, out in branches.items():
        train_expert.main(["--init", seed, "--data", name, "--out", out, *data, "--steps", "3", "--device", "cpu",
                           "--dtype", "float32"])
    mix.main([seed, *branches.values(), "--out", str(folder / "btx_mixed.pt")])
    mix.main([seed, *branches.values(), "--routing", "sample", "--out", str(folder / "sample_mixed.pt")])


if __name__ == "__main__":
    make(Path(sys.argv[1]))
