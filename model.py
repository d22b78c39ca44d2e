"""The transformer of Branch-Train-MiX (arXiv 2403.07816): Llama-2's block, with a dense or a mixture-of-experts feed-forward.

A dense model is a seed, an expert or a baseline; `mix.py` turns several of them into one MoE model. The two differ in the
feed-forward sublayer alone: the same three matrices with a leading expert dimension, and a router.

Shapes in the comments: B sequences, T tokens in each, D = n_embd, V = vocab_size, M = B*T tokens, N = n_expert, k = top_k.
"""
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

ROUTER_STD = 0.02  # the paper says "randomly initialised"; a small std starts near equal gates instead of saturated ones
CAPACITY_FACTOR = 1.5  # Switch (3.3): in training an expert takes at most CAPACITY_FACTOR * M / N tokens

# RoPE scaling of Llama 3.1: a frequency that turns less than once in 8,192 tokens is divided by rope_factor, one that turns
# more than four times is kept, and between the two it is interpolated
ROPE_STRETCH = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


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
    rope_factor: float = 1.0    # Llama 3.1's RoPE for longer texts, see ROPE_STRETCH; 1: the ordinary one
    norm_eps: float = 1e-5
    n_expert: int = 0           # 0: dense
    top_k: int = 2              # experts computed for each token by topk; the other methods fix it, see MoE
    routing: str = "topk"       # a key of ROUTERS

    def __post_init__(self):
        """Raises ValueError, starting with the name of the field, for what no model can have."""
        self.n_kv_head = self.n_kv_head or self.n_head
        for name, value in vars(self).items():
            low = 0 if name in ("norm_eps", "tie_weights", "n_expert") else 1
            high = 1000 if name in ("n_layer", "n_expert") else 2**62  # to name the tensors of more would take long
            if name != "routing" and not low <= value <= high:  # also refuses nan
                raise ValueError(f"{name} must be from {low} to {high}, not {value}")
        if self.n_embd % self.n_head or (self.n_embd // self.n_head) % 2:
            raise ValueError(f"n_embd {self.n_embd} must be n_head {self.n_head} times an even number (RoPE turns pairs)")
        if self.n_head % self.n_kv_head:
            raise ValueError(f"n_head {self.n_head} must be a multiple of n_kv_head {self.n_kv_head}")
        if self.n_expert and self.top_k > self.n_expert:
            raise ValueError(f"top_k {self.top_k} is more than the number of experts, {self.n_expert}")
        if self.routing not in ROUTERS:
            raise ValueError(f"routing {self.routing!r} is not one of {', '.join(ROUTERS)}")


# ---- attention --------------------------------------------------------------------------------------------------------


def rope_angles(config, start, end, device):
    """Cosine and sine, (T, d/2) float32, of position * theta^(-2j/d) from start to end, for each pair j of a head of width d."""
    d = config.n_embd // config.n_head
    frequencies = config.rope_theta ** (-torch.arange(0, d, 2, device=device, dtype=torch.float32) / d)  # (d/2,)
    if config.rope_factor != 1:
        low, high, length = ROPE_STRETCH.values()
        kept = ((frequencies * length / (2 * math.pi) - low) / (high - low)).clamp(0, 1)  # by how often each turns in `length`
        frequencies = frequencies * (kept + (1 - kept) / config.rope_factor)
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


class Attention(nn.Module):
    """Causal self-attention; averaged over the experts by `mix.py`, as everything outside the feed-forward (3.2)."""

    def __init__(self, config):
        super().__init__()
        D, self.head_dim = config.n_embd, config.n_embd // config.n_head
        self.wq = nn.Linear(D, D, bias=False)
        self.wk = nn.Linear(D, config.n_kv_head * self.head_dim, bias=False)
        self.wv = nn.Linear(D, config.n_kv_head * self.head_dim, bias=False)
        self.wo = nn.Linear(D, D, bias=False)

    def forward(self, x, angles, past=None):
        """x: (B, T, D) -> (B, T, D). angles: see rope; past: None, or [k, v] of the tokens before, [] at first; it grows."""
        B, T, D = x.shape
        q, k, v = (w(x).view(B, T, -1, self.head_dim).transpose(1, 2) for w in (self.wq, self.wk, self.wv))  # (B, heads, T, d)
        q, k = rope(q, angles), rope(k, angles)
        if past:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        if past is not None:
            past[:] = k, v
        S, mask = k.shape[2], None  # k, v: (B, n_kv_head, S, d)
        if 1 < T < S:  # several new tokens after those read before: is_causal would align its mask to the wrong corner
            mask = torch.ones(T, S, dtype=torch.bool, device=x.device).tril(S - T)
        v = v.contiguous()  # q and k are; Apple's kernels misread what is not (pytorch issues 163597 and 181133)
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=T == S, enable_gqa=q.shape[1] != k.shape[1])
        return self.wo(y.transpose(1, 2).reshape(B, T, D))


