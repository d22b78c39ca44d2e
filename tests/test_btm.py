"""Branch-Train-Merge against a second implementation of its formulas, which computes every prefix by itself."""
import math

import pytest
import torch
from torch.nn.functional import normalize

from cli import BadInput
from data.loader import load_domains
from model import GPT, GPTConfig
from support.btm import BTM, SHARE, read_training_data
from support.generation import Cache

V = 12
TOKENS = torch.randint(0, V, (2, 10), generator=torch.Generator().manual_seed(2))
CONFIG = GPTConfig(vocab_size=V, block_size=16, n_layer=2, n_embd=16, n_head=2, d_ff=16)
EXPERTS = [GPT(CONFIG, torch.Generator().manual_seed(i)).eval() for i in range(3)]
# each expert's training data has words of its own, and some that all have
WINDOWS = [TOKENS.view(4, 5) % 6 + 2 * i * (TOKENS.view(4, 5) > 7) for i in range(3)]


def mix_by_hand(score, k):
    """The averaged prediction after each prefix, (B, T, V). score: (prefix, i) -> log p_i, up to a constant."""
    mixed = torch.zeros(*TOKENS.shape, V)
    for b, row in enumerate(TOKENS):
        for t in range(len(row)):
            weights = [math.exp(score(row[:t + 1], i)) for i in range(3)]
            kept = sorted(range(3), key=lambda i: -weights[i])[:k]  # of equal weights, the first
            for i in kept:
                prediction = EXPERTS[i](row[None, :t + 1])[0][0, -1].softmax(-1)
                mixed[b, t] += weights[i] / sum(weights[j] for j in kept) * prediction
    return mixed


def posterior(prefix, i, start=1):
    logs = EXPERTS[i](prefix[None])[0][0].log_softmax(-1)
    return sum(logs[s - 1, prefix[s]].item() for s in range(start, len(prefix)))


def shared(prefix, i):
    """The forward pass of a hidden Markov model: the author of each token is the last one or, seldom, a random one."""
    steps = [EXPERTS[j](prefix[None])[0][0].softmax(-1) for j in range(3)]
    weights = [1 / 3] * 3  # of the author of the next token
    for s in range(1, len(prefix)):
        joint = [weights[j] * steps[j][s - 1, prefix[s]].item() for j in range(3)]
        weights = [(1 - SHARE) * joint[j] / sum(joint) + SHARE / 3 for j in range(3)]
    return math.log(weights[i])


def distance(prefix, i):
    """-|v - v_i|^2 / T for tf-idf vectors of length 1, with T = 0.1."""
    documents = torch.cat(WINDOWS)
    idf = [math.log((1 + len(documents)) / (1 + sum(v in d for d in documents))) + 1 for v in range(V)]

    def vector(tokens):
        return normalize(tokens.bincount(minlength=V) * torch.tensor(idf), dim=0)
    center = normalize(sum(vector(window) for window in WINDOWS[i]), dim=0)
    return -(vector(prefix) - center).square().sum().item() / 0.1


@torch.no_grad()
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("method, score", [
    ("bayes", posterior), ("share", shared), ("tfidf", distance)])
def test_predictions_are_averaged_by_the_formula_after_every_prefix(method, score, k):
    """They are compared in one pass, in the last positions alone, and token by token."""
    model, cache = BTM(EXPERTS, method, k, WINDOWS), Cache()
    want = mix_by_hand(score, k)
    torch.testing.assert_close(model(TOKENS)[0].exp(), want, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model(TOKENS, n_last=3)[0].exp(), want[:, -3:], atol=1e-5, rtol=1e-4)
    parts = [model(part, cache=cache)[0] for part in TOKENS.split([4, 1, 1, 1, 1, 1, 1], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1).exp(), want, atol=1e-5, rtol=1e-4)
    n = EXPERTS[0].num_params()
    assert model.num_params() == model.num_params(active=True) == 3 * n


def test_the_training_data_is_that_of_the_experts_mixture(tiny):
    domains = load_domains(tiny / "data")
    digests = {f"{name}/train.bin": domain.meta["files"]["train.bin"] for name, domain in domains.items()}
    settings = {"data": {"math": 0.9, "code": 0.1}, "digests": digests}
    math = {"config": {"block_size": 4}, "ledger": [{}, {"settings": settings}]}
    [windows] = read_training_data({"math": math}, domains)
    assert windows[:180, :4].flatten().tolist() == domains["math"].train[:720].tolist()
    assert windows[180:, :4].flatten().tolist() == domains["code"].train[:80].tolist()

    average = {"config": {"block_size": 4}, "ledger": [{"settings": {}}]}
    settings["digests"] = {**digests, "math/train.bin": "another"}
    for model, known in ((math, domains), (math, {"code": domains["code"]}), (average, domains)):
        with pytest.raises(BadInput, match="given.*--data_dir"):
            read_training_data({"given": model}, known)
