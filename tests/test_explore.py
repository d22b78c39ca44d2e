"""The page that shows the routing: its numbers are the model's, and no text can leave its place in it."""
import json
import re

import pytest
import torch

import sample
from data import tokenizer
from data.loader import first_windows, load_domains
from support import checkpoint, explore


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)[1])


@pytest.mark.parametrize("name", ["btx_mixed", "sample_mixed"])
def test_the_page_holds_what_the_model_does(tiny, tmp_path, name):
    """Gates where a token was predicted, the probability that it had, and the likeliest in its place."""
    encoding, c = tokenizer.load(), checkpoint.load(tiny / f"{name}.pt")
    model = checkpoint.build(c)
    idx = first_windows(load_domains(tiny / "data")["math"].val, 32, 1)  # (1, 33)
    tokens = idx[0].tolist()
    explore.write(tmp_path / "page.html", encoding, {"math 1": tokens},
                  {name: (c["experts"], [explore.read(model, encoding, tokens)])})
    page = data_of(tmp_path / "page.html")
    assert page["texts"] == [{"name": "math 1", "tokens": [encoding.decode([t]) for t in tokens[1:]]}]
    assert page["models"][0]["name"] == name and page["models"][0]["experts"] == ["seed", "math", "code"]
    [read] = page["models"][0]["reads"]
    logits, _, routing = model(idx[:, :-1])
    probs = logits[0].softmax(-1)
    for t in range(32):
        for layer, r in enumerate(routing):
            gates = [0.0, 0.0, 0.0]
            for gate, i in zip(r.gates[t].tolist(), r.experts[t].tolist(), strict=True):
                gates[i] = 100 * gate
            assert read["gates"][t][layer] == pytest.approx(gates, abs=0.051)
        assert read["p"][t] == pytest.approx(probs[t, tokens[t + 1]].item(), abs=6e-4)
        best = probs[t].sort(descending=True)
        assert [p for _, p in read["next"][t]] == pytest.approx(best.values[:5].tolist(), abs=6e-4)
        assert read["next"][t][0][0] == encoding.decode([best.indices[0].item()])
    assert len(read["gates"]) == len(read["p"]) == len(read["next"]) == 32 and torch.stack([r.gates for r in routing[1:]]).any()


def test_no_text_can_end_the_script_that_holds_it(tiny, tmp_path):
    page, prompt = tmp_path / "new" / "page.html", "</script><script>x<!--"
    sample.main([f"{tiny}/btx_mixed.pt", "--prompt", prompt, "--tokens", "3", "--html", str(page), "--device", "cpu"])
    text = page.read_text()
    assert text.lower().count("<script") == 2 and "<!--" not in text
    assert not re.search(r"https?://|src=|@import|url\(", text)  # one file that needs no network
    [shown] = data_of(page)["texts"]
    assert shown["name"] == prompt and "".join(shown["tokens"]).startswith(prompt)
