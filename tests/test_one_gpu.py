"""docs/one-gpu.md: its commands run from import to export, and make no tensor on the wrong device."""
import json
import re
import shlex
import subprocess
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
from test_hf import TEXTS, make_folder

from experiments import memory

PAGE = (Path(__file__).parent.parent / "docs/one-gpu.md").read_text()


@pytest.mark.long
def test_every_command_runs_in_small(tmp_path, monkeypatch):
    """Bash expands the commands, and programs in .venv/bin write down their options. Python's commands then run here.

    On the default device, meta, nothing can be computed. So a tensor that is made without device= stops a command.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/.venv/bin", prepend=":")
    Path(".venv/bin").mkdir(parents=True)
    for name in ("make", "pip", "hf", "lm_eval", "python"):
        Path(".venv/bin", name).write_text('#!/bin/bash\nprintf "%q " $(basename $0) "$@" >> all\necho >> all\n')
        Path(".venv/bin", name).chmod(0o755)
    commands = "".join(re.findall(r"```bash\n(.*?)```", PAGE, re.S))
    subprocess.run(["bash", "-eu"], input=commands, text=True, check=True)

    make_folder(tmp_path / "SmolLM2-135M", max_position_embeddings=2048)
    compile(Path("texts/get.py").read_text(), "get.py", "exec")
    for name in re.findall(r'save\("(\w+)"', PAGE):
        lines = [json.dumps({"text": f"{name} {text}"}) for text in TEXTS[:40]]
        Path(f"texts/{name}.jsonl").write_text("\n".join(lines))
    train = "--steps 2 --batch_size 2 --block_size 32 --eval_windows 1 --device cpu"
    smaller = {"train_expert": train, "finetune_router": train, "evaluate": "--windows 2 --batch_size 2 --device cpu"}
    for line in re.findall(r"python (?:-m )?(?!texts/)(.*)", Path("all").read_text()):
        script, *options = shlex.split(line)
        script = script.removesuffix(".py")
        with torch.device("meta") if script in smaller else nullcontext():
            import_module(script).main([*options, *smaller.get(script, "").split()])
    assert {"btm_document_top1", "btx_ridge", "dense"} < {*json.loads(Path("out/one-gpu/results.json").read_text())["models"]}


@pytest.mark.long
def test_the_memory_table_is_what_the_command_prints(capsys):
    memory.main([])
    assert capsys.readouterr().out in PAGE
