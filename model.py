"""The transformer of Branch-Train-MiX (arXiv 2403.07816): Llama-2's block, with a dense or a mixture-of-experts feed-forward.

A dense model is a seed, an expert or a baseline; `mix.py` turns several of them into one MoE model. The two differ in the
feed-forward sublayer alone: the same three matrices with a leading expert dimension, and a router.

Shapes in the comments: B sequences, T tokens in each, C = n_embd, V = vocab_size, M = B*T tokens, N = n_expert, k = top_k.
"""
import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import fast

ROUTER_STD = 0.02  # the paper says "randomly initialised"; a small std starts near equal gates instead of saturated ones
CAPACITY = 1.5     # Switch: how much of an even share of the tokens an expert takes in training (3.3)
MIN_TAU = 0.5      # Sample Top-1: the temperature at the end of training (3.3)

@dataclass
class GPTConfig:
    """What must be known to rebuild a model from its state dict; stored in every checkpoint."""
    vocab_size: int = 1024
    block_size: int = 128       # longest context it is trained on
    n_layer: int = 4
    n_head: int = 4
    n_kv_head: int = 0          # fewer key/value heads than n_head: grouped-query attention; 0 means n_head
    n_embd: int = 128
    d_ff: int = 352             # about 8/3 n_embd: SwiGLU has three matrices where a ReLU layer has two
    tie_weights: bool = False   # output head = token embeddings
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    n_expert: int = 0           # 0: dense
    top_k: int = 2              # experts computed for each token by topk; the other methods fix it, see active_experts
    routing: str = "topk"       # a key of ROUTERS

    def __post_init__(self):
        self.n_kv_head = self.n_kv_head or self.n_head
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_kv_head", "n_embd", "d_ff", "rope_theta", "norm_eps"):
            low = {"rope_theta": 1.0, "norm_eps": 0.0}.get(name, 1)
            if not low <= getattr(self, name) < math.inf:  # also refuses nan
                raise ValueError(f"{name} must be at least {low} and finite, not {getattr(self, name)}")
        if self.n_embd % self.n_head or (self.n_embd // self.n_head) % 2:
            raise ValueError(f"n_embd {self.n_embd} must be n_head {self.n_head} times an even number (RoPE turns pairs)")
        if self.n_head % self.n_kv_head:
            raise ValueError(f"n_head {self.n_head} must be a multiple of n_kv_head {self.n_kv_head}")
        if self.n_expert and not 1 <= self.top_k <= self.n_expert:
            raise ValueError(f"top_k {self.top_k} must be between 1 and the number of experts, {self.n_expert}")
        if self.routing not in ROUTERS:
            raise ValueError(f"routing {self.routing!r} is not one of {', '.join(ROUTERS)}")

    def layer_routing(self, layer):
        """The key of ROUTERS for a layer: the first layer of a Sample Top-1 model uses soft routing (3.3)."""
        return "soft" if self.routing == "sample" and layer == 0 else self.routing

    def active_experts(self, layer):
        """How many experts compute each token in a layer."""
        return {"topk": self.top_k, "soft": self.n_expert}.get(self.layer_routing(layer), 1)


# ---- attention --------------------------------------------------------------------------------------------------------


def rope_angles(config, start, end, device):
    """Cosine and sine, (T, d/2) float32, of position * theta^(-2j/d) for the positions from start to end and each pair j of a
    head of width d."""
    d = config.n_embd // config.n_head
    frequencies = config.rope_theta ** (-torch.arange(0, d, 2, device=device, dtype=torch.float32) / d)  # (d/2,)
    angles = torch.arange(start, end, device=device)[:, None].float() * frequencies  # (T, d/2)
    return angles.cos(), angles.sin()


def rope(x, angles):
    """Rotary position embedding (Su et al. 2021), in the half-split form of Hugging Face's Llama.

    Turns the pair (x_j, x_{j+d/2}) of every head by its angle, so that a query and a key meet at an angle that depends on
    their distance alone. x: (B, heads, T, d); angles: see rope_angles; returns x's shape and dtype.
    """
    cos, sin = angles[0].to(x.dtype), angles[1].to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class KVCache:
    """The keys and values of all tokens that one attention layer has read. The memory doubles when it is full."""

    def __init__(self):
        self.length, self.memory = 0, None

    def append(self, k, v):
        """k, v: (B, n_kv_head, T, d), those of T new tokens. Returns those of all tokens, (B, n_kv_head, length, d)."""
        old, self.length = self.length, self.length + k.shape[2]
        if self.memory is None or self.length > self.memory.shape[3]:
            memory = k.new_empty(2, *k.shape[:2], 2 * self.length, k.shape[3])  # (2, B, n_kv_head, room, d)
            if old:
                memory[:, :, :, :old] = self.memory[:, :, :, :old]
            self.memory = memory
        self.memory[0, :, :, old:self.length], self.memory[1, :, :, old:self.length] = k, v
        return self.memory[:, :, :, :self.length].unbind()


def attention(q, k, v):
    """SoftMax(q k^T / sqrt(d)) v, each query reading the keys up to its own place; the T queries are the last of S places.

    q: (B, n_head, T, d); k, v: (B, n_kv_head, S, d), each read by n_head / n_kv_head heads. Returns (B, n_head, T, d).
    """
    B, n_head, T, d = q.shape
    S, readers = k.shape[2], n_head // k.shape[1]
    if readers > 1:
        k, v = k.repeat_interleave(readers, dim=1), v.repeat_interleave(readers, dim=1)
    q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)                                 # (B*n_head, T or S, d)
    scores = torch.bmm(q * d ** -0.5, k.transpose(1, 2))                                        # (B*n_head, T, S)
    scores = scores.to(torch.promote_types(q.dtype, torch.float32))
    if T > 1:  # a last token sees everything
        scores = scores + torch.full((T, S), -math.inf, dtype=scores.dtype, device=q.device).triu(S - T + 1)
    return torch.bmm(scores.softmax(-1).to(v.dtype), v).view(B, n_head, T, d)


