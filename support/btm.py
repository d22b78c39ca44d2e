"""Branch-Train-Merge: the experts are kept as they are, and their predictions are mixed, token by token (the paper's 4.1).

    experts = [build(load(f"out/{name}.pt")) for name in ("seed", "math", "code", "wiki")]
    BTM(experts, "bayes", top_k=2)        # is called and generates like a model.GPT

No expert learns of another. Which experts count is decided from the text so far, x_<t, in one of two ways:

tfidf   the paper's: the cosine similarity of x_<t, as a tf-idf vector, with each expert's training data; the weights are
        those of c-BTM (Gururangan et al. 2023), p_i ~ exp(-|v(x_<t) - v_i|^2 / T), T = 0.1: for unit vectors exp(2 cos / T)
bayes   Li et al. 2022: the posterior p_i ~ prod_{s<t} p_i(x_s | x_<s) of having written x_<t, from a uniform prior

The top_k largest weights are kept and made to sum to 1; the next token's distribution is the weighted mean of the kept experts'.
In a generation beyond the block size, "the text so far" is what is still read.
"""
import math
from itertools import accumulate, pairwise

import torch
import torch.nn as nn
import torch.nn.functional as F

from data.loader import check_tokenizer, first_windows, text_of
from model import GPT
from support.files import has
from support.settings import BadInput, mixture

METHODS = ("tfidf", "bayes")
TEMPERATURE = 0.1  # of c-BTM


def read_method(text, n_experts):
    """"bayes:2" -> ("bayes", 2). Raises BadInput.

    >>> read_method("tfidf:1", n_experts=4)
    ('tfidf', 1)
    """
    method, _, k = text.partition(":")
    if method not in METHODS or k not in map(str, range(1, n_experts + 1)):
        raise BadInput(f"{text!r} is no way to merge: write METHOD:K, METHOD {' or '.join(METHODS)}, K from 1 to {n_experts}")
    return method, int(k)


def name(method, top_k):
    """What the tables call it."""
    return f"btm_{method}_top{top_k}"


def expert_data(method, domains, paths, experts, n_windows=200):
    """For tfidf the start of what each expert was trained on last, (n, T) int64 each, by the mixture in its ledger; else None.

    domains: {name: see read_domain}; experts: their checkpoints; paths: where these are. Raises BadInput, also if an expert was
    trained on other data.
    """
    if method != "tfidf":
        return None
    block_size, data = min(expert["config"]["block_size"] for expert in experts), []
    for path, expert in zip(paths, experts, strict=True):
        about = expert["lineage"][-1].get("settings", {})
        if not has(about, {"data": str}):
            raise BadInput(f"{path}: its ledger does not say on what data it was trained")
        shares = mixture(about["data"], f"{path}: its ledger's data")
        for name in shares:
            if name not in domains or domains[name]["files"]["train.bin"] != about.get(f"{name}/train.bin"):
                raise BadInput(f"{path} was trained on other data of {name!r} than --data_dir has; name the folder that it read")
        check_tokenizer({name: domains[name] for name in shares}, expert["tokenizer"], path)
        data.append(torch.cat([first_windows(text_of(domains, name, "train", block_size), block_size,
                                             max(1, round(n_windows * share))) for name, share in shares.items()]))
    return data


def tfidf(windows_of, vocab_size):
    """The tf-idf of tokens in each expert's training data.

    windows_of: for each expert its data, (n, T) int64. A window is a document: idf(v) = log(n / n_v) + 1 with n_v of all n
    windows holding v (as in scikit-learn, smoothed). Returns idf (V,) and one vector of length 1 for each expert, (E, V).
    """
    tf = [torch.zeros(len(w), vocab_size).scatter_add_(1, w, torch.ones(w.shape)) for w in windows_of]  # (n, V) each
    n, n_with = sum(map(len, tf)), sum((counts > 0).sum(0) for counts in tf)
    idf = ((1 + n) / (1 + n_with)).log() + 1
    centroids = torch.stack([F.normalize(counts * idf, dim=1).mean(0) for counts in tf])
    return idf, F.normalize(centroids, dim=1)