# ---- feed-forward: dense, or a mixture of experts ---------------------------------------------------------------------


def swiglu(x, w_gate, w_up, w_down):
    """FF(x) = w_down (silu(w_gate x) * w_up x) (Shazeer 2020). x: (..., D); w_gate, w_up: (d_ff, D); w_down: (D, d_ff)."""
    return F.linear(F.silu(F.linear(x, w_gate)) * F.linear(x, w_up), w_down)


class FeedForward(nn.Module):
    """A dense feed-forward sublayer, FF_i of the paper; with N the matrices of N of them, stacked."""

    def __init__(self, config, *N):
        super().__init__()
        self.w_gate = nn.Parameter(torch.empty(*N, config.d_ff, config.n_embd))
        self.w_up = nn.Parameter(torch.empty(*N, config.d_ff, config.n_embd))
        self.w_down = nn.Parameter(torch.empty(*N, config.n_embd, config.d_ff))

    def forward(self, x, noise=None):
        """x: (B, T, D) -> FF(x), the same shape, and None: it routes nothing, and needs no noise."""
        return swiglu(x, self.w_gate, self.w_up, self.w_down), None


class Routing(NamedTuple):
    """What one layer's router decided for M tokens; everything said about routing is a function of this value."""
    gates: torch.Tensor    # (M, k) weight of each chosen expert, g_i(W_l x) of the paper
    experts: torch.Tensor  # (M, k) index of each chosen expert, int64
    probs: torch.Tensor    # (M, N) softmax over all experts

    def dense_gates(self):
        """The gates of all experts, (M, N): 0 for those not chosen."""
        return torch.zeros_like(self.probs).scatter(1, self.experts, self.gates.to(self.probs.dtype))


# The four routers: logits W_l x, (M, N) -> Routing. All have the same arguments; only Sample Top-1 uses noise.


def route_topk(logits, top_k, training=False, noise=None):
    """g(W_l x) = SoftMax(TopK(W_l x)) (3.2): the softmax is taken over the k kept logits, so the gates sum to 1.

    >>> route_topk(torch.tensor([[0.0, 2.0, 2.0]]), top_k=2).gates
    tensor([[0.5000, 0.5000]])
    """
    kept, experts = logits.topk(top_k, dim=-1)  # (M, k)
    return Routing(kept.softmax(-1), experts, logits.softmax(-1))


def route_soft(logits, top_k=None, training=False, noise=None):
    """g(W_l x) = SoftMax(W_l x) (3.3): every expert computes.

    >>> route_soft(torch.tensor([[0.0, 0.0]])).gates
    tensor([[0.5000, 0.5000]])
    """
    probs = logits.softmax(-1)  # (M, N)
    return Routing(probs, torch.arange(logits.shape[-1], device=logits.device).expand_as(logits), probs)


