"""The page on which a person explores the routing: its numbers are the model's, and a real browser draws them."""
import json
import re
import shutil
import subprocess

import pytest
import torch

import evaluate
import sample
from data import tokenizer
from support import checkpoint as ckpt
from support import explore

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync").split()


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)[1])


@pytest.fixture(scope="module")
def page(tiny, tmp_path_factory):
    """explore.html of an evaluation of a dense model, a mixed one and one with Sample Top-1."""
    out = tmp_path_factory.mktemp("explore")
    models = [str(tiny / f"{name}.pt") for name in ("seed", "btx_mixed", "sample_mixed")]
    evaluate.main([*models, "--data_dir", str(tiny / "data"), "--device", "cpu", "--tasks", "1", "--windows", "2",
                   "--out", str(out)])
    return out / "explore.html"


def test_the_page_holds_what_the_models_do(page, tiny):
    """Gates of each layer and expert where a token was predicted, the probability it had, and the likeliest in its place."""
    data, encoding = data_of(page), tokenizer.load()
    assert [m["name"] for m in data["models"]] == ["btx_mixed", "sample_mixed"] and len(data["texts"]) == 2 * 6
    for entry in data["models"]:
        model = ckpt.build(ckpt.load(tiny / f"{entry['name']}.pt"))
        for text, read in zip(data["texts"], entry["reads"], strict=True):
            assert len(text["tokens"]) == len(read["gates"]) == len(read["p"]) == len(read["next"]) == 32
        idx = torch.tensor([ckpt_windows(tiny)])
        logits, _, routing = model(idx[:, :-1])
        read, probs = explore.read(model, encoding, idx[0].tolist()), logits[0].softmax(-1)
        for t in (0, 7, 31):
            for layer, r in enumerate(routing):
                want = [0] * 3
                for gate, i in zip(r.gates[t].tolist(), r.experts[t].tolist(), strict=True):
                    want[i] = gate * 100
                assert read["gates"][t][layer] == pytest.approx(want, abs=0.051)
            assert read["p"][t] == pytest.approx(probs[t, idx[0, t + 1]].item(), abs=6e-4)
            assert [p for _, p in read["next"][t]] == pytest.approx(probs[t].sort(descending=True).values[:5].tolist(), abs=6e-4)
            assert read["next"][t][0][0] == explore.piece(encoding, probs[t].argmax().item())


def ckpt_windows(tiny):
    """The first 33 tokens of the math text."""
    return torch.from_file(str(tiny / "data/math/val.bin"), dtype=torch.int16, size=33).tolist()


def test_the_page_is_one_file_of_under_a_megabyte_that_needs_no_network(page):
    text = page.read_text()
    assert len(text) < 1e6 and not re.search(r'https?://|src=|href=|@import|url\(', text)


def test_what_a_model_wrote_cannot_leave_its_place_in_the_page(tiny, tmp_path):
    out = tmp_path / "page.html"
    prompt = "</script><script>x<!--"
    sample.main([str(tiny / "btx_mixed.pt"), "--prompt", prompt, "--tokens", "3", "--html", str(out), "--device", "cpu"])
    assert out.read_text().lower().count("<script") == 2 and out.read_text().count("<!--") == 0
    assert "".join(data_of(out)["texts"][0]["tokens"]).startswith(prompt)


def dom(page, place=""):
    """The page as a browser has it after its script ran."""
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={page.parent / 'browser'}", "--virtual-time-budget=3000", "--dump-dom"]
    done = subprocess.run([*command, f"file://{page}#{place}"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-1000:]
    return done.stdout


@pytest.mark.long
@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on this machine to open the page in")
@pytest.mark.parametrize("text,model,layer,token", [(0, 0, 0, 0), (3, 1, 2, 5)])
def test_a_browser_shows_tokens_by_expert_and_the_gates_of_one(page, text, model, layer, token):
    data, shown = data_of(page), dom(page, f"text={text}&model={model}&layer={layer}&token={token}")
    entry = data["models"][model]
    read, experts = entry["reads"][text], entry["experts"]
    letters = [name[0].upper() for name in experts]
    chosen = [gates if not layer else [gates[layer - 1]] for gates in read["gates"]]
    sums = [[sum(row[i] for row in rows) for i in range(len(experts))] for rows in chosen]
    want = [letters[s.index(max(s))] for s in sums]
    assert re.findall(r'class="token.*?<b>(\w)</b>', shown) == want
    assert re.findall(r'<span class="token chosen" data-token="(\d+)"', shown) == [str(token)]
    shares = [sum(s[i] / (sum(s) or 1) for s in sums) / len(sums) for i in range(len(experts))]
    table = re.search(r'<table id="shares">(.*?)</table>', shown, re.S)[1]
    for name, share in zip(experts, shares, strict=True):
        width = float(re.search(rf"{name}</td>.*?width: ([\d.]+)%", table)[1])
        assert width == pytest.approx(100 * share, abs=0.01)
    assert len(re.findall("<tr>", re.search(r'<table id="gates">(.*?)</table>', shown, re.S)[1])) == 1 + len(read["gates"][0])
    assert len(re.findall("<tr", re.search(r'<table id="next">(.*?)</table>', shown, re.S)[1])) >= 5