class BTM(nn.Module):
    """Experts that answer together, with the interface of `GPT`: forward with cache, stream, generate."""

    def __init__(self, experts, method, top_k, windows_of=None):
        """experts: dense GPTs of one tokenizer; method, top_k: see read_method; windows_of: for "tfidf" each expert's data."""
        super().__init__()
        self.experts, self.method, self.top_k = nn.ModuleList(experts), method, top_k
        self.config = min((expert.config for expert in experts), key=lambda config: config.block_size)
        if method == "tfidf":
            device = next(experts[0].parameters()).device
            self.idf, self.centroids = (t.to(device) for t in tfidf(windows_of, self.config.vocab_size))

    def bayes_scores(self, log_probs, tokens):
        """log p(x_2..x_t | x_1, expert i) up to each t; log_probs of the next tokens: (E, B, T, V); tokens: (B, T). (B, T, E)."""
        seen = log_probs[:, :, :-1].gather(-1, tokens[None, :, 1:, None].expand(len(log_probs), -1, -1, 1))[..., 0]
        return F.pad(seen.cumsum(-1), (1, 0)).permute(1, 2, 0)

    def tfidf_scores(self, tokens):
        """2 cos / T of the text up to each token with each expert's data. tokens: (B, T). Returns (B, T, E)."""
        idf = self.idf[tokens]  # (B, T)
        dots = (idf * self.centroids[:, tokens]).cumsum(-1)  # (E, B, T)
        before = (tokens[:, :, None] == tokens[:, None, :]).tril(-1).sum(-1)  # (B, T) occurrences of this token so far
        norm = (idf**2 * (2 * before + 1)).cumsum(-1).sqrt()  # grows from (n idf)^2 to ((n + 1) idf)^2 with each occurrence
        return (2 / TEMPERATURE * dots / norm).permute(1, 2, 0)

    def log_weights(self, scores):
        """Log of the weights: the log-softmax over the top_k largest scores, -inf for the rest. (..., E) -> (..., E)."""
        values, indices = scores.sort(dim=-1, descending=True, stable=True)  # of equals the first expert, unlike topk
        values, indices = values[..., :self.top_k], indices[..., :self.top_k]
        return torch.full_like(scores, -math.inf).scatter(-1, indices, values.log_softmax(-1))

    def forward(self, idx, cache=None):
        """As `GPT.forward`; the logits are the logarithms of the mixed distribution, and there is no loss and no routing.

        cache: the experts' caches one after another, then what the weights are made of: the tokens and log-probabilities so far.
        """
        ends = [0, *accumulate(expert.config.n_layer for expert in self.experts)]
        parts = [cache[start:end] if cache is not None else None for start, end in pairwise(ends)]
        log_probs = torch.stack([expert(idx, cache=part)[0].log_softmax(-1)
                                 for expert, part in zip(self.experts, parts, strict=True)])  # (E, B, T, V)
        if self.method == "tfidf":
            tokens = torch.cat([cache[-1][0], idx], 1) if cache else idx
            scores = self.tfidf_scores(tokens)[:, -idx.shape[1]:]  # (B, T, E)
            state = (tokens, None)
        else:
            scores = self.bayes_scores(log_probs, idx)
            if cache:  # the prefix's likelihood, and that of the first new token, which the last call predicted
                so_far, last = cache[-1]
                scores = scores + (so_far + last.gather(-1, idx[None, :, :1].expand(len(last), -1, -1))[..., 0].T)[:, None]
            state = (scores[:, -1], log_probs[:, :, -1])
        if cache is not None:
            cache[:] = [entry for part in parts for entry in part] + [state]
        logits = (self.log_weights(scores).permute(2, 0, 1)[..., None] + log_probs).logsumexp(0).float()  # (B, T, V)
        return logits, None, []

    stream, generate = GPT.stream, GPT.generate

    def num_params(self, active=False):
        """All experts'; with active=True those of the top_k that count (all run in any case)."""
        return sum(expert.num_params() for expert in self.experts[:self.top_k if active else None])