def route_switch(logits, top_k=None, training=False, noise=None):
    """Switch (3.3; Fedus et al. 2022): the likeliest expert, weighted by its probability SoftMax_i(W_l x) among all N.

    In training an expert takes at most CAPACITY_FACTOR * M / N tokens, rounded up. Of those that chose it, the ones with the
    smallest gates are dropped, wherever in the batch they stand: their gate is 0, so only the residual carries them on. In
    evaluation none is dropped.

    >>> route_switch(torch.tensor([[2.0, 0.0], [1.0, 0.0], [3.0, 0.0], [4.0, 0.0]]), training=True).gates.squeeze(1)
    tensor([0.8808, 0.0000, 0.9526, 0.9820])
    """
    M, N = logits.shape
    probs = logits.softmax(-1)
    gates, experts = probs.max(-1, keepdim=True)  # (M, 1)
    if training:
        capacity = math.ceil(CAPACITY_FACTOR * M / N)
        order = Routing(gates, experts, probs).dense_gates().argsort(dim=0, descending=True, stable=True)  # (M, N)
        place = order.argsort(dim=0).gather(1, experts)  # (M, 1) of each token among those of its expert; 0 is the surest
        gates = gates * (place < capacity)
    return Routing(gates, experts, probs)


def route_sample(logits, top_k=None, training=False, noise=None):
    """Sample Top-1 (3.3): g is a Gumbel-softmax sample (Jang et al. 2016) with all but its largest value zeroed.

    g = SoftMax((W_l x + G) / tau): its largest value is expert i's with probability SoftMax_i(W_l x). noise: (G, tau), the
    Gumbel noise, (M, N), and the temperature; probs are without noise. In evaluation the gate is 1, of an expert drawn in the
    same way, or, without noise, of the likeliest one. Raises ValueError if there is no noise in training.
    """
    if training and noise is None:
        raise ValueError("Sample Top-1 draws its experts in training: pass noise to forward")
    G, tau = noise or (0.0, 1.0)
    gates, experts = ((logits + G) / tau).softmax(-1).max(-1, keepdim=True)  # (M, 1)
    return Routing(gates if training else torch.ones_like(gates), experts, logits.softmax(-1))


def gumbel(config, n_tokens, tau, generator):
    """The noise of a forward pass of n_tokens tokens, (G, tau) for each layer: G = -log(-log(U)), U uniform in (0, 1)."""
    U = torch.rand(config.n_layer, n_tokens, config.n_expert, generator=generator, device=generator.device)
    return [(G, tau) for G in -(-U.clamp_min(torch.finfo(U.dtype).tiny).log()).log()]


ROUTERS = {"topk": route_topk, "switch": route_switch, "soft": route_soft, "sample": route_sample}


def ff_moe(x, routing, w_gate, w_up, w_down):
    """FF_MoE(x) = sum_i g_i(W_l x) FF_i(x) (3.2): each expert computes the tokens that chose it; none is dropped.

    x: (M, D); routing: see Routing; w_gate, w_up: (N, d_ff, D); w_down: (N, D, d_ff). Returns (M, D).
    """
    y = torch.zeros_like(x)
    for i, expert in enumerate(zip(w_gate, w_up, w_down, strict=True)):
        token, choice = (routing.experts == i).nonzero(as_tuple=True)  # (M_i,) the tokens that chose expert i
        g_i = routing.gates[token, choice, None]                       # (M_i, 1)
        FF_i = swiglu(x[token], *expert)                               # (M_i, D)
        y.index_add_(0, token, (g_i * FF_i).to(y.dtype))               # (M, D)
    return y


class MoE(FeedForward):
    """The MoE sublayer FF_MoE^l: the matrices of N feed-forwards, and one linear router W_l (3.2)."""
    ff_moe = staticmethod(ff_moe)  # support/fast.py has another, of the same result

    def __init__(self, config, layer):
        super().__init__(config, config.n_expert)
        routing = "soft" if config.routing == "sample" and layer == 0 else config.routing  # Sample Top-1's first layer (3.3)
        self.route = ROUTERS[routing]
        self.k = {"topk": config.top_k, "soft": config.n_expert}.get(routing, 1)  # experts that compute each token
        self.router = nn.Parameter(torch.empty(config.n_expert, config.n_embd))

    def forward(self, x, noise=None):
        """x: (B, T, D) -> FF_MoE(x), the same shape, and the Routing; noise: for Sample Top-1, see route_sample."""
        tokens = x.flatten(0, 1)  # (M, D)
        with torch.autocast(x.device.type, enabled=False):  # a choice between experts should not hang on bfloat16's rounding
            logits = F.linear(tokens, self.router)  # W_l x, (M, N)
        routing = self.route(logits, self.k, self.training, noise)
        return self.ff_moe(tokens, routing, self.w_gate, self.w_up, self.w_down).view(x.shape), routing


