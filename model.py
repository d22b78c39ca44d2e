"""The transformer of Branch-Train-MiX (arXiv 2403.07816): Llama-2's block, dense or with a mixture of experts.

A dense model is a seed, a branch or a baseline. `mix.py` turns several of them into one MoE model. Only the
feed-forward sublayer differs: an MoE has the same three matrices with a leading expert dimension, and a router.

Shapes in comments: B sequences of T tokens, M = B*T tokens, D = n_embd, V = vocab_size, N = n_expert, k = top_k.
"""
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

LOGIT_STD = 0.16  # standard deviation of a new router's logits (not in the paper); small, so gates start nearly equal
CAPACITY_FACTOR = 1.5  # Switch (3.3): in training an expert takes at most CAPACITY_FACTOR * M / N tokens


@dataclass
class GPTConfig:
    """The shape of a model. Every checkpoint stores it."""
    vocab_size: int = 1024
    block_size: int = 128       # longest context it is trained on
    n_layer: int = 4
    n_head: int = 4
    n_kv_head: int = 0          # key/value heads; fewer than n_head make grouped-query attention, 0 means n_head
    n_embd: int = 128
    d_ff: int = 352             # about 8/3 n_embd: SwiGLU has three matrices where a ReLU layer has two
    tie_weights: bool = False   # output head = token embeddings
    rope_theta: float = 10000.0
    rope_factor: float = 1.0    # how many times slower the slow pairs of RoPE turn, as in Llama 3.1; see stretch
    norm_eps: float = 1e-5
    n_expert: int = 0           # 0: dense
    top_k: int = 2              # experts per token; one of the FIXED routers sets it
    routing: str = "topk"       # one of ROUTERS

    def __post_init__(self):
        self.n_kv_head = self.n_kv_head or self.n_head
        if self.routing in FIXED:
            self.top_k = self.n_expert if self.routing == "soft" else 1


def rope_angles(config, start, end, device):
    """Cosine and sine, (T, d/2) each, of position * theta^(-2j/d), for positions start to end and pairs j of a head."""
    d = config.n_embd // config.n_head
    frequencies = config.rope_theta ** (-torch.arange(0, d, 2, device=device, dtype=torch.float32) / d)  # (d/2,)
    frequencies = stretch(frequencies, config.rope_factor)
    angles = torch.arange(start, end, device=device)[:, None].float() * frequencies  # (T, d/2)
    return angles.cos(), angles.sin()


def stretch(frequencies, factor):
    """Llama 3.1's RoPE for texts beyond 8192 tokens: slow pairs turn slower, by at most `factor`. (d/2,) -> (d/2,)."""
    turns = 8192 * frequencies / (2 * math.pi)  # of each pair in 8192 tokens
    kept = ((turns - 1) / 3).clamp(0, 1)        # 1 for a pair with 4 turns or more, 0 for one with 1 turn or less
    return torch.lerp(frequencies / factor, frequencies, kept)


