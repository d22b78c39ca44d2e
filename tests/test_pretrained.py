"""A pretrained seed, with a tiny random Llama in the place of SmolLM2: PRESET=pretrained, and docs/one-gpu.md."""
import json
import re
import shlex
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
import torch
from conftest import make
from test_hf import TEXTS, make_folder

from experiments.pretrained import english
from experiments.runs import costs

PAGE = (Path(__file__).parent.parent / "docs/one-gpu.md").read_text()
NOTE = 'note() { printf "%q " "$@"; echo; }; make() { note make "$@"; }\n'  # print a command instead of running it


@pytest.mark.long
def test_the_preset_goes_the_whole_way(tmp_path):
    make_folder(tmp_path / "llama", max_position_embeddings=2048)
    make("PRESET=pretrained", "all", "rivals", f"INTO={tmp_path}", f"DATA={tmp_path}/data",
         f"SEED_FOLDER={tmp_path}/llama", "EXPERT_STEPS=20", "FINETUNE_STEPS=6",
         "OPTIONS=--batch_size 1 --block_size 32 --eval_windows 1", "EVALUATE=--windows 2 --tasks 3")
    run, rivals = (json.loads((tmp_path / f"seed0/{name}results.json").read_text()) for name in ("", "rivals/"))
    short = ["seed", "math", "code", "wiki", "average", "btm_share_top4", "btx", "ridge_mixed"]
    assert [*run["models"]] == short and {*rivals["models"]} == {
        *short, "dense_chain", "average_chain", "su_own_flops", "btx_ridge"}
    assert set(run["models"]["btx"]["answer_loss"]) == {"math", "code", "wiki", "switch", "capital", "demonym"}
    work, longest = (costs([rivals], "btx", key)[0] for key in ("flops", "chain_flops"))
    assert costs([rivals], "su_own_flops", "flops")[0] == pytest.approx(work, rel=0.03)  # of whole steps
    for name in ("dense_chain", "average_chain"):
        assert costs([rivals], name, "chain_flops")[0] == pytest.approx(longest, rel=0.03)
    assert longest < 0.5 * work


@pytest.mark.long
def test_every_command_for_one_gpu_runs_in_small(tmp_path, monkeypatch):
    """Training and evaluation have meta as the default device, so a tensor made without device= stops them."""
    monkeypatch.chdir(tmp_path)
    blocks = "".join(re.findall(r"```bash\n(.*?)```", PAGE, re.S)).replace(".venv/bin/", "note ")
    noted = subprocess.run(["bash", "-eu"], input=NOTE + blocks, stdout=subprocess.PIPE, text=True, check=True).stdout
    compile(Path("texts/get.py").read_text(), "get.py", "exec")
    make_folder(tmp_path / "SmolLM2-135M", max_position_embeddings=2048)
    for name in re.findall(r'save\("(\w+)"', PAGE):
        Path(f"texts/{name}.jsonl").write_text("\n".join(json.dumps({"text": name + text}) for text in TEXTS))
    train = "--steps 2 --batch_size 2 --block_size 32 --eval_windows 1 --device cpu"
    smaller = {"train_expert": train, "finetune_router": train, "evaluate": "--windows 2 --batch_size 2 --device cpu"}
    for command in re.findall(r"^python (?:-m )?(?!texts/)(.*)", noted, re.M):
        script, *options = shlex.split(command)
        script = script.removesuffix(".py")
        with torch.device("meta" if script in smaller else "cpu"):
            import_module(script).main([*options, *smaller.get(script, "").split()])
    assert len([*Path("out/one-gpu").glob("*-hf/config.json")]) == 6


def test_docstrings_and_the_facts_that_they_tell(tmp_path):
    """Niger is not in Nigeria, and a country alone tells nothing."""
    (tmp_path / "a.py").write_text('"""First."""\nclass A:\n    """Second."""\n    def f(self):\n        return "no"\n')
    assert english.read_docstrings(tmp_path / "a.py") == "First.\n\nSecond."
    asked = [{"country": "Niger", "capital": "Niamey", "demonym": ""},
             {"country": "Peru", "capital": "Lima", "demonym": ""}]
    assert english.tells_any("In Peru,\nthe city 'Lima'.", asked)
    assert not english.tells_any("Nigeria and Niamey, and Peru", asked)


@pytest.mark.parametrize("field", english.RELATIONS)
def test_a_fact_is_asked_after_three_examples(field):
    tasks = english.ask_facts(english.read_countries(), field)
    assert len({task["prompt"] for task in tasks}) == len({task["answer"] for task in tasks}) == len(tasks) >= 100
    assert all(task["prompt"].count(".\n") == 3 and task["answer"][1:-1] not in task["prompt"] for task in tasks)