def expert_load(routing):
    """u_i of section 3.3: the mean gate of each expert over the tokens of one layer, (N,); 1 in sum if gates sum to 1."""
    return routing.dense_gates().mean(0)


def load_balancing_loss(routing, over_ranks=lambda mean: mean):
    """L_LB / alpha = N * sum_i u_i p_i of every layer, summed over layers (3.3): 1 per layer at balance, N at collapse.

    u_i is the batch mean of the gate g_i, p_i that of the probability SoftMax_i over all N experts: a product of two
    means, not a mean of products, which would punish sure decisions instead of uneven loads.
    routing: a list of Routing, one per layer; over_ranks averages the means over data-parallel ranks. Returns a scalar.
    """
    u = torch.stack([expert_load(layer) for layer in routing])   # (n_layer, N)
    p = torch.stack([layer.probs.mean(0) for layer in routing])  # (n_layer, N)
    u, p = over_ranks(torch.stack([u, p]))
    N = u.shape[1]
    return N * (u * p).sum()


# ---- the model --------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """One layer: attention, then a feed-forward, each on the normed residual stream and added to it."""

    def __init__(self, config, layer):
        super().__init__()
        self.attn_norm = nn.RMSNorm(config.n_embd, eps=config.norm_eps)
        self.attn = Attention(config)
        self.ff_norm = nn.RMSNorm(config.n_embd, eps=config.norm_eps)
        self.ff = MoE(config, layer) if config.n_expert else FeedForward(config)

    def forward(self, x, angles, past=None, noise=None):
        x = x + self.attn(self.attn_norm(x), angles, past)  # (B, T, D)
        y, routing = self.ff(self.ff_norm(x), noise)
        return x + y, routing