class Attention(nn.Module):
    """Causal self-attention; averaged over the experts by `mix.py`, as everything outside the feed-forward (3.2)."""

    def __init__(self, config):
        super().__init__()
        self.n_head, self.n_kv_head, self.head_dim = config.n_head, config.n_kv_head, config.n_embd // config.n_head
        self.wq = fast.Linear(config.n_embd, self.n_head * self.head_dim)
        self.wk = fast.Linear(config.n_embd, self.n_kv_head * self.head_dim)
        self.wv = fast.Linear(config.n_embd, self.n_kv_head * self.head_dim)
        self.wo = fast.Linear(self.n_head * self.head_dim, config.n_embd)

    def forward(self, x, angles, cache=None):
        """x: (B, T, C); angles: see rope; cache: a KVCache of earlier tokens or None. Returns (B, T, C)."""
        B, T, _ = x.shape
        q = self.wq(x).view(B, T, self.n_head, self.head_dim).transpose(1, 2)     # (B, n_head, T, d)
        k = self.wk(x).view(B, T, self.n_kv_head, self.head_dim).transpose(1, 2)  # (B, n_kv_head, T, d)
        v = self.wv(x).view(B, T, self.n_kv_head, self.head_dim).transpose(1, 2)
        q, k = rope(q, angles), rope(k, angles)
        if cache is not None:
            k, v = cache.append(k, v)  # (B, n_kv_head, S, d)
        y = (fast.attention_kernel if fast.kernel_pays(q, k) else attention)(q, k, v)  # (B, n_head, T, d)
        return self.wo(y.transpose(1, 2).reshape(B, T, -1))


# ---- feed-forward: dense, or a mixture of experts ---------------------------------------------------------------------


