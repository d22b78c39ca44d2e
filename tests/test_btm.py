"""Branch-Train-Merge against its formulas, written down a second time prefix by prefix."""
import math

import pytest
import torch

import sample
from data.common import BadInput
from data.loader import load_domains
from model import GPT, GPTConfig
from support.btm import BTM, METHODS, parse_method, read_training_data, tfidf
from support.generation import generate

V = 12
TOKENS = torch.randint(0, V, (2, 10), generator=torch.Generator().manual_seed(2))


def make_experts(n=3):
    config = GPTConfig(vocab_size=V, block_size=16, n_layer=2, n_embd=16, n_head=2, d_ff=16)
    return [GPT(config, torch.Generator().manual_seed(i)).eval() for i in range(n)]


def make_windows(n=3):
    """For each expert data with words of its own, and with some that all have."""
    g = torch.Generator().manual_seed(1)
    return [torch.randint(0, 6, (5, 8), generator=g) + torch.randint(0, 2, (5, 8), generator=g) * 2 * i for i in range(n)]


def mix_by_hand(models, scores_of, k):
    """The averaged prediction after each prefix of each row, (B, T, V). scores_of: prefix -> log p_i for each expert."""
    out = torch.zeros(*TOKENS.shape, V)
    for b, row in enumerate(TOKENS):
        for t in range(len(row)):
            prefix = row[:t + 1]
            scores = scores_of(prefix)
            kept = sorted(range(len(models)), key=lambda i: -scores[i])[:k]  # of equal scores, the first
            total = sum(math.exp(scores[i]) for i in kept)
            for i in kept:
                out[b, t] += math.exp(scores[i]) / total * models[i](prefix[None])[0][0, -1].softmax(-1)
    return out


@torch.no_grad()
@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_posterior_is_the_product_of_what_an_expert_gave_each_token(k):
    models = make_experts()

    def scores_of(prefix):
        scores = []
        for model in models:
            logs = model(prefix[None])[0][0].log_softmax(-1)
            scores.append(sum(logs[s - 1, prefix[s]].item() for s in range(1, len(prefix))))
        return scores
    got = BTM(models, "bayes", k)(TOKENS)[0].exp()
    torch.testing.assert_close(got, mix_by_hand(models, scores_of, k), atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("k", [1, 2, 3])
def test_tfidf_is_the_distance_of_the_text_to_the_training_data(k):
    models, data = make_experts(), make_windows()
    documents = [window.tolist() for windows in data for window in windows]
    idf = [math.log((1 + len(documents)) / (1 + sum(v in d for d in documents))) + 1 for v in range(V)]

    def normalize(x):
        return [value / math.sqrt(sum(y * y for y in x)) for value in x]

    def vector(tokens):
        return normalize([tokens.count(v) * idf[v] for v in range(V)])
    centroids = []
    for windows in data:
        vectors = [vector(window.tolist()) for window in windows]
        centroids.append(normalize([sum(column) / len(vectors) for column in zip(*vectors, strict=True)]))

    def scores_of(prefix):  # -|v - v_i|^2 / 0.1
        v = vector(prefix.tolist())
        return [-sum((a - b) ** 2 for a, b in zip(v, centroid, strict=True)) / 0.1 for centroid in centroids]
    got = BTM(models, "tfidf", k, data)(TOKENS)[0].exp()
    torch.testing.assert_close(got, mix_by_hand(models, scores_of, k), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tfidf(data, V)[1], torch.tensor(centroids))


@pytest.mark.parametrize("method", METHODS)
def test_a_cached_pass_equals_a_whole_one(method):
    model, cache = BTM(make_experts(), method, 2, make_windows()), []
    parts = [model(TOKENS[:, :4], cache=cache)[0], *(model(TOKENS[:, t:t + 1], cache=cache)[0] for t in range(4, 10))]
    torch.testing.assert_close(torch.cat(parts, 1), model(TOKENS)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_one_expert_alone_is_itself_and_writes_the_same(method):
    expert = make_experts(1)[0]
    merged = BTM([expert], method, 1, make_windows(1))
    torch.testing.assert_close(merged(TOKENS)[0], expert(TOKENS)[0].log_softmax(-1))
    assert torch.equal(generate(merged, TOKENS, 12), generate(expert, TOKENS, 12))


def test_parameters_that_count():
    merged, n = BTM(make_experts(), "bayes", 2), make_experts(1)[0].num_params()
    assert (merged.num_params(), merged.num_params(active=True)) == (3 * n, 2 * n)


def test_the_training_data_is_that_of_the_experts_mixture(tiny):
    domains = load_domains(tiny / "data")
    math = {"config": {"block_size": 4}, "lineage": [{"settings": {"data": {"math": 0.9, "code": 0.1}}}]}
    longer = {"config": {"block_size": 8}, "lineage": [{}, {"settings": {"data": {"general": 1.0}}}]}
    first, second = read_training_data({"math": math, "longer": longer}, domains)
    assert first[:180, :4].flatten().tolist() == domains["math"].train[:720].tolist()
    assert first[180:, :4].flatten().tolist() == domains["code"].train[:80].tolist() and second.shape == (200, 5)
    soup = {"config": {"block_size": 4}, "lineage": [{"settings": {}}]}
    for name, model, rest in (("math", math, {"math": domains["math"]}), ("soup", soup, domains)):
        with pytest.raises(BadInput, match=f"{name}.*--data_dir"):
            read_training_data({name: model}, rest)


def test_sample_py_takes_a_merged_model(tiny, capsys):
    models = [f"{tiny}/{name}.pt" for name in ("seed", "math", "code")]
    for method in ("bayes:2", "tfidf:1"):
        words = ["--btm", method, "--data_dir", f"{tiny}/data", "--prompt", "Tom has 3", "--tokens", "5", "--device", "cpu"]
        sample.main([*models, *words])
        assert capsys.readouterr().out.startswith("Tom has 3")


def test_what_cannot_be_merged_is_refused():
    one = {"experts": [], "tokenizer": {"fingerprint": "a"}}
    assert parse_method("tfidf:2", {"x": one, "y": one}) == ("tfidf", 2)
    for text in ("bayes", "bayes:0", "bayes:3", "vote:1", "bayes:1:1"):
        with pytest.raises(BadInput, match=text):
            parse_method(text, {"x": one, "y": one})
    for other in ({**one, "experts": ["a", "b"]}, {**one, "tokenizer": {"fingerprint": "b"}}):
        with pytest.raises(BadInput, match="y cannot be merged"):
            parse_method("bayes:1", {"x": one, "y": other})