class GPT(nn.Module):
    """A decoder-only transformer: `logits, loss, routing = GPT(GPTConfig())(idx, targets)`."""

    def __init__(self, config, generator=None):
        """Weights are drawn from `generator` (the global one if None); build under torch.device("meta") to draw none."""
        super().__init__()
        self.config = config
        self.embed = nn.Embedding.from_pretrained(  # not nn.Embedding(): that would import torch's compiler on "meta"
            torch.empty(config.vocab_size, config.n_embd), freeze=False)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = nn.RMSNorm(config.n_embd, eps=config.norm_eps)
        self.head = None if config.tie_weights else nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.init_weights(generator)

    @torch.no_grad()
    def init_weights(self, generator=None):
        """Normal, std 1/sqrt(fan_in). Exceptions: embeddings 1 (unless tied), routers ROUTER_STD; wo and w_down, which write to
        the residual stream, are divided by sqrt(2 n_layer), as in GPT-2."""
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

    def forward(self, idx, targets=None, cache=None, noise=None, recompute=False, loss_chunk=0):
        """Predict the next token at every position. Returns logits (B, T, V), the mean cross-entropy in nats, None without
        targets, and each layer's Routing, an empty list for a dense model.

        idx, targets: (B, T) int64. cache: the keys and values of each layer, [] at first; later calls pass the new tokens alone.
        noise: for Sample Top-1, see `gumbel`. Two options save memory in training: recompute is activation checkpointing of each
        block; loss_chunk computes the logits of N tokens at a time, for the loss alone, and returns None for them.
        """
        n_layer = self.config.n_layer
        start = cache[0][0].shape[2] if cache else 0
        if cache == []:
            cache.extend([] for _ in range(n_layer))
        angles = rope_angles(self.config, start, start + idx.shape[1], idx.device)
        x, routing = self.embed(idx), []  # (B, T, D)
        for block, past, layer_noise in zip(self.blocks, cache or [None] * n_layer, noise or [None] * n_layer, strict=True):
            inputs = x, angles, past, layer_noise
            x, r = checkpoint(block, *inputs, use_reentrant=False) if recompute else block(*inputs)
            routing += [r] if r else []
        x = self.norm(x)
        if loss_chunk:
            return None, self.chunked_loss(x.flatten(0, 1), targets.flatten(), loss_chunk), routing
        logits = self.logits(x)  # (B, T, V)
        loss = None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits, loss, routing

    def logits(self, x):
        """x: (..., D), normed -> (..., V), in float32 at least."""
        logits = F.linear(x, (self.embed if self.head is None else self.head).weight)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def chunked_loss(self, x, targets, chunk):
        """The cross-entropy of x (M, D) and targets (M,), `chunk` tokens at a time in both passes. Returns a scalar."""
        def total(x, targets):
            return F.cross_entropy(self.logits(x), targets, reduction="sum")
        parts = zip(x.split(chunk), targets.split(chunk), strict=True)
        return sum(checkpoint(total, *part, use_reentrant=False) for part in parts) / len(targets)

    @torch.inference_mode()
    def stream(self, idx, max_new_tokens, temperature=0.0, top_k=None, generator=None):
        """Yield (token, routing) for each new token, token (B, 1) int64; routing is that of the forward pass before it.

        temperature 0 takes the most likely token; else tokens are drawn from `generator`, from the top_k likeliest if given.
        Keys and values are cached. When block_size is full, the older half is forgotten and the rest read again. An idx that is
        longer is read as it is. Raises ValueError if the logits are not finite.
        """
        cache, new, n_read = [], idx, 0
        for _ in range(max_new_tokens):
            if n_read >= self.config.block_size:
                cache, new, n_read = [], idx[:, -(self.config.block_size + 1) // 2:], 0
            logits, _, routing = self(new, cache=cache)
            logits, n_read = logits[:, -1], n_read + new.shape[1]  # (B, V)
            if not logits.isfinite().all():
                raise ValueError("the logits are not finite numbers; this model is broken")
            if temperature == 0:
                new = logits.argmax(-1, keepdim=True)
            else:
                kept, tokens = logits.topk(min(top_k or logits.shape[-1], logits.shape[-1]))  # in falling order
                probs = ((kept - kept[:, :1]) / max(temperature, 1e-6)).softmax(-1)  # (B, top_k)
                new = tokens.gather(1, torch.multinomial(probs, 1, generator=generator))
            idx = torch.cat([idx, new], dim=1)
            yield new, routing

    def generate(self, idx, max_new_tokens, **options):
        """Continue idx (B, T) by max_new_tokens; returns (B, T + max_new_tokens). Options as in `stream`."""
        return torch.cat([idx, *(token for token, _ in self.stream(idx, max_new_tokens, **options))], dim=1)

    def used(self, name, p):
        """How many numbers of parameter p one token uses: all of them, or of N stacked experts those of k."""
        return p.numel() if p.ndim < 3 else p[0].numel() * self.blocks[int(name.split(".")[1])].ff.k

    def num_params(self, active=False):
        """Number of parameters; with active=True only those that one token uses: some of the experts of each layer."""
        return sum(self.used(name, p) if active else p.numel() for name, p in self.named_parameters())

    def flops_per_token(self):
        """FLOPs of a training step per token, in sequences of block_size.

        Forward 2 per active weight in a matrix product, and 4*T*D a layer for the attention scores and values; backward twice
        that (Kaplan et al. 2020), but for the gradients of frozen weights.
        """
        c = self.config
        total = 12 * c.n_layer * c.block_size * c.n_embd
        for name, p in self.named_parameters():
            if p.ndim > 1 and (name != "embed.weight" or c.tie_weights):  # reading an embedding multiplies nothing
                total += (6 if p.requires_grad else 4) * self.used(name, p)
        return total