def swiglu(x, w_gate, w_up, w_down):
    """FF(x) = w_down (silu(w_gate x) * w_up x) (Shazeer 2020). x: (..., C); w_gate, w_up: (d_ff, C); w_down: (C, d_ff)."""
    return fast.linear(F.silu(fast.linear(x, w_gate)) * fast.linear(x, w_up), w_down)


class Routing(NamedTuple):
    """What one layer's router decided for M tokens; everything said about routing is a function of this value."""
    gates: torch.Tensor    # (M, k) weight of each chosen expert, g_i(W_l x) of the paper
    experts: torch.Tensor  # (M, k) index of each chosen expert, int64
    probs: torch.Tensor    # (M, N) softmax over all experts

    def dense_gates(self):
        """The gates of all experts, (M, N): 0 for those not chosen."""
        return torch.zeros_like(self.probs).scatter(1, self.experts, self.gates.to(self.probs.dtype))


# The four routers: logits W_l x, (M, N) -> Routing. Each takes what any of them needs: top_k; whether this is training;
# a generator for noise; the temperature tau.


def route_topk(logits, top_k, training=False, generator=None, tau=MIN_TAU):
    """g(W_l x) = SoftMax(TopK(W_l x)) (3.2): the softmax is taken over the k kept logits, so the gates sum to 1.

    >>> route_topk(torch.tensor([[0.0, 2.0, 2.0]]), top_k=2).gates
    tensor([[0.5000, 0.5000]])
    """
    kept, experts = logits.topk(top_k, dim=-1)  # (M, k)
    return Routing(kept.softmax(-1), experts, logits.softmax(-1))


def route_soft(logits, top_k=None, training=False, generator=None, tau=MIN_TAU):
    """g(W_l x) = SoftMax(W_l x) (3.3): every expert computes.

    >>> route_soft(torch.tensor([[0.0, 0.0]])).gates
    tensor([[0.5000, 0.5000]])
    """
    probs = logits.softmax(-1)  # (M, N)
    return Routing(probs, torch.arange(logits.shape[-1], device=logits.device).expand_as(logits), probs)


def route_switch(logits, top_k=None, training=False, generator=None, tau=MIN_TAU):
    """Switch (3.3; Fedus et al. 2022): the likeliest expert, weighted by its probability SoftMax_i(W_l x) among all N.

    In training an expert takes CAPACITY * M / N tokens at most, never less than one. Those over it get the gate 0, so that they
    pass by the residual alone: the ones with the smallest gates, wherever in the batch they stand. None in evaluation.

    >>> route_switch(torch.tensor([[2.0, 0.0], [1.0, 0.0], [3.0, 0.0]]).log_softmax(-1), training=True).gates.squeeze(1)
    tensor([0.8808, 0.7311, 0.9526])
    >>> route_switch(torch.tensor([[2.0, 0.0], [1.0, 0.0], [3.0, 0.0], [4.0, 0.0]]), training=True).gates.squeeze(1)
    tensor([0.8808, 0.0000, 0.9526, 0.9820])
    """
    M, N = logits.shape
    probs = logits.softmax(-1)
    gates, experts = probs.max(-1, keepdim=True)  # (M, 1)
    if training:
        capacity = max(1, math.ceil(CAPACITY * M / N))
        order = gates[:, 0].argsort(descending=True, stable=True)
        chosen = F.one_hot(experts[order, 0], N)                        # (M, N), surest tokens first
        place = torch.empty_like(order).scatter(0, order, (chosen.cumsum(0) * chosen).sum(-1))  # (M,) 1 is an expert's first
        gates = gates * (place <= capacity)[:, None]
    return Routing(gates, experts, probs)


