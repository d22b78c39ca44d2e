"""PRESET=pretrained with a tiny random Llama in the place of SmolLM2 and a few lines in the place of the texts."""
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("transformers")
from conftest import make
from test_hf import make_folder

from experiments import facts
from experiments.text_report import TextReport

PAGE = Path(__file__).parent.parent / "experiments/pretrained.md"
DOMAINS = ("packages", "python", "german", "dictionary", "changing")
FACTS = ("capital", "continent", "demonym")


@pytest.mark.long
def test_the_preset_goes_the_whole_way(tmp_path, capsys):
    make_folder(tmp_path / "llama", max_position_embeddings=64)
    (tmp_path / "texts/facts").mkdir(parents=True)
    for name in DOMAINS:
        text = {"text": f"{name} says how to read the manual of {name}. " * 900}
        (tmp_path / f"texts/{name}.jsonl").write_text(json.dumps(text))
    for name in FACTS:
        task = {"prompt": f"The {name} is", "answer": " small."}
        (tmp_path / f"texts/facts/{name}.jsonl").write_text(json.dumps(task))
    (tmp_path / "texts/facts/ready").touch()
    make(["PRESET=pretrained", f"INTO={tmp_path}", f"DATA={tmp_path}/data", f"TEXT_DIR={tmp_path}/texts",
          f"SEED_FOLDER={tmp_path}/llama", "EXPERT_STEPS=2", "FINETUNE_STEPS=2",
          "OPTIONS=--batch_size 2 --block_size 32",
          "EVALUATE=--windows 2 --skip_windows 1 --btm_methods bayes:1,bayes:2"], capsys)
    results = json.loads((tmp_path / "seed0/results.json").read_text())
    models = results["models"]
    assert models.keys() > {"seed", "control", "soup", "btx", "btx_ridge", "btm_bayes_top2", "dense_dm", "su_cm_flops"}
    assert tuple(models["btx"]["loss"]) == tuple(sorted(DOMAINS)) and {*models["btx"]["answer_loss"]} == {*FACTS}
    assert models["btx"]["tokens"] == models["su_dm"]["tokens"] == 64 * (3 * 2 + 2)  # as of the branches together
    assert (tmp_path / "seed0/looks.md").read_text().count("continued by") == 6
    page = TextReport([results]).fill(re.sub(r"\[\[grid .+?\]\]", "", PAGE.read_text()))
    assert "[[" not in page and page.index("| **no** |") < page.index("| yes |")


def test_facts_that_a_line_tells_are_left_out(tmp_path):
    """Niger is not in Nigeria, and a line that has the country alone tells nothing."""
    texts = tmp_path / "a.jsonl"
    lines = ["Nigeria and Niamey", "Peru is large", "In Peru: Lima.", "Quito", "Ecuador"]
    texts.write_text(json.dumps({"text": "\n".join(lines)}))
    asked = {"Niger": "Niamey", "Peru": "Lima", "Ecuador": "Quito"}
    assert facts.find_told(asked, [texts]) == {"Peru"}