def rope(x, angles):
    """Rotary position embedding (Su et al. 2021), in the half-split form of Hugging Face's Llama.

    Rotates the pair (x_j, x_{j+d/2}) of every head by its angle. The dot product of a query and a key then depends on
    their distance, not on their positions. x: (B, heads, T, d); angles: see rope_angles. Returns x's shape and dtype.
    """
    cos, sin = angles[0].to(x.dtype), angles[1].to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class Attention(nn.Module):
    """Causal self-attention. `mix.py` averages it over the models, like everything outside the feed-forward (3.2)."""

    def __init__(self, config, layer):
        super().__init__()
        self.layer = layer
        D = config.n_embd
        self.head_dim = D // config.n_head
        self.wq = nn.Linear(D, D, bias=False)
        self.wk = nn.Linear(D, config.n_kv_head * self.head_dim, bias=False)
        self.wv = nn.Linear(D, config.n_kv_head * self.head_dim, bias=False)
        self.wo = nn.Linear(D, D, bias=False)

    def forward(self, x, angles, cache=None):
        """x: (B, T, D) -> (B, T, D). angles: see rope; cache: see GPT.forward."""
        B, T, D = x.shape
        q = rope(self.wq(x).view(B, T, -1, self.head_dim).transpose(1, 2), angles)  # (B, n_head, T, d)
        k = rope(self.wk(x).view(B, T, -1, self.head_dim).transpose(1, 2), angles)  # (B, n_kv_head, T, d)
        v = self.wv(x).view(B, T, -1, self.head_dim).transpose(1, 2)                # (B, n_kv_head, T, d)
        if cache is not None:
            assert T == 1 or cache.length == 0, "each pass after the first takes one new token, which may attend to all"
            k = cache.append(("k", self.layer), k, dim=2)  # (B, n_kv_head, S, d)
            v = cache.append(("v", self.layer), v, dim=2)
        grouped = k.shape[1] < q.shape[1]  # each key and value serves several heads
        y = F.scaled_dot_product_attention(q, k, v, is_causal=T > 1, enable_gqa=grouped)
        return self.wo(y.transpose(1, 2).reshape(B, T, D))


def swiglu(x, w_gate, w_up, w_down):
    """FF(x) = w_down (silu(w_gate x) * w_up x) (Shazeer 2020). w_gate, w_up: (d_ff, D); w_down: (D, d_ff)."""
    return F.linear(F.silu(F.linear(x, w_gate)) * F.linear(x, w_up), w_down)


class FeedForward(nn.Module):
    """A dense feed-forward sublayer, FF_i of the paper."""

    def __init__(self, config):
        super().__init__()
        self.w_gate = nn.Parameter(torch.empty(config.d_ff, config.n_embd))
        self.w_up = nn.Parameter(torch.empty(config.d_ff, config.n_embd))
        self.w_down = nn.Parameter(torch.empty(config.n_embd, config.d_ff))

    def forward(self, x, noise=None):
        """x: (B, T, D). Returns FF(x), in the same shape, and no Routing."""
        return swiglu(x, self.w_gate, self.w_up, self.w_down), None


def is_feed_forward(name):
    """Whether a parameter with this name is a matrix of a feed-forward; in an MoE these are the stacked experts."""
    return ".ff.w_" in name


def is_router(name):
    """Whether a parameter with this name is a router."""
    return name.endswith(".ff.router")


class Routing(NamedTuple):
    """A router's decision for M tokens of one layer. The loss, the statistics and the figures all read this tuple."""
    gates: torch.Tensor    # (M, k) weight of each chosen expert, g_i(W_l x) of the paper
    experts: torch.Tensor  # (M, k) index of each chosen expert, int64
    probs: torch.Tensor    # (M, N) softmax over all experts

    def dense_gates(self):
        """The gates of all experts, (M, N): 0 for those not chosen."""
        return torch.zeros_like(self.probs).scatter(1, self.experts, self.gates.to(self.probs.dtype))


class Noise(NamedTuple):
    """The noise and the temperature with which Sample Top-1 draws experts in one layer."""
    G: torch.Tensor    # (M, N) Gumbel noise
    tau: float         # temperature


def route_topk(logits, top_k):
    """g(W_l x) = SoftMax(TopK(W_l x)) (3.2): the softmax is taken over the k kept logits, so the gates sum to 1."""
    kept, experts = logits.topk(top_k, dim=-1)  # (M, k)
    return Routing(kept.softmax(-1), experts, logits.softmax(-1))


def route_soft(logits):
    """g(W_l x) = SoftMax(W_l x) (3.3): every expert computes every token."""
    probs = logits.softmax(-1)                                        # (M, N)
    everyone = torch.arange(logits.shape[1], device=logits.device)    # (N,)
    return Routing(probs, everyone.expand_as(logits), probs)