def route_sample(logits, top_k=None, training=False, generator=None, tau=MIN_TAU):
    """Sample Top-1 (3.3): g is a Gumbel-softmax sample (Jang et al. 2016) with all but its largest value zeroed.

    g = SoftMax((W_l x + G) / tau), G_i = -log(-log(U_i)): its largest value is expert i's with probability SoftMax_i(W_l x).
    In evaluation the gate is 1, of an expert drawn in the same way, or, without a generator, of the likeliest one.
    Raises ValueError if there is no generator in training.
    """
    if training and generator is None:
        raise ValueError("Sample Top-1 draws its experts in training: pass a generator to forward")
    noisy = logits
    if generator is not None:
        uniform = torch.rand(logits.shape, generator=generator, device=logits.device, dtype=logits.dtype)
        noisy = logits - (-uniform.clamp_min(torch.finfo(logits.dtype).tiny).log()).log()
    gates, experts = (noisy / tau).softmax(-1).max(-1, keepdim=True)  # (M, 1)
    return Routing(gates if training else torch.ones_like(gates), experts, logits.softmax(-1))


ROUTERS = {"topk": route_topk, "switch": route_switch, "soft": route_soft, "sample": route_sample}


def mix_experts(x, routing, w_gate, w_up, w_down):
    """FF_MoE(x) = sum_i g_i(W_l x) FF_i(x) (3.2), computing the chosen experts only; no token is dropped.

    Tokens are sorted by expert so that each expert is one matrix product over a contiguous slice.
    x: (M, C); routing: see Routing; w_gate, w_up: (N, d_ff, C); w_down: (N, C, d_ff). Returns (M, C).
    """
    M, k = routing.experts.shape
    sorted_experts, order = routing.experts.reshape(-1).sort(stable=True)  # (M*k,), slot = token * k + choice
    ends = torch.searchsorted(sorted_experts, torch.arange(len(w_gate), device=x.device), right=True)  # (N,) where slices end
    slices = x.index_select(0, order // k).tensor_split(ends[:-1].cpu())
    # unbind, not w[i]: the gradient of w[i] would be a tensor of zeros of the size of all experts, once per expert.
    weights = zip(w_gate.unbind(), w_up.unbind(), w_down.unbind(), strict=True)
    sorted_y = torch.cat([swiglu(s, *w) for s, w in zip(slices, weights, strict=True)])  # (M*k, C)
    y = sorted_y.index_select(0, order.argsort()).view(M, k, -1)
    return (routing.gates.to(y.dtype)[:, :, None] * y).sum(1)  # (M, C)


class FeedForward(nn.Module):
    """A dense feed-forward sublayer, FF_i of the paper. It has no router, so that noise is nothing to it."""

    def __init__(self, config):
        super().__init__()
        self.w_gate = nn.Parameter(torch.empty(config.d_ff, config.n_embd))
        self.w_up = nn.Parameter(torch.empty(config.d_ff, config.n_embd))
        self.w_down = nn.Parameter(torch.empty(config.n_embd, config.d_ff))

    def forward(self, x, **noise):
        return swiglu(x, self.w_gate, self.w_up, self.w_down), None


class MoE(nn.Module):
    """The MoE sublayer FF_MoE^l: N feed-forwards under the same names as in FeedForward, and one linear router W_l (3.2)."""

    def __init__(self, config, layer):
        super().__init__()
        N, d_ff, C = config.n_expert, config.d_ff, config.n_embd
        self.route, self.top_k = ROUTERS[config.layer_routing(layer)], config.top_k
        self.router = nn.Parameter(torch.empty(N, C))
        self.w_gate = nn.Parameter(torch.empty(N, d_ff, C))
        self.w_up = nn.Parameter(torch.empty(N, d_ff, C))
        self.w_down = nn.Parameter(torch.empty(N, C, d_ff))

    def forward(self, x, **noise):
        """x: (B, T, C) -> FF_MoE(x), the same shape, and the Routing; noise: generator and tau, for the router."""
        tokens = x.reshape(-1, x.shape[-1])  # (M, C)
        with torch.autocast(x.device.type, enabled=False):  # a choice between experts should not hang on bf16's rounding
            dtype = torch.promote_types(tokens.dtype, torch.float32)
            logits = F.linear(tokens.to(dtype), self.router.to(dtype))  # (M, N)
        routing = self.route(logits, self.top_k, self.training, **noise)
        y = fast.mix_experts(tokens, routing, self.w_gate, self.w_up, self.w_down)  # mix_experts does the same, slower
        return y.view(x.shape), routing


def load_balancing_loss(routing, over_ranks=lambda mean: mean):
    """L_LB / alpha = N * sum_i u_i p_i of every layer, summed over layers (3.3): 1 per layer at balance, N at collapse.

    Less by the mean gate with Switch, and with Sample Top-1 in training, whose gates sum to less than 1.

    u_i is the batch mean of the gate g_i, p_i that of the probability SoftMax_i over all N experts: a product of two
    means, not a mean of products, which would punish sure decisions instead of uneven loads.
    routing: a list of Routing, one per layer; over_ranks averages the means over data-parallel ranks. Returns a scalar.
    """
    u_and_p = over_ranks(torch.stack([torch.stack([expert_load(r), r.probs.mean(0)]) for r in routing]))  # (n_layer, 2, N)
    return u_and_p.shape[-1] * u_and_p.prod(dim=1).sum()


def expert_load(routing):
    """u_i of section 3.3: the mean gate of each expert over the tokens of one layer. Returns (N,), sum 1 for top-k."""
    return routing.dense_gates().mean(0)


# ---- the model --------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.attn_norm = nn.RMSNorm(config.n_embd, eps=config.norm_eps)
        self.attn = Attention(config)
        self.ff_norm = nn.RMSNorm(config.n_embd, eps=config.norm_eps)
        self.ff = MoE(config, layer) if config.n_expert else FeedForward(config)

    def forward(self, x, angles, cache=None, **noise):
        x = x + self.attn(self.attn_norm(x), angles, cache)
        y, routing = self.ff(self.ff_norm(x), **noise)
        return x + y, routing


class GPT(nn.Module):
    """A decoder-only transformer: `logits, loss, routing = GPT(GPTConfig())(idx, targets)`."""

    def __init__(self, config, generator=None):
        """Weights are drawn from `generator` (the global one if None); build under torch.device("meta") to draw none."""
        super().__init__()
        self.config = config
        self.embed = nn.Embedding.from_pretrained(torch.empty(config.vocab_size, config.n_embd), freeze=False)  # see init_weights
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = nn.RMSNorm(config.n_embd, eps=config.norm_eps)
        self.head = fast.Linear(config.n_embd, config.vocab_size)
        if config.tie_weights:
            self.head.weight = self.embed.weight
        self.init_weights(generator)

    @torch.no_grad()
    def init_weights(self, generator=None):
        """std 1/sqrt(fan_in); embeddings 1; routers ROUTER_STD; writes to the residual stream / sqrt(2 n_layer), as in GPT-2."""
        for name, p in self.named_parameters():
            if p.ndim == 1 or p.is_meta:
                continue  # norms start at 1; to draw on "meta", torch would import its compiler
            std = p.shape[-1] ** -0.5
            if name == "embed.weight" and not self.config.tie_weights:
                std = 1.0
            elif name.endswith(("wo.weight", "w_down")):
                std /= math.sqrt(2 * self.config.n_layer)
            elif name.endswith("router"):
                std = ROUTER_STD
            p.normal_(0, std, generator=generator)

    def forward(self, idx, targets=None, cache=None, recompute=False, loss_chunk=0, **noise):
        """Predict the next token at every position.

        idx: (B, T) int64; targets: (B, T) int64, -1 where there is none. cache: a list of KVCache, one
        for each layer, [] at first; then idx holds the tokens that follow those already in the cache. noise: `generator` and
        `tau` for Sample Top-1's router (see route_sample); the others draw nothing. Two options save memory in training:
        recompute drops what a block computed inside and does it again in the backward pass (not with a generator, which would
        draw anew); loss_chunk makes the logits of so many tokens at a time, for the loss alone.
        Returns logits (B, T, V) in float32 at least, None with loss_chunk; loss, the mean cross-entropy over targets in nats,
        None without targets; and routing, one Routing per layer, an empty list for a dense model.
        """
        if cache == []:
            cache.extend(KVCache() for _ in self.blocks)
        start = cache[0].length if cache else 0
        angles = rope_angles(self.config, start, start + idx.shape[1], idx.device)
        x = self.embed(idx)  # (B, T, C)
        routing = []
        for block, past in zip(self.blocks, cache or [None] * len(self.blocks), strict=True):
            run = partial(checkpoint, block, use_reentrant=False) if recompute else block
            x, r = run(x, angles, past, **noise)
            routing += [r] if r else []
        if loss_chunk:
            return None, fast.chunked_cross_entropy(self.norm(x).flatten(0, 1), self.head, targets.flatten(), loss_chunk), routing
        logits = self.head(self.norm(x)).to(torch.promote_types(x.dtype, torch.float32))  # (B, T, V)
        loss = None if targets is None else fast.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits, loss, routing

    @torch.inference_mode()
    def stream(self, idx, max_new_tokens, temperature=0.0, top_k=None, generator=None):
        """Yield (token, routing) for each new token, token (B, 1) int64; routing is that of the forward pass before it.

        temperature 0 takes the most likely token; else tokens are drawn from `generator`, from the top_k likeliest if given.
        Keys and values are cached. When block_size is full, the older half is forgotten and the rest read again. An idx that is
        longer is read as it is.
        """
        cache, new, forward = [], idx, fast.decoder(self)
        for _ in range(max_new_tokens):
            if cache and cache[0].length >= self.config.block_size:
                cache, new = [], idx[:, -(self.config.block_size + 1) // 2:]
            logits, _, routing = forward(new, cache=cache)
            logits = logits[:, -1]  # (B, V)
            if temperature == 0:
                new = logits.argmax(-1, keepdim=True)
            else:
                logits = logits / temperature
                if top_k is not None:
                    kth = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
                    logits = logits.masked_fill(logits < kth, -math.inf)
                new = torch.multinomial(logits.softmax(-1), 1, generator=generator)
            idx = torch.cat([idx, new], dim=1)
            yield new, routing

    def generate(self, idx, max_new_tokens, **options):
        """Continue idx (B, T) by max_new_tokens; returns (B, T + max_new_tokens). Options as in `stream`."""
        return torch.cat([idx, *(token for token, _ in self.stream(idx, max_new_tokens, **options))], dim=1)

    def num_params(self, active=False):
        """Number of parameters; with active=True only those that one token uses: some of the experts of each layer."""
        return sum(self.used(name, p) if active else p.numel() for name, p in self.named_parameters())

    def used(self, name, p):
        """How many numbers of a parameter one token uses: of stacked experts those of some."""
        if not self.config.n_expert or ".ff.w_" not in name:
            return p.numel()
        return p[0].numel() * self.config.active_experts(int(name.split(".")[1]))

    def flops_per_token(self, seq_len=None, training=True):
        """FLOPs per token at this sequence length (default block_size).

        2 per active weight in a matrix product, 4*T*C a layer for the attention scores and values; times 3 in training, the
        backward pass costing twice the forward (Kaplan et al. 2020), but for the gradients of frozen weights.
        """
        c = self.config
        products = {name: p for name, p in self.named_parameters()  # reading an embedding multiplies nothing
                    if p.ndim > 1 and (name != "embed.weight" or c.tie_weights)}
        forward = 2 * sum(self.used(name, p) for name, p in products.items())
        forward += c.n_layer * 4 * (seq_len or c.block_size) * c.n_embd
        frozen = 2 * sum(self.used(name, p) for name, p in products.items() if not p.requires_grad)
        return 3 * forward - frozen if training else forward
