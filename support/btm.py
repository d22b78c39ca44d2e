"""Branch-Train-Merge: keep the experts as they are and average their predictions, token by token (the paper's 4.1).

    experts = [build(load(f"out/seed0/{name}.pt")) for name in ("seed", "math", "code", "wiki")]
    model = BTM(experts, "bayes", top_k=2)  # is called like a GPT

How much an expert counts depends on the text so far, x_1..x_t. There are two methods:

bayes   The probability that expert i wrote the text, if all experts were equally likely to write one:
        p_i ~ prod_{s<=t} p_i(x_s | x_<s) (Li et al. 2022).
tfidf   The paper's: the cosine similarity of the text with each expert's training data, both as tf-idf vectors. The weights
        are those of c-BTM (Gururangan et al. 2023): p_i ~ exp(-|v - v_i|^2 / T), T = 0.1. Vectors have length 1, so this
        is proportional to exp(2 cos / T).

The top_k largest p_i are divided by their sum; the prediction is the mean of these experts' predictions with these weights.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from data.common import BadInput
from data.loader import first_windows

METHODS = ("bayes", "tfidf")
TEMPERATURE = 0.1  # T of c-BTM
N_WINDOWS = 200    # how many sequences of each expert's training data tfidf reads


def parse_method(text, n_experts):
    """Read METHOD:K, as in "bayes:2" -> ("bayes", 2)."""
    method, _, k = text.partition(":")
    if method not in METHODS or k not in [str(n) for n in range(1, n_experts + 1)]:
        raise BadInput(f"{text}: no way to merge; write bayes:K or tfidf:K with K from 1 to {n_experts}")
    return method, int(k)


def read_training_data(checkpoint, path, domains, block_size):
    """The start of an expert's latest training data, in the shares of its mixture: (n, block_size + 1) int64."""
    mixture = checkpoint["lineage"][-1].get("settings", {}).get("data", {})
    if not mixture or not mixture.keys() <= domains.keys():
        raise BadInput(f"{path} was trained on {', '.join(mixture) or 'no data'}: --data_dir lacks it, but tfidf needs it")
    windows = []
    for name, share in mixture.items():
        windows.append(first_windows(domains[name].train, block_size, max(1, round(N_WINDOWS * share))))
    return torch.cat(windows)


def tfidf(windows, vocab_size):
    """The tf-idf of each expert's training data. windows: for each expert (n, T) int64; every window is a document.

    idf(v) = log(n / n_v) + 1, smoothed as in scikit-learn, where n_v of all n documents contain token v.
    Returns idf, (V,), and each expert's mean direction, (E, V), of length 1.
    """
    counts = [torch.zeros(len(w), vocab_size).scatter_add_(1, w, torch.ones(w.shape)) for w in windows]  # (n, V) each
    n = sum(len(c) for c in counts)
    n_v = sum((c > 0).sum(0) for c in counts)  # (V,)
    idf = ((1 + n) / (1 + n_v)).log() + 1
    means = torch.stack([F.normalize(c * idf, dim=1).mean(0) for c in counts])
    return idf, F.normalize(means, dim=1)


class BTM(nn.Module):
    """Experts that predict together; called like a `GPT`."""

    def __init__(self, experts, method, top_k, windows=None):
        """experts: dense GPTs of one tokenizer. windows: for tfidf the experts' training data, see `tfidf`."""
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.method = method
        self.top_k = top_k
        self.config = min((expert.config for expert in experts), key=lambda config: config.block_size)
        if method == "tfidf":
            device = experts[0].embed.weight.device
            self.idf, self.centroids = (x.to(device) for x in tfidf(windows, self.config.vocab_size))

    def bayes_scores(self, idx, log_probs, past):
        """log p_i = sum_{s<=t} log p_i(x_s | x_<s) for every t, up to a constant: (E, B, T).

        idx: (B, T). log_probs: (E, B, T, V), each expert's prediction of the next token. past: kept for the next call.
        """
        uniform = torch.zeros_like(log_probs[:, :, :1])  # for a text's first token all experts score the same
        predictions = torch.cat([past.get("prediction", uniform), log_probs[:, :, :-1]], dim=2)  # (E, B, T, V)
        tokens = idx.expand(len(log_probs), -1, -1)[..., None]                                   # (E, B, T, 1)
        scores = past.get("score", 0) + predictions.gather(-1, tokens)[..., 0].cumsum(-1)        # (E, B, T)
        past["prediction"], past["score"] = log_probs[:, :, -1:], scores[:, :, -1:]
        return scores

    def tfidf_scores(self, idx, past):
        """2 cos / T of the text up to each token with each expert's data: (E, B, T). idx: (B, T)."""
        tokens = torch.cat([past.get("tokens", idx[:, :0]), idx], dim=1)  # (B, S), the whole text
        past["tokens"] = tokens
        idf = self.idf[tokens]                                                  # (B, S)
        dots = (idf * self.centroids[:, tokens]).cumsum(-1)                     # (E, B, S)
        # a token's n-th occurrence changes its component of the vector from (n-1) idf to n idf
        n = (tokens[:, :, None] == tokens[:, None, :]).tril().sum(-1)           # (B, S)
        lengths = (idf**2 * (n**2 - (n - 1)**2)).cumsum(-1).sqrt()              # (B, S)
        return (2 / TEMPERATURE * dots / lengths)[:, :, -idx.shape[1]:]

    def log_weights(self, scores):
        """The log-softmax over the top_k largest scores, -inf for the rest: (E, B, T) -> (E, B, T)."""
        kept, experts = scores.sort(dim=0, descending=True, stable=True)  # of equal scores the first expert's comes first
        kept = kept[:self.top_k].log_softmax(0)
        return torch.full_like(scores, -math.inf).scatter(0, experts[:self.top_k], kept)

    def forward(self, idx, cache=None):
        """As `GPT.forward`, without loss and routing. The logits are the logarithms of the averaged prediction.

        cache: [] at first; then each expert's cache, and at its end a dictionary of what the scores need of the text so far.
        """
        cache = [] if cache is None else cache
        if cache == []:
            cache.extend([] for _ in self.experts)
            cache.append({})
        *expert_caches, past = cache
        outputs = [expert(idx, cache=c) for expert, c in zip(self.experts, expert_caches, strict=True)]
        log_probs = torch.stack([logits.log_softmax(-1) for logits, _, _ in outputs])  # (E, B, T, V)
        if self.method == "bayes":
            scores = self.bayes_scores(idx, log_probs, past)                           # (E, B, T)
        else:
            scores = self.tfidf_scores(idx, past)
        logits = (self.log_weights(scores)[..., None] + log_probs).logsumexp(0)        # (B, T, V)
        return logits, None, []

    def num_params(self, active=False):
        """Number of parameters; with active=True only those of the top_k experts that count for a token."""
        experts = self.experts[:self.top_k] if active else self.experts
        return sum(expert.num_params() for expert in experts)