def route_switch(logits, training=False):
    """Switch (3.3; Fedus et al. 2022): the likeliest expert, weighted by its probability SoftMax_i(W_l x) among all N.

    In training an expert takes at most CAPACITY_FACTOR * M / N tokens, rounded up. If more tokens chose it, those with
    the smallest gates are dropped: their gate becomes 0, and only the residual connection carries them on.
    """
    M, N = logits.shape
    probs = logits.softmax(-1)  # (M, N)
    gates, experts = probs.max(-1, keepdim=True)  # (M, 1)
    if training:
        capacity = math.ceil(CAPACITY_FACTOR * M / N)
        all_gates = Routing(gates, experts, probs).dense_gates()  # (M, N) 0 for experts not chosen
        queue = all_gates.argsort(0, descending=True)             # (M, N) each expert's tokens, largest gate first
        place = queue.argsort(0)                                  # (M, N) the inverse: a token's place in each queue
        gates = gates * (place.gather(1, experts) < capacity)     # (M, 1) 0 for a dropped token
    return Routing(gates, experts, probs)


def route_sample(logits, training=False, noise=None):
    """Sample Top-1 (3.3): g is a Gumbel-softmax sample (Jang et al. 2016) with all but its largest value zeroed.

    g = SoftMax((W_l x + G) / tau). Expert i has the largest value with probability SoftMax_i(W_l x).
    The returned probs are without noise. In evaluation the gate is 1. Without noise the likeliest expert is taken.
    """
    if training and noise is None:
        raise ValueError("Sample Top-1 draws its experts in training: pass noise to forward")
    noisy = logits if noise is None else (logits + noise.G) / noise.tau  # (M, N)
    g = noisy.softmax(-1)
    gates, experts = g.max(-1, keepdim=True)  # (M, 1)
    if not training:
        gates = torch.ones_like(gates)
    return Routing(gates, experts, logits.softmax(-1))


# For a router of your own, write route_NAME beside these four, put NAME into ROUTERS, and call it in MoE.route.
ROUTERS = ("topk", "switch", "soft", "sample")
FIXED = ("switch", "soft", "sample")  # have one expert per token, or all of them; the others have --top_k


def gumbel(config, n_tokens, tau, generator):
    """The Noise of each layer for n_tokens tokens: G = -log(-log(U)), where U is uniform in (0, 1)."""
    U = torch.rand(config.n_layer, n_tokens, config.n_expert, generator=generator, device=generator.device)
    minus_log_U = -U.clamp_min(torch.finfo(U.dtype).tiny).log()
    G = -minus_log_U.log()  # (n_layer, M, N)
    return [Noise(G_l, tau) for G_l in G]


def ff_moe(x, routing, w_gate, w_up, w_down):
    """FF_MoE(x) = sum_i g_i(W_l x) FF_i(x) (3.2): each expert computes the tokens that chose it; none is dropped.

    x: (M, D); routing: see Routing; w_gate, w_up: (N, d_ff, D); w_down: (N, D, d_ff). Returns (M, D).
    """
    y = torch.zeros_like(x)
    for i, expert in enumerate(zip(w_gate, w_up, w_down, strict=True)):
        token, choice = (routing.experts == i).nonzero(as_tuple=True)  # (M_i,) who chose expert i, as which of k
        g_i = routing.gates[token, choice, None]                       # (M_i, 1)
        FF_i = swiglu(x[token], *expert)                               # (M_i, D)
        y.index_add_(0, token, g_i * FF_i)                             # (M, D)
    return y


def new_router(n_expert, n_embd, generator):
    """A new router W_l, (N, D) (3.2: "randomly initialized"). Its logits have std LOGIT_STD for inputs of RMS 1."""
    return torch.empty(n_expert, n_embd).normal_(0, LOGIT_STD / math.sqrt(n_embd), generator=generator)


