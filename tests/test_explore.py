"""The page that shows the routing: its numbers are the model's, and no text can leave its place in it."""
import json
import re

import pytest

import sample
from data import tokenizer
from data.loader import first_windows, load_domains
from support import checkpoint, explore


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)[1])


def test_the_page_holds_what_the_model_does(tiny, tmp_path):
    """Gates where a token was predicted, the probability that it had, and the likeliest in its place."""
    encoding, model = tokenizer.load(), checkpoint.build(checkpoint.load(tiny / "btx_mixed.pt"))
    idx = first_windows(load_domains(tiny / "data")["math"].val, 32, 1)  # (1, 33)
    tokens, names = idx[0].tolist(), ["seed", "math", "code"]
    read = explore.read(model, encoding, tokens)
    explore.write(tmp_path / "page.html", encoding, {"math 1": tokens}, {"btx": (names, [read])})
    assert data_of(tmp_path / "page.html") == {
        "texts": [{"name": "math 1", "tokens": [encoding.decode([token]) for token in tokens[1:]]}],
        "models": [{"name": "btx", "experts": names, "reads": [read]}], "colors": explore.COLORS}
    logits, _, routing = model(idx[:, :-1])
    probs, ids = logits[0].softmax(-1).sort(descending=True)
    for t in range(32):
        for layer, r in enumerate(routing):
            gates = [100 * sum(r.gates[t][r.experts[t] == i].tolist()) for i in range(3)]
            assert read["gates"][t][layer] == pytest.approx(gates, abs=0.051)
        assert read["p"][t] == pytest.approx(probs[t][ids[t] == tokens[t + 1]].item(), abs=6e-4)
        assert [p for _, p in read["next"][t]] == pytest.approx(probs[t, :5].tolist(), abs=6e-4)
        assert [text for text, _ in read["next"][t]] == [encoding.decode([i]) for i in ids[t, :5].tolist()]


def test_no_text_can_end_the_script_that_holds_it(tiny, tmp_path):
    page, prompt = tmp_path / "new" / "page.html", "</script><script>x<!--"
    sample.main([f"{tiny}/btx_mixed.pt", "--prompt", prompt, "--tokens", "3", "--html", str(page), "--device", "cpu"])
    assert page.read_text().lower().count("<script") == 2 and "<!--" not in page.read_text()
    assert not re.search(r"https?://|src=|@import|url\(", page.read_text())  # one file that needs no network
    [shown] = data_of(page)["texts"]
    assert shown["name"] == prompt and "".join(shown["tokens"]).startswith(prompt)
