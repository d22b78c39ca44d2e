"""docs/one-gpu.md: its commands run from import to export, and its table of memory is what is counted."""
import json
import re
import shlex
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
from test_hf import TEXTS, make_folder

from experiments import memory

PAGE = (Path(__file__).parent.parent / "docs/one-gpu.md").read_text()
NOTE = 'note() { printf "%q " "$@"; echo; }; make() { note make "$@"; }\n'  # print a command instead of running it


@pytest.mark.long
def test_every_command_runs_in_small(tmp_path, monkeypatch):
    """Training and evaluation have meta as the default device, so a tensor made without device= stops them."""
    monkeypatch.chdir(tmp_path)
    blocks = "".join(re.findall(r"```bash\n(.*?)```", PAGE, re.S)).replace(".venv/bin/", "note ")
    noted = subprocess.run(["bash", "-eu"], input=NOTE + blocks, stdout=subprocess.PIPE, text=True, check=True).stdout
    compile(Path("texts/get.py").read_text(), "get.py", "exec")
    make_folder(tmp_path / "SmolLM2-135M", max_position_embeddings=2048)
    for name in re.findall(r'save\("(\w+)"', PAGE):
        lines = [json.dumps({"text": f"{name} {text}"}) for text in TEXTS]
        Path(f"texts/{name}.jsonl").write_text("\n".join(lines))
    train = "--steps 2 --batch_size 2 --block_size 32 --eval_windows 1 --device cpu"
    smaller = {"train_expert": train, "finetune_router": train, "evaluate": "--windows 2 --batch_size 2 --device cpu"}
    for command in re.findall(r"^python (?:-m )?(?!texts/)(.*)", noted, re.M):
        script, *options = shlex.split(command)
        script = script.removesuffix(".py")
        with torch.device("meta" if script in smaller else "cpu"):
            import_module(script).main([*options, *smaller.get(script, "").split()])
    assert len([*Path("out/one-gpu").glob("*-hf/config.json")]) == 5


@pytest.mark.long
def test_the_table_of_memory_is_what_the_command_prints(capsys):
    memory.main([])
    assert capsys.readouterr().out in PAGE