class MoE(nn.Module):
    """The MoE sublayer FF_MoE^l: the stacked matrices of N feed-forwards, and one linear router W_l (3.2)."""

    def __init__(self, config, layer):
        super().__init__()
        self.w_gate = nn.Parameter(torch.empty(config.n_expert, config.d_ff, config.n_embd))
        self.w_up = nn.Parameter(torch.empty(config.n_expert, config.d_ff, config.n_embd))
        self.w_down = nn.Parameter(torch.empty(config.n_expert, config.n_embd, config.d_ff))
        self.router = nn.Parameter(torch.empty(config.n_expert, config.n_embd))
        is_soft = config.routing == "sample" and layer == 0  # Sample Top-1's first layer routes softly (3.3)
        self.router_kind = "soft" if is_soft else config.routing
        self.top_k = config.n_expert if is_soft else config.top_k  # experts per token
        self.ff_moe = ff_moe  # support/fast.py replaces it with grouped products, which give the same result

    def route(self, logits, noise=None):
        """Apply this layer's kind of routing to its logits, (M, N). Returns a Routing."""
        if self.router_kind == "topk":
            return route_topk(logits, self.top_k)
        if self.router_kind == "switch":
            return route_switch(logits, self.training)
        if self.router_kind == "soft":
            return route_soft(logits)
        if self.router_kind == "sample":
            return route_sample(logits, self.training, noise)
        raise ValueError(f"MoE.route does not know the router {self.router_kind!r}")

    def forward(self, x, noise=None):
        """x: (B, T, D). Returns FF_MoE(x), in the same shape, and the Routing. noise: see route_sample."""
        tokens = x.flatten(0, 1)  # (M, D)
        with torch.autocast(x.device.type, enabled=False):  # rounding to bfloat16 should not decide the expert
            logits = F.linear(tokens, self.router)  # W_l x, (M, N)
        routing = self.route(logits, noise)
        y = self.ff_moe(tokens, routing, self.w_gate, self.w_up, self.w_down)  # (M, D)
        return y.view(x.shape), routing


def mean_gates_and_probs(routing):
    """u and p of section 3.3, (n_layer, N) each, from a Routing for each layer.

    u_i, the load of expert i, is the mean over the tokens of its gate g_i; p_i is that of SoftMax_i over all N experts.
    """
    u = torch.stack([layer.dense_gates().mean(0) for layer in routing])  # (n_layer, N)
    p = torch.stack([layer.probs.mean(0) for layer in routing])          # (n_layer, N)
    return u, p


def load_balancing_loss(u, p):
    """L_LB / alpha = N * sum_i u_i p_i, summed over layers (3.3): a Top-k layer adds 1 at balance, N at collapse.

    u, p: see mean_gates_and_probs. The loss multiplies two means. A mean of products would punish confident decisions,
    not uneven loads.
    """
    N = u.shape[1]
    return N * (u * p).sum()


class Block(nn.Module):
    """One layer: attention, then a feed-forward. Each reads the normalized residual stream and adds to it."""

    def __init__(self, config, layer):
        super().__init__()
        self.attn_norm = nn.RMSNorm(config.n_embd, eps=config.norm_eps)
        self.attn = Attention(config, layer)
        self.ff_norm = nn.RMSNorm(config.n_embd, eps=config.norm_eps)
        self.ff = MoE(config, layer) if config.n_expert else FeedForward(config)

    def forward(self, x, angles, cache=None, noise=None):
        """x: (B, T, D). Returns a tensor of the same shape, and the layer's Routing, which is None in a dense model."""
        x = x + self.attn(self.attn_norm(x), angles, cache)  # (B, T, D)
        y, routing = self.ff(self.ff_norm(x), noise)
        return x + y, routing


