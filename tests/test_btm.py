"""Branch-Train-Merge against its formulas written down a second time, and that it is used like any model."""
import math

import pytest
import torch

import sample
from data import prepare
from model import GPT, GPTConfig
from support.btm import BTM, METHODS, tfidf
from support.settings import BadInput

V = 12


def experts(n=3):
    config = GPTConfig(vocab_size=V, block_size=16, n_layer=2, n_embd=16, n_head=2, d_ff=16)
    return [GPT(config, torch.Generator().manual_seed(i)).eval() for i in range(n)]


def texts(n=3):
    """Data in which each expert has words of its own, and some that all have."""
    g = torch.Generator().manual_seed(1)
    return [torch.randint(0, 6, (5, 8), generator=g) + torch.randint(0, 2, (5, 8), generator=g) * 2 * i for i in range(n)]


def idx():
    return torch.randint(0, V, (2, 10), generator=torch.Generator().manual_seed(2))


def mixed_by_hand(models, weights_of_prefix, row):
    """The next token's distribution after each prefix of a row, (T, V)."""
    out = []
    for t in range(1, len(row) + 1):
        probs = [model(row[None, :t])[0][0, -1].softmax(-1) for model in models]
        out.append(sum(w * p for w, p in zip(weights_of_prefix(row[:t]), probs, strict=True)))
    return torch.stack(out)


def keep(scores, k):
    """Largest k of exp(scores), normalised; scores: floats."""
    kept = sorted(range(len(scores)), key=scores.__getitem__)[-k:]
    total = sum(math.exp(scores[i]) for i in kept)
    return [math.exp(s) / total if i in kept else 0.0 for i, s in enumerate(scores)]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_bayes_by_hand(k):
    models = experts()

    def weights(prefix):  # p_i ~ the product of the probabilities that expert i gave to each token after the first
        scores = []
        for model in models:
            logs = model(prefix[None])[0][0].log_softmax(-1)
            scores.append(sum(logs[s - 1, prefix[s]].item() for s in range(1, len(prefix))))
        return keep([s - max(scores) for s in scores], k)
    got = BTM(models, "bayes", k)(idx())[0].exp()
    want = torch.stack([mixed_by_hand(models, weights, row) for row in idx()])
    start = 0 if k == 3 else 1  # after one token all experts are alike, and any k of them may speak
    torch.testing.assert_close(got[:, start:], want[:, start:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_tfidf_by_hand(k):
    models, data = experts(), texts()
    windows = [w.tolist() for part in data for w in part]
    idf = [math.log((1 + len(windows)) / (1 + sum(v in w for w in windows))) + 1 for v in range(V)]

    def vector(tokens):
        raw = [tokens.count(v) * idf[v] for v in range(V)]
        return [r / math.sqrt(sum(x * x for x in raw)) for r in raw]

    def mean(vectors):
        raw = [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]
        return [r / math.sqrt(sum(x * x for x in raw)) for r in raw]
    centroids = [mean([vector(w.tolist()) for w in part]) for part in data]

    def weights(prefix):  # exp(-|v - v_i|^2 / 0.1)
        v = vector(prefix.tolist())
        return keep([-sum((a - b) ** 2 for a, b in zip(v, c, strict=True)) / 0.1 for c in centroids], k)
    want = torch.stack([mixed_by_hand(models, weights, row) for row in idx()])
    torch.testing.assert_close(BTM(models, "tfidf", k, data)(idx())[0].exp(), want, atol=1e-5, rtol=1e-4)
    got_idf, got_centroids = tfidf(data, V)
    torch.testing.assert_close(got_idf, torch.tensor(idf))
    torch.testing.assert_close(got_centroids, torch.tensor(centroids).double(), check_dtype=False)


@pytest.mark.parametrize("method", METHODS)
def test_a_cached_forward_equals_a_whole_one(method):
    model, cache = BTM(experts(), method, 2, texts()), []
    parts = [model(idx()[:, a:b], cache=cache)[0] for a, b in ((0, 4), (4, 5), (5, 8), (8, 10))]
    torch.testing.assert_close(torch.cat(parts, 1), model(idx())[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_one_expert_alone_is_itself(method):
    model = experts(1)[0]
    merged = BTM([model], method, 1, texts(1))
    torch.testing.assert_close(merged(idx())[0], model(idx())[0].log_softmax(-1))
    assert torch.equal(merged.generate(idx(), 12), model.generate(idx(), 12))


def test_the_posterior_moves_to_the_expert_that_the_text_is_of():
    models = experts()
    for model in models:
        text = model.generate(idx()[:1, :2], 14, temperature=1.0, generator=torch.Generator().manual_seed(4))
        merged = BTM(models, "bayes", 1)
        torch.testing.assert_close(merged(text)[0][:, -1], model(text)[0][:, -1].log_softmax(-1))


def test_sample_py_takes_a_merged_model(tiny, capsys):
    models = [str(tiny / f"{n}.pt") for n in ("seed", "math", "code")]
    data = ["--data_dir", str(tiny / "data")]
    for options in (["--btm", "bayes:2"], ["--btm", "tfidf:1", *data]):
        sample.main([*models, *options, "--prompt", "Tom has 3", "--tokens", "5"])
        assert capsys.readouterr().out.startswith("Tom has 3")


def test_it_knows_its_data(tiny, tmp_path):
    """By tf-idf it reads what the experts were trained on, and their ledgers know which that was."""
    prepare.main(["--seed", "9", "--train_tokens", "3000", "--val_tokens", "600", "--tasks", "2", "--out", str(tmp_path)])
    with pytest.raises(BadInput, match="other data"):
        sample.main([*(str(tiny / f"{n}.pt") for n in ("math", "code")), "--btm", "tfidf:1", "--data_dir", str(tmp_path)])
