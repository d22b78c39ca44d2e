"""Branch-Train-Merge: keep the experts as they are and average their predictions, token by token (the paper's 4.1).

    experts = [build_model(load_checkpoint(f"out/{name}.pt")) for name in ("seed", "math", "code", "wiki")]
    model = BTM(experts, "bayes", top_k=2)  # is called like a GPT

An expert's weight depends on the text so far, x_1..x_t. Each method gives expert i a score, the log of its weight:

bayes   log p_i(x_1..x_t), the log of the posterior that expert i wrote the text, from a uniform prior (Li et al. 2022)
tfidf   2 cos(v, v_i) / tau, where v and v_i are the tf-idf vectors of the text and of the expert's training data. The
        paper uses their similarity. The formula is c-BTM's -|v - v_i|^2 / tau (Gururangan et al. 2023) for vectors of
        length 1, up to a constant.

The top_k largest weights are kept and divided by their sum.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from cli import BadInput
from data.loader import first_windows

METHODS = ("bayes", "tfidf")
TEMPERATURE = 0.1  # tau, as in c-BTM
N_WINDOWS = 200    # sequences of each expert's training data that tfidf reads


def parse_method(text, checkpoints):
    """Read METHOD:K, as in "bayes:2" -> ("bayes", 2), for {name: checkpoint}. Raises BadInput."""
    first = next(iter(checkpoints.values()))
    for name, checkpoint in checkpoints.items():
        if checkpoint["experts"] or checkpoint["spec"]["fingerprint"] != first["spec"]["fingerprint"]:
            raise BadInput(f"--btm: {name} cannot be merged; give dense models of one tokenizer")
    method, _, k = text.partition(":")
    if method not in METHODS or not k.isdecimal() or not 1 <= int(k) <= len(checkpoints):
        raise BadInput(f"{text}: say how to merge as bayes:K or tfidf:K, with K from 1 to {len(checkpoints)}")
    return method, int(k)


def read_training_data(checkpoints, domains):
    """The start of each expert's latest training data, in the shares of its mixture, for tfidf: (n, T + 1) int64 each.

    checkpoints: {name: checkpoint}; domains: {name: Domain}. Raises BadInput if a domain is missing.
    """
    T = min(checkpoint["config"]["block_size"] for checkpoint in checkpoints.values())
    data = []
    for name, checkpoint in checkpoints.items():
        settings = checkpoint["ledger"][-1].get("settings", {})
        mixture = settings.get("data", {})
        if not mixture or not mixture.keys() <= domains.keys():
            raise BadInput(f"{name} was trained on {', '.join(mixture) or 'no data'}; tfidf needs it in --data_dir")
        for domain in mixture:
            if domains[domain].meta["files"]["train.bin"] != settings["digests"][f"{domain}/train.bin"]:
                raise BadInput(f"{name} was trained on other text of {domain}; tfidf needs that text in --data_dir")
        parts = []
        for domain, share in mixture.items():
            n = max(1, round(N_WINDOWS * share))
            parts.append(first_windows(domains[domain].train, T, n, domains[domain].is_own))
        data.append(torch.cat(parts))
    return data


def tfidf(windows, vocab_size):
    """The tf-idf of each expert's training data. windows: for each expert (n, T) int64; every window is a document.

    idf(v) = log(n / n_v) + 1, smoothed as in scikit-learn, where n_v of all n documents contain token v.
    Returns idf, (V,), and each expert's mean direction, (E, V), of length 1.
    """
    counts = [torch.zeros(len(w), vocab_size).scatter_add_(1, w, torch.ones(w.shape)) for w in windows]  # (n, V) each
    n = sum(len(w) for w in windows)
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

        idx: (B, T). log_probs: (E, B, T, V), each expert's prediction of the next token. past: {} at first; then the
        last score and prediction.
        """
        tokens = idx.expand(len(log_probs), -1, -1)[..., None]                     # (E, B, T, 1)
        uniform = torch.zeros_like(log_probs[:, :, 0])                             # (E, B, V) for a text's first
        first = past.get("prediction", uniform).gather(-1, tokens[:, :, 0])        # (E, B, 1)
        others = log_probs[:, :, :-1].gather(-1, tokens[:, :, 1:])[..., 0]         # (E, B, T - 1)
        scores = past.get("score", 0) + torch.cat([first, others], -1).cumsum(-1)  # (E, B, T)
        past["prediction"], past["score"] = log_probs[:, :, -1].clone(), scores[:, :, -1:]
        return scores

    def tfidf_scores(self, idx, past):
        """2 cos / tau of the text up to each token with each expert's data: (E, B, T). idx: (B, T)."""
        tokens = torch.cat([past["tokens"], idx], dim=1) if "tokens" in past else idx
        past["tokens"] = tokens                                                 # (B, S), the whole text
        idf = self.idf[tokens]                                                  # (B, S)
        dots = (idf * self.centroids[:, tokens]).cumsum(-1)                     # (E, B, S)
        # a token's n-th occurrence changes its component of the vector from (n-1) idf to n idf
        n = (tokens[:, :, None] == tokens[:, None, :]).tril().sum(-1)           # (B, S)
        lengths = (idf**2 * (n**2 - (n - 1)**2)).cumsum(-1).sqrt()              # (B, S)
        return (2 / TEMPERATURE * dots / lengths)[:, :, -idx.shape[1]:]

    def log_weights(self, scores):
        """The log-softmax over the top_k largest scores, -inf for the rest: (E, B, T) -> (E, B, T)."""
        kept, experts = scores.sort(dim=0, descending=True, stable=True)  # stable: of equal scores the first wins
        kept = kept[:self.top_k].log_softmax(0)
        return torch.full_like(scores, -math.inf).scatter(0, experts[:self.top_k], kept)

    def forward(self, idx, cache=None):
        """As `GPT.forward`, without loss and routing. The logits are the log of the averaged prediction, (B, T, V).

        cache: {} at first; then each expert's cache, and under "text" what the scores need of the text so far.
        """
        cache = {} if cache is None else cache
        past = cache.setdefault("text", {})
        E, V = len(self.experts), self.config.vocab_size
        log_probs = torch.empty(E, *idx.shape, V, device=idx.device)  # (E, B, T, V)
        for i, expert in enumerate(self.experts):
            logits, _, _ = expert(idx, cache=cache.setdefault(i, {}))
            log_probs[i] = logits.float().log_softmax(-1)
        if self.method == "bayes":
            scores = self.bayes_scores(idx, log_probs, past)  # (E, B, T)
        else:
            scores = self.tfidf_scores(idx, past)             # (E, B, T)
        weights = self.log_weights(scores)[..., None]         # (E, B, T, 1)
        logits = log_probs.add_(weights).logsumexp(0)         # (B, T, V); in place, since a copy can take gigabytes
        return logits, None, []

    def num_params(self, active=False):
        """Number of parameters; with active=True only those of the top_k experts that count for a token."""
        n_experts = self.top_k if active else len(self.experts)
        return n_experts * self.experts[0].num_params()  # all have the same size
