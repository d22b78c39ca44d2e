"""The recipe, written once more: what make runs for each model, and the constants of the paper and of Llama-2."""
import re
import subprocess
from pathlib import Path

import pytest

import finetune_router
import model
import train_expert
from cli import digest
from support import btm, router_start, training

FINETUNED = "general=14,trivia=5,math=27,code=27,wiki=27"
RECIPES = {  # {preset: {model: the options that make it what it is}}
    "cpu": {
        "seed": "--data general=38,trivia=48,math=9,code=2.5,wiki=2.5 --n_layer 4 --n_head 4 --n_embd 64 --tie_weights "
                "--d_ff 256 --steps 7000 --lr 5e-3",
        "math": "--init o/seed.pt --data math=95,general=4,trivia=1 --steps 1100 --lr 1.5e-3",
        "code": "--init o/seed.pt --data code=95,general=4,trivia=1 --steps 1100 --lr 1.5e-3",
        "wiki": "--init o/seed.pt --data wiki=95,general=4,trivia=1 --steps 1100 --lr 1.5e-3",
        "average": "o/seed.pt o/math.pt o/code.pt o/wiki.pt --average",
        "btx_mixed": "o/seed.pt o/math.pt o/code.pt o/wiki.pt --top_k 2 --seed 1",
        "btx": f"--init o/btx_mixed.pt --data {FINETUNED} --steps 770 --lr 1e-3 --alpha 0.01"},
    "pretrained": {
        "math": "--init o/seed.pt --data math=95,english=5 --steps 100 --lr 4e-4",
        "code": "--init o/seed.pt --data code=95,english=5 --steps 100 --lr 4e-4",
        "wiki": "--init o/seed.pt --data wiki=95,english=5 --steps 100 --lr 4e-4",
        "average": "o/seed.pt o/math.pt o/code.pt o/wiki.pt --average",
        "btx_mixed": "o/seed.pt o/math.pt o/code.pt o/wiki.pt --top_k 2 --seed 1",
        "ridge_mixed": "o/seed.pt o/math.pt o/code.pt o/wiki.pt --seed 1 --out o/ridge_mixed.pt "
                       "--router_data english,math,code,wiki --data_dir d --ridge",
        "btx": "--init o/btx_mixed.pt --data english=19,math=27,code=27,wiki=27 --steps 53 --lr 2e-4 --alpha 0.01"}}

PLANS = {  # {what make is asked for: a digest of the commands that it would run}
    "demo page": "d2b6bd195210fdee",
    "SEED=0": "476dc837e7c4ea62",
    "paper INTO=o REPORT=o SEEDS=1 OUT=o/seed1": "d9e1e2ef76af236c",
    "PRESET=pretrained all rivals": "41ec6db4e7afa397",
    "PRESET=gpu all": "9e9ec00c08e0b4ee",
    "-f experiments/untrained/recipe.mk row": "398df70507c7e028",
    "-f experiments/untrained/recipe.mk row PRESET=pretrained": "0949403046e1d954",
    "-f experiments/one_or_all/recipe.mk row": "e9943df7f1381ac5",
    "-f experiments/one_or_all/recipe.mk row PRESET=pretrained": "2b245056a6180ed6"}


def dry_run(*arguments):
    """The commands that make would run, one a line, with single spaces. SEED=0 would copy its seed."""
    command = ["make", "-n", "SEED=1", "OUT=o", "DATA=d", *arguments]
    out = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True).stdout
    return [" ".join(line.split()) for line in out.replace("\\\n", "").splitlines()]


@pytest.mark.parametrize("preset", RECIPES)
def test_make_runs_the_recipe(preset):
    commands = {}
    for line in dry_run(f"PRESET={preset}"):
        if name := re.search(r"--out o/(\w+)\.pt", line):
            commands[name[1]] = line
    assert commands.keys() == RECIPES[preset].keys()
    for name, options in RECIPES[preset].items():
        assert f"{options} " in f"{commands[name]} ", commands[name]


@pytest.mark.parametrize("goals", PLANS)
def test_make_plans_what_the_pages_were_measured_with(goals):
    """The digests also hold what no other test reads, such as rivals. Compare the commands before and after a change,
    and then change the digest, which the message shows.
    """
    plan = sorted(line for line in dry_run("-B", *goals.split()) if re.search(r"\.venv/bin/python | cp ", line))
    assert digest("\n".join(plan).encode()) == PLANS[goals], "\n".join(plan)


def test_constants_are_those_of_their_sources():
    # Llama-2 (Touvron et al. 2023), section 2.2; the paper names no others
    assert (training.BETAS, training.EPS, training.CLIP, training.WEIGHT_DECAY) == ((0.9, 0.95), 1e-5, 1.0, 0.1)
    assert training.WARMUP == 0.05
    # ours, in all results of Branch-Train-Merge and of routers from text
    assert (btm.SHARE, btm.TEMPERATURE, btm.N_WINDOWS, router_start.N_WINDOWS) == (0.01, 0.1, 200, 16)
    assert router_start.ridge_router.__defaults__ == (1.0,)  # the penalty
    # the paper, section 4.1: shares of finetuning's data; 3.3: alpha, Switch's capacity
    stage1 = train_expert.parse(["--data=math", "--out=a.pt"])
    stage3 = finetune_router.parse(["--init=a.pt", "--out=b.pt"])
    shares = {"general": 0.1923, "math": 0.3016, "code": 0.4031, "wiki": 0.1030}
    assert stage3.data == pytest.approx(shares)
    assert stage3.alpha == 0.01 and model.CAPACITY_FACTOR == 1.5
    assert stage1.eps == stage3.eps == 1e-5 and model.GPTConfig().top_k == 2
