"""A user's mistake ends with one line that names it, with exit code 2, and with nothing written."""
import errno
import shutil
import subprocess
from importlib import import_module
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

import mix
from cli import run

ROOT = Path(__file__).parent.parent
TRAIN = "--data math --data_dir data --device cpu --steps 1 --out new/a.pt"
NEW = f"train_expert {TRAIN} --n_layer 1 --n_embd 16 --n_head 2 --block_size 32"
BRANCH = f"train_expert {TRAIN} --init seed.pt"
FINETUNE = f"finetune_router {TRAIN} --init btx_mixed.pt"
MIX = "mix --out new/a.pt --data_dir data seed.pt math.pt"
EVALUATE = "evaluate --out new --data_dir data --device cpu --tasks 1 --windows 1"
SAMPLE = "sample --device cpu"
PREPARE = "data.prepare --domains= --out new"
REFUSED = {  # {a command: {options that are added: what the answer names}}; the last of two equal options counts
    NEW: {"--steps 0": "--steps", "--lr -1": "--lr", "--seed -1": "--seed", f"--seed {2**63}": "--seed",
          f"--d_ff {2**62}": "--d_ff", f"--batch_size {2**61}": "--batch_size", "--device nosuch": "nosuch",
          "--device meta": "meta", "--data poems": "poems", "--data math=x": "--data", "--data math=0": "--data",
          "--data math,math": "--data", "--data_dir new": "new: no", "--n_embd 18 --n_head 6": "RoPE",
          "--block_size 5000": "--block_size", "--out new/a.progress": ".pt", "--init=": "no such file",
          "--init data": "data: cannot be read (Is a directory)", "--batch_size 6 --grad_accum 4": "--grad_accum"},
    BRANCH: {"--d_ff 16": "--d_ff", "--init btx_mixed.pt": "finetune_router", "--out seed.pt": "would be lost",
             "--init stranger.pt": "different tokenizers"},
    FINETUNE: {"--init math.pt": "mix.py", "--init stranger_mixed.pt": "tokenizers", "--out btx_mixed.pt": "be lost",
               "--init narrow.pt --fast": "multiples of 8", "--batch_size 6 --grad_accum 4": "--grad_accum"},
    MIX: {"--top_k 3": "--top_k 3", "--top_k 1": "--routing switch", "--routing switch --top_k 2": "--top_k",
          "--split 3": "--split", "code.pt --blend": "--blend", "btx_mixed.pt": "is an MoE", "--ridge": "--router_data",
          f"{ROOT}/data/start/math.pt": "share no seed", "shape.pt": "of its config", "orphan.pt": "share no seed",
          "--out seed.pt": "would be lost", "--router_data math,meth": "meth", "--router_data math": "different",
          "--router_data math,math": "different", "--router_data math,switch": "shorter", "--sharpness 2": "--ridge",
          "--ridge --sharpness 0": "from 1", "--ridge --sharpness inf": "from 1",
          "--router_data math,code --ridge --sharpness 1e39": "--sharpness: the",
          "seed.pt --router_data math,code,wiki": "twice",
          "--average --router_data math,code": "--router_data", "--blend --router_data math,code": "--router_data"},
    "mix --out new/a.pt": {"seed.pt": "at least two"},
    EVALUATE: {"seed.pt ./seed.pt": "one name", "stranger.pt": "tokenizer", "seed.pt short.pt": "a model reads 32",
               "seed.pt --btm ode": "ode", "btx_mixed.pt --btm btx_mixed": "dense", "seed.pt --btm seed,seed": "once",
               "seed.pt --btm_methods bayes:1": "--btm", "seed.pt --btm seed --btm_methods poems:1": "poems:1",
               "seed.pt --btm seed --btm_methods bayes:0": "to 1", "seed.pt --btm seed --btm_methods bayes:2": "to 1"},
    SAMPLE: {"seed.pt --experts": "dense", "seed.pt btx_mixed.pt": "is an MoE", "seed.pt stranger.pt": "tokenizers",
             f"seed.pt --prompt {'7' * 128}": "129 tokens", "nan.pt": "nan.pt",
             "field.pt": "field.pt", "later.pt": "no router 'later'",
             "four.pt": "from 1 to 3", "none.pt": "from 1 to 3", "seed.pt --temperature 1e-45": "--temperature"},
    PREPARE: {"--text own=nowhere": "nowhere", "--text math=a.txt": "math_text", "--text a.txt": "NAME",
              "--text own=a.txt --domains meth": "meth",
              "--text own=a.txt b=a.*": "share", "--own_tasks own=a.txt": "line 1", "--text own=empty.txt": "empty",
              "--text own=a.txt --out a.txt": "cannot", "--own_tasks own=empty.txt": "empty",
              "--tokenizer 300": "--text", "--own_tasks own=nowhere": "nowhere", "": "nothing to prepare"}}
