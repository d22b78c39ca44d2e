"""live.html computes what PyTorch computes: node runs the page's own JavaScript on texts from the data."""
import json
import random
import re
import shutil
import string
import subprocess
from pathlib import Path

import pytest
import torch

import finetune_router
import mix
from data.loader import load_domains
from data.task import Task
from data.tokenizer import END, load_tokenizer
from page import article, live
from support.checkpoint import load_checkpoint

pytestmark = pytest.mark.skipif(not shutil.which("node"), reason="node is not installed: it runs the page")
TOKENIZER = load_tokenizer()
EXPERTS = ["seed", "math", "code", "wiki"]
TASK = Task("</script><script>1 + 1?", " 2.")


def node(page, function, **values):
    """The result of a function in tests/live.js, which calls the page's own functions."""
    command = ["node", "tests/live.js", page, function]
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def checkpoints(tiny, tmp_path_factory):
    """The models of data/start, mixed, and finetuned for 3 steps with frozen experts."""
    folder = tmp_path_factory.mktemp("live")
    paths = [f"data/start/{name}.pt" for name in EXPERTS]
    mix.main([*paths, "--out", f"{folder}/btx_mixed.pt"])
    finetune_router.main(f"--init {folder}/btx_mixed.pt --data math,code --data_dir {tiny}/data --steps 3 --device cpu "
                         f"--eval_windows 1 --train all-but-experts --out {folder}/btx.pt".split())
    paths = [*reversed(paths), f"{folder}/btx_mixed.pt", f"{folder}/btx.pt"]  # the page takes any order of experts
    return {Path(path).stem: load_checkpoint(path) for path in paths}


@pytest.fixture(scope="module")
def page(checkpoints, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "live.html"
    stranger = checkpoints["math"] | {"ledger": [*checkpoints["seed"]["ledger"], {"id": "no ancestor"}]}
    models = {"stranger": stranger, **checkpoints}
    assert "(live.html)" in live.write_page(path, models, {"general": [TASK] * 3, "math": [TASK]})
    return path


@pytest.mark.parametrize("names, top_k, off", [
    ([*EXPERTS, "btx_mixed", "btx", "average"], 2, []), (["btx"], 1, []), (["btx"], 4, []), (["btx"], 2, [1]),
    (["btx"], 2, [0, 1, 3])])
@torch.inference_mode()
def test_models_compute_and_answer_as_in_pytorch(names, top_k, off, checkpoints, page, tiny):
    """The page stacks and averages by itself. Experts are switched off and k varies; a single one left is forced."""
    tasks = [task for domain in load_domains(tiny / "data").values() for task in domain.tasks[:2]]
    prompts = [TOKENIZER.encode_prompt(task.prompt) for task in tasks]
    found = node(page, "answers", names=names, prompts=prompts, eot=TOKENIZER.eot, top_k=top_k, off=off)
    data = json.loads(re.search(r'id="data">(.*)</script>', page.read_text())[1])
    models = article.models_of_page(checkpoints, data)
    assert {name for name, _ in found} == {*names}
    for name, answers in found:
        article.switch_off(models[name], off, top_k)
        for ids, answer in zip(prompts, answers, strict=True):
            read, written = answer["tokens"][:len(ids) - 1], answer["tokens"][len(ids) - 1:]
            logits, _, routing = models[name](torch.tensor([ids + written[:-1]]))
            assert read == ids[1:] and written == logits[0, len(read):].argmax(-1).tolist()
            assert TOKENIZER.eot not in written[:-1] and (len(written) == 12 or written[-1] == TOKENIZER.eot)
            assert (torch.tensor(answer["logits"]) - logits[0, -1]).abs().max() < 1e-4  # they depend on all tokens
            for i, layer in enumerate(routing):
                n_asked = min(top_k, len(EXPERTS) - len(off))  # none that is off, with a gate of 0
                assert [experts[i] for experts in answer["experts"]] == layer.experts[:, :n_asked].tolist()
            if routing:
                mean = sum(layer.dense_gates() for layer in routing) / len(routing)  # (T, N)
                assert (torch.tensor(answer["load"]) - mean).abs().max() < 1e-4


def test_the_tokenizer_is_tiktoken(page):
    rng = random.Random(0)
    strange = ["", " ", "  \n\t x", "Tom hat 3 €.", "naïve Ünïcode ß", "日本語 と 中文", "😀👩‍👩‍👧 é́", "a" * 99, "٣½²",
               "\u00a0\u2003\u0085\ufeff\x1c", f"one{END}two", END, f"{END}{END} "]
    for alphabet in (string.printable, "".join(map(chr, range(0x250))), "aé€😀 \n1½,\u2028\u00a0ßЖ中"):
        strange += ["".join(rng.choices(alphabet, k=rng.randint(1, 40))) for _ in range(100)]
    ids, decoded = node(page, "tokens", texts=strange)
    assert ids == [TOKENIZER.encode_prompt(text) for text in strange]
    assert decoded == [TOKENIZER.decode(text) for text in ids]


def test_text_never_becomes_markup_and_nothing_is_fetched(page):
    """A task that contains markup comes back unchanged. The page's code only sets text, and names no other file."""
    tasks = node(page, "tasks")
    assert [task["domain"] for task in tasks] == ["general", "math", "general", "general"]
    assert tasks[0] == {"domain": "general", "prompt": TASK.prompt, "answer": TASK.answer}
    spread = live.choose_tasks({"math": [Task(f"{i}", "") for i in range(100)]})
    assert [task["prompt"] for task in spread] == [f"{i}" for i in range(0, 80, 2)]
    code = re.sub(r'id="data">.*|<link rel="icon" href="data:,">', "", page.read_text())
    assert TASK.prompt not in page.read_text() and code.count("<script") == code.count("</script>") + 1 == 3
    assert not re.search(r"innerHTML|insertAdjacent|document\.write|\bsrc=|url\(|<link|import |fetch\(", code)


def test_an_expert_counts_alone_before_finetuning_and_is_missing_after_it(checkpoints, page):
    data = json.loads(re.search(r'id="data">(.*)</script>', page.read_text())[1])
    models = article.models_of_page(checkpoints, data)
    assert [*models] == [*reversed(EXPERTS), "btx_mixed", "btx", "average"]  # no stranger
    counts = [(entry["name"], len(entry["off"])) for entry in article.count(models, data) if entry["off"]]
    assert counts == [("btx_mixed", 3)] * 4 + [("btx", 1)] * 4


def test_the_page_of_split_experts_leaves_out_their_parents(checkpoints, tmp_path):
    """They are wider than the experts. So the page has all weights of the MoE, and mixes nothing."""
    mix.main(f"data/start/seed.pt data/start/math.pt --split 2 --out {tmp_path}/split.pt".split())
    models = {"seed": checkpoints["seed"], "split": load_checkpoint(tmp_path / "split.pt")}
    live.write_page(tmp_path / "live.html", models, {})
    assert node(tmp_path / "live.html", "model_names") == ["split"]


def test_the_article_is_what_the_code_writes(tmp_path):
    """After a change, run `make page` again. The article is one file of at most 5 MB."""
    page = Path("page/index.html").read_text()
    data = json.loads(re.search(r'id="data">(.*)</script>', page)[1])
    live.fill(tmp_path / "page.html", data, is_article=True)
    assert page == (tmp_path / "page.html").read_text() and len(page.encode()) < 5e6
    links = re.findall(r'href="(\.\./.*?)"', page)
    assert links and all(Path("page", link).exists() for link in links)