class GPT(nn.Module):
    """A decoder-only transformer: `logits, loss, routing = GPT(GPTConfig(), torch.Generator())(idx, targets)`."""

    def __init__(self, config, generator=None):
        """Draw the weights from `generator`. Without one the weights are not set: load a state dict."""
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = nn.RMSNorm(config.n_embd, eps=config.norm_eps)
        if not config.tie_weights:
            self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if generator is not None:
            self.init_weights(generator)

    @torch.no_grad()
    def init_weights(self, generator):
        """Draw matrices from a normal distribution with std 1/sqrt(fan_in), untied embeddings with std 1.

        wo and w_down write to the residual stream, so they are divided by sqrt(2 n_layer), as in GPT-2.
        """
        for name, p in self.named_parameters():
            if is_router(name):
                p.copy_(new_router(*p.shape, generator))
            elif name == "embed.weight" and not self.config.tie_weights:
                p.normal_(0, 1, generator=generator)
            elif name.endswith(("wo.weight", "w_down")):
                p.normal_(0, p.shape[-1] ** -0.5 / math.sqrt(2 * self.config.n_layer), generator=generator)
            elif "norm" not in name:  # norms start at 1
                p.normal_(0, p.shape[-1] ** -0.5, generator=generator)

    def forward(self, idx, targets=None, cache=None, noise=None, recompute=False, n_last=0):
        """Predict the next token at every position. idx, targets: (B, T) int64.

        Returns logits (B, T, V), the mean cross-entropy in nats (None without targets), and a list with the Routing of
        each layer, empty for a dense model. noise: for Sample Top-1 the Noise of each layer, see `gumbel`.
        cache: in generation, a Cache of support/generation.py; after the first call, each call passes one new token.
        recompute: compute the activations inside each block again in the backward pass, which saves memory.
        n_last: compute the logits of the last n_last positions only; 0 means all positions.
        """
        start = 0 if cache is None else cache.length  # the position of the first new token
        angles = rope_angles(self.config, start, start + idx.shape[1], idx.device)
        x = self.embed(idx)  # (B, T, D)
        routing = []
        for i, block in enumerate(self.blocks):
            layer_noise = None if noise is None else noise[i]
            if recompute:
                x, layer_routing = checkpoint(block, x, angles, cache, layer_noise, use_reentrant=False)
            else:
                x, layer_routing = block(x, angles, cache, layer_noise)
            if self.config.n_expert:
                routing.append(layer_routing)
        if cache is not None:
            cache.length += idx.shape[1]
        head = self.embed if self.config.tie_weights else self.head
        if n_last:
            x = x[:, -n_last:]
        logits = F.linear(self.norm(x), head.weight)  # (B, T or n_last, V)
        loss = None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits, loss, routing

    def active_parameters(self):
        """Yield (module, parameter, how many of its numbers one token uses). A token uses k of an MoE's N experts."""
        for module in self.modules():
            for p in module.parameters(recurse=False):  # each parameter once, with the module that owns it
                if isinstance(module, MoE) and p is not module.router:
                    yield module, p, p[0].numel() * module.top_k  # p: N matrices
                else:
                    yield module, p, p.numel()

    def num_params(self, active=False):
        """Count the parameters. active=True counts those that one token uses: k of the N experts of each layer."""
        return sum(n_active if active else p.numel() for _, p, n_active in self.active_parameters())

    def flops_per_token(self):
        """FLOPs of a training step per token, in sequences of block_size.

        The forward pass costs 2 for each active weight in a matrix product, and 4*T*D a layer for attention's scores
        and values. The backward pass costs twice that (Kaplan et al. 2020). A frozen weight needs no gradient, so it
        costs 4, not 6. If the first layers are frozen, the count is a little too high: no gradient flows back to them.
        """
        c = self.config
        total = 3 * 4 * c.n_layer * c.block_size * c.n_embd  # attention, forward and backward
        for module, p, n_active in self.active_parameters():
            if isinstance(module, nn.RMSNorm) or (module is self.embed and not c.tie_weights):
                continue  # a norm is not a matrix; embeddings are looked up, not multiplied
            total += (6 if p.requires_grad else 4) * n_active
        return total
