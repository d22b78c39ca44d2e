"""PRESET=pretrained with a tiny random Llama in the place of SmolLM2, and what its texts and tasks are made of."""
import json
from pathlib import Path
from statistics import mean

import pytest

pytest.importorskip("transformers")
from conftest import make
from test_hf import make_folder

from experiments import english, facts

TASKS = ("capital", "continent", "demonym", "math3", "code3", "wiki3")


@pytest.mark.long
def test_the_preset_goes_the_whole_way(tmp_path, capsys):
    make_folder(tmp_path / "llama", max_position_embeddings=64)
    texts = tmp_path / "texts"
    texts.mkdir()
    documents = [{"text": f"How to read manual {n}: from its beginning to its end. " * 9} for n in range(30)]
    (texts / "english.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    for name in TASKS:
        (texts / f"{name}.jsonl").write_text(json.dumps({"prompt": f"The {name} is", "answer": " small."}))
    (texts / "ready").touch()
    make(["PRESET=pretrained", f"INTO={tmp_path}", f"DATA={tmp_path}/data", f"SEED_FOLDER={tmp_path}/llama",
          "EXPERT_STEPS=2", "FINETUNE_STEPS=2", "OPTIONS=--batch_size 2 --block_size 32",
          "EVALUATE=--windows 2 --tasks 3 --btm_methods tfidf:2,bayes:1"], capsys)
    models = json.loads((tmp_path / "seed0/results.json").read_text())["models"]
    assert models.keys() > {"seed", "soup", "ridge_mixed", "btx_ridge", "btm_tfidf_top2", "su_cm_flops"}
    assert set(models["btx"]["bits_per_byte"]) == {"math", "code", "wiki", "switch", "english"}
    assert {*TASKS, "math", "code", "wiki", "switch"} == {*models["btx"]["answer_loss"]}
    n_tokens = models["btx"]["tokens"]
    assert n_tokens == 64 * (1 + 3 * 2 + 2)  # the seed's step at rate 0, three branches, finetuning
    for name in ("su_dm", "dense_dm", "dense_one", "dense_noenglish", "btx_noenglish", "soup_tuned"):
        assert models[name]["tokens"] == n_tokens


def test_docstrings_and_the_facts_that_they_tell(tmp_path):
    """Niger is not in Nigeria, and a country alone tells nothing."""
    (tmp_path / "a.py").write_text('"""First."""\nclass A:\n    """Second."""\n    def f(self):\n        return "no"\n')
    assert english.read_docstrings(tmp_path / "a.py") == "First.\n\nSecond."
    asked = {"Niger": "Niamey", "Peru": "Lima"}
    assert english.tells_any("In Peru,\nthe city 'Lima'.", asked)
    assert not english.tells_any("Nigeria and Niamey, and Peru", asked)


def test_a_task_has_three_examples_before_it():
    [(prompt, answer), *others] = facts.ask_domain("math")
    *examples, question = prompt.split("\n\n")
    assert len(examples) == 3 and all(example.endswith(".") and "=" in example for example in examples)
    assert question.endswith("?") and "=" in answer and len(others) == facts.N_TASKS - 1
    known = {"France": "Paris", "Kenya": "Nairobi", "Peru": "Lima", "Chad": "N'Djamena"}
    [(prompt, answer)] = facts.ask_facts(known, "The capital of {} is")
    assert prompt.splitlines()[2:] == ["The capital of Peru is Lima.", "The capital of Chad is"]
    assert answer == " N'Djamena."


def test_the_page_has_the_numbers_of_the_trials_and_of_the_run():
    page = Path(__file__).parent.parent / "results/pretrained"
    rows = [line.strip("| ").split(" | ") for line in (page / "README.md").read_text().splitlines()]
    trials, run = (json.loads((page / name).read_text()) for name in ("trials.json", "results.json"))
    for trial in trials:
        assert [trial["expert"], str(trial["level"]), str(trial["steps"]), trial["lr"],
                f"{100 * trial['accuracy']:.1f}", str(trial["tasks"])] in rows
    steps80, run80 = json.loads((page / "steps80.json").read_text())["accuracy"], ["80 steps"]
    for models in (("math", "code", "wiki"), 3 * ("soup",), 3 * ("ridge_mixed",)):
        solved = [steps80[name][domain] for name, domain in zip(models, ("math", "code", "wiki"), strict=True)]
        run80.append(", ".join(f"{100 * accuracy:.0f}" for accuracy in solved))
    assert run80 in rows
    n_rows = 0
    for model in run["models"].values():
        solved = [f"{100 * model['accuracy'][domain]:.0f}" for domain in ("math", "code", "wiki", "switch")]
        known = mean(model["accuracy"][name] for name in facts.RELATIONS)
        loss = mean(model["answer_loss"][name] for name in facts.RELATIONS)
        with_examples = ""
        if "math3" in model["accuracy"]:  # BTM was not asked
            with_examples = f"{100 * mean(model['accuracy'][name] for name in ('math3', 'code3', 'wiki3')):.0f}"
        numbers = [*solved[:3], with_examples, solved[3], f"{100 * known:.0f}", f"{loss:.2f}",
                   f"{model['bits_per_byte']['english']:.3f}"]
        n_rows += any([cell.strip() for cell in row[1:9]] == numbers for row in rows)
    assert n_rows == len(run["models"]) > 12