READERS = (f"{BRANCH} --init bad.pt", f"{FINETUNE} --init bad.pt", f"{BRANCH} --out unfinished.pt",
           "mix --out new/a.pt seed.pt bad.pt", f"{EVALUATE} bad.pt", f"{SAMPLE} bad.pt", f"{PREPARE} --init bad.pt")


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """A folder with the tiny data and models, and with models that are broken or do not fit the others."""
    folder = tmp_path_factory.mktemp("bad_input")
    for path in tiny.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "a.txt").write_text("good " * 9)
    mix.main([f"{tiny}/seed.pt", f"{tiny}/math.pt", "--split", "4", "--out", f"{folder}/narrow.pt"])  # d_ff is 4
    good = torch.load(tiny / "math.pt", weights_only=True)
    other = good["spec"] | {"fingerprint": "other"}
    nan = good["state"] | {"norm.weight": torch.full((16,), float("nan"))}
    changes = {"orphan": {"ledger": []}, "stranger": {"spec": other}, "nan": {"state": nan},
               "stranger_mixed": {"spec": other, "experts": ["a", "b"]}}
    for name, field in (("short", {"block_size": 32}), ("shape", {"d_ff": 32}), ("field", {"nosuch": 1}),
                        ("later", {"routing": "later"})):
        changes[name] = {"config": good["config"] | field}
    moe = torch.load(tiny / "btx_mixed.pt", weights_only=True)
    for name, top_k in (("four", 4), ("none", 0)):
        changes[name] = moe | {"config": moe["config"] | {"top_k": top_k}}
    for name, change in changes.items():
        torch.save(good | change, folder / f"{name}.pt")
    (folder / "empty.txt").touch()
    return folder


def refusal(line, capsys):
    """The one line with which a script refuses a command. The script must write nothing."""
    script, *argv = line.split()
    before = {path: path.read_bytes() for path in Path().rglob("*.*")}
    with pytest.raises(SystemExit, match="2"):
        run(lambda: import_module(script).main(argv))
    lines = capsys.readouterr().err.splitlines()
    [said] = [line for line in lines if line and "it/s]" not in line]  # without progress bars
    assert {path: path.read_bytes() for path in Path().rglob("*.*")} == before
    return said


@pytest.mark.parametrize("line,more", [(line, more) for line in REFUSED for more in REFUSED[line]])
def test_a_wrong_command_is_refused(line, more, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert REFUSED[line][more] in refusal(f"{line} {more}", capsys)


@pytest.mark.parametrize("line", READERS)
def test_a_foreign_file_is_refused_and_nothing_executed(line, folder, monkeypatch, capsys):
    """It is given as a checkpoint, or as the progress of an interrupted run."""
    monkeypatch.chdir(folder)
    name = "unfinished.progress" if "unfinished" in line else "bad.pt"
    planted = Mock(__reduce__=lambda self: (open, ("created.txt", "w")))  # unpickled without care, it creates a file
    for value in ({"state": {}}, planted):
        torch.save(value, name)
        assert name in refusal(line, capsys)
    Path(name).write_bytes(Path("seed.pt").read_bytes()[:-100])
    assert name in refusal(line, capsys)
    Path(name).unlink()


@pytest.mark.parametrize("file", ["meta.json", "tasks.jsonl", "train.bin", "val.bin", "seed.pt"])
@pytest.mark.parametrize("damage", ["gone", "cut", "changed"])
def test_a_damaged_file_is_found(file, damage, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny / "data", "data")
    shutil.copy(tiny / "seed.pt", "seed.pt")
    path = Path(file) if file == "seed.pt" else Path("data/math", file)
    content = path.read_bytes()
    middle = len(content) // 2
    changed = {"cut": content[:-7], "changed": content[:middle] + bytes(8) + content[middle + 8:]}
    path.unlink()
    if damage != "gone":
        path.write_bytes(changed[damage])
    said = refusal(BRANCH, capsys)
    assert ("seed.pt" if file == "seed.pt" else "math") in said
    assert ("damaged" in said or "weights are not" in said) == (damage != "gone")


@pytest.mark.parametrize("fail, code, said", [
    (Mock(side_effect=KeyboardInterrupt), 130, "interrupted"),
    (Mock(side_effect=OSError(errno.ENOSPC, "No space left")), 2, "No space left"),
    (lambda: torch.empty(2**60), 2, "memory is full"), (lambda: bytearray(2**60), 2, "memory is full"),
    (lambda: Path("nosuch/a").read_text(), 2, "nosuch/a")])
def test_the_last_net(fail, code, said, capfd):
    with pytest.raises(SystemExit, match=str(code)):
        run(fail)
    assert said in capfd.readouterr().err


def test_an_interrupted_make_keeps_a_model_that_is_written(tmp_path):
    """The signal comes after the model is written and before the program that wrote it ends."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ntouch {tmp_path}/math.pt\nkill -INT $PPID\nsleep 1\n")
    python.chmod(0o755)
    (tmp_path / "seed.pt").touch()
    subprocess.run(["make", f"OUT={tmp_path}", f"PY={python}", "-o", f"{tmp_path}/seed.pt", f"{tmp_path}/math.pt"],
                   cwd=ROOT, capture_output=True)
    assert (tmp_path / "math.pt").exists()


@pytest.mark.parametrize("variable", ["PRESET=experiments", "INTO=my out", "SEED=1 2"])
def test_a_wrong_variable_of_make_is_one_line(variable):
    done = subprocess.run(["make", "-n", variable], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and variable.split("=")[0] in done.stderr
