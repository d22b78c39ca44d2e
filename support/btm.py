"""Branch-Train-Merge: keep the experts as they are and average their predictions, token by token (the paper's 4.1).

    experts = [build_model(load_checkpoint(f"out/{name}.pt")) for name in ("seed", "math", "code", "wiki")]
    model = BTM(experts, "share", top_k=4)  # can be called like a GPT

An expert's weight depends on the text so far, x_1..x_t. Each method gives expert i a score, the log of its weight:

bayes  log p_i(x_1..x_t), up to a constant the log of the posterior probability that expert i wrote the text, from a
       uniform prior (Li et al. 2022). It never forgets, so a few words of another domain may decide for the whole text.
share  the same if another expert may take over at each token, with a small probability: the fixed share of Herbster
       and Warmuth (1998), which is the forward pass of a hidden Markov model (not in the papers on BTM)
tfidf  2 cos(v, v_i) / tau, where v and v_i are the tf-idf vectors of the text and of the expert's training data. The
       paper uses their similarity. For vectors of length 1, the formula equals c-BTM's -|v - v_i|^2 / tau
       (Gururangan et al. 2023) up to a constant.

The top_k largest weights are kept and divided by their sum.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from cli import BadInput

METHODS = ("bayes", "share", "tfidf")
SHARE = 0.01       # probability that another expert takes over, at each token; chosen by loss, see one_or_all
TEMPERATURE = 0.1  # tau, as in c-BTM
N_WINDOWS = 200    # sequences of each expert's training data that tfidf reads


def parse_method(text, n_experts):
    """Read METHOD:K: "bayes:2" becomes ("bayes", 2). Raises BadInput."""
    method, _, k = text.partition(":")
    if method not in METHODS or not k.isdecimal() or not 1 <= int(k) <= n_experts:
        raise BadInput(f"--btm_methods {text!r}: write bayes:K, share:K or tfidf:K, with K from 1 to {n_experts} "
                       "(share:K has replaced document:K)")
    return method, int(k)


def read_training_data(checkpoints, domains):
    """For tfidf: windows of each expert's latest training data, in the shares of its mixture; (n, T + 1) int64.

    checkpoints: {name: checkpoint}; domains: {name: Domain}. Raises BadInput if a domain is missing or has changed.
    """
    T = min(checkpoint["config"]["block_size"] for checkpoint in checkpoints.values())
    data = []
    for name, checkpoint in checkpoints.items():
        settings = checkpoint["ledger"][-1].get("settings", {})
        mixture = settings.get("data", {})
        if not mixture or not mixture.keys() <= domains.keys():
            raise BadInput(f"{name} was trained on {', '.join(mixture) or 'data that is not here'}; tfidf needs it in "
                           "--data_dir, bayes and share do not")
        for domain in mixture:
            if domains[domain].meta["files"]["train.bin"] != settings["digests"][f"{domain}/train.bin"]:
                raise BadInput(f"{name} was trained on other text of {domain}; tfidf needs that text in --data_dir")
        parts = []
        for domain, share in mixture.items():
            n = max(1, round(N_WINDOWS * share))
            parts.append(domains[domain].windows(domains[domain].train, T, n))
        data.append(torch.cat(parts))
    return data


def tfidf(windows, vocab_size):
    """The tf-idf of each expert's training data. windows: (n, T) int64 for each expert; every window is a document.

    idf(v) = log(n / n_v) + 1, smoothed as in scikit-learn, where n_v of all n documents contain token v.
    Returns idf, (V,), and each expert's mean direction, scaled to length 1, (E, V).
    """
    counts = [torch.zeros(len(w), vocab_size).scatter_add_(1, w, torch.ones(w.shape)) for w in windows]  # (n, V) each
    n = sum(len(w) for w in windows)
    n_v = sum((c > 0).sum(0) for c in counts)  # (V,)
    idf = ((1 + n) / (1 + n_v)).log() + 1
    means = torch.stack([F.normalize(c * idf, dim=1).mean(0) for c in counts])
    return idf, F.normalize(means, dim=1)


class BTM(nn.Module):
    """Experts that predict together. It can be called like a `GPT`."""

    def __init__(self, experts, method, top_k, windows=None):
        """experts: dense GPTs of one tokenizer; windows: their training data (tfidf)."""
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.method = method
        self.top_k = top_k
        self.config = min((expert.config for expert in experts), key=lambda config: config.block_size)
        if method == "tfidf":
            device = experts[0].embed.weight.device
            self.idf, self.centroids = (x.to(device) for x in tfidf(windows, self.config.vocab_size))

    def bayes_scores(self, log_p):
        """log p_i = sum_{s<=t} log p_i(x_s | x_<s) for every t, up to a constant: (E, B, T).

        log_p: (E, B, T - 1), the log-probability that each expert gave to x_2..x_T. The first token tells nothing about
        the experts.
        """
        return F.pad(log_p, (1, 0)).cumsum(-1)

    def share_scores(self, log_p):
        """The log-probability that expert i writes the token after x_1..x_t, for every t: (E, B, T). log_p: as above.

        Bayes' rule gives the author of x_t. The next author is the same, or, with probability SHARE, a random one.
        """
        scores = [log_p.new_zeros(log_p.shape[:2])]     # (E, B), the same for all
        for log_p_t in log_p.unbind(-1):                # (E, B)
            author = (scores[-1] + log_p_t).softmax(0)  # (E, B)
            scores.append(((1 - SHARE) * author + SHARE / len(log_p)).log())
        return torch.stack(scores, -1)

    def tfidf_scores(self, idx):
        """2 cos / tau, between the text up to each token and each expert's training data: (E, B, T). idx: (B, T)."""
        idf = self.idf[idx]                                              # (B, T)
        dots = (idf * self.centroids[:, idx]).cumsum(-1)                 # (E, B, T)
        # a token's n-th occurrence changes its component of the vector from (n-1) idf to n idf
        n = (idx[:, :, None] == idx[:, None, :]).tril().sum(-1)          # (B, T)
        lengths = (idf**2 * (n**2 - (n - 1)**2)).cumsum(-1).sqrt()       # (B, T)
        return 2 / TEMPERATURE * dots / lengths

    def log_weights(self, scores):
        """The log-softmax over the top_k largest scores, -inf for the rest: (E, B, T) -> (E, B, T)."""
        kept, experts = scores.sort(dim=0, descending=True, stable=True)  # stable: the first of equal scores wins
        kept = kept[:self.top_k].log_softmax(0)
        return torch.full_like(scores, -math.inf).scatter(0, experts[:self.top_k], kept)

    def forward(self, idx, cache=None, n_last=0):
        """Like `GPT.forward`, without loss and routing. The logits are the log of the averaged prediction.

        cache: stores the text so far, (B, S), which is read again in each call.
        """
        n_last = n_last or idx.shape[1]
        if cache is not None:
            idx = cache.append("text", idx, dim=1)
            cache.length = idx.shape[1]
        log_p = []  # for each expert, what it gave to the tokens of the text, (B, T - 1)
        log_probs = torch.empty(len(self.experts), len(idx), n_last, self.config.vocab_size, device=idx.device)
        for i, expert in enumerate(self.experts):
            prediction = expert(idx)[0].float().log_softmax(-1)  # (B, T, V)
            log_p.append(prediction[:, :-1].gather(-1, idx[:, 1:, None])[..., 0])
            log_probs[i] = prediction[:, -n_last:]
        if self.method == "tfidf":
            scores = self.tfidf_scores(idx)                      # (E, B, T)
        elif self.method == "share":
            scores = self.share_scores(torch.stack(log_p))       # (E, B, T)
        else:
            scores = self.bayes_scores(torch.stack(log_p))       # (E, B, T)
        weights = self.log_weights(scores)[:, :, -n_last:, None]  # (E, B, n_last, 1)
        return log_probs.add_(weights).logsumexp(0), None, []     # (B, n_last, V)

    def num_params(self, active=False):
        """Number of parameters. All are active: every expert computes every token, whatever top_k is.

        bayes and share weigh the experts by their predictions, so they need all of them. tfidf weighs them by the
        text alone, so the paper computes only the top_k experts; here all are computed.
        """
        return sum(expert.num_params() for expert in self.experts)
