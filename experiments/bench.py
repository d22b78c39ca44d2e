"""How fast is a training step? Ratios of two models that take steps in turn, in one run. `make bench` runs it.

A ratio above 1 says that the first takes longer. `moe` is the MoE of model.py with four experts, `fast` the same with
support/fast.py, `iso_dense` a dense model with its active FLOPs, `hf_moe` transformers' Mixtral of the same shape.
"""
import json
import time
from statistics import median

import torch
import torch.nn.functional as F
import transformers
from torch.nn.utils import clip_grad_norm_

from cli import make_parser, positive_int, replacing, run
from model import GPT, GPTConfig, load_balancing_loss
from support import fast
from support.distributed import autocast, pick_device
from support.report import machine

CPU = {  # name: the models' shape, sequences in a step
    "128": (dict(n_embd=128, d_ff=352, n_head=4), 8),
    "512": (dict(n_embd=512, d_ff=1408, n_head=16), 8),
    "128, 4x tokens": (dict(n_embd=128, d_ff=352, n_head=4), 32)}
GPU = {"PRESET=gpu": (dict(n_embd=512, d_ff=2048, n_head=8, n_layer=8, block_size=256), 64)}
ESTIMATES = {  # a card's peak in TFLOP a second, and its row in docs/gpus-and-speed.md
    "H100": (989, "20 ms, 0.8 M tokens a second, 17 % of peak"),
    "A100": (312, "40 ms, 0.4 M tokens a second, 27 % of peak"),
    "4090": (165, "62 ms, 0.26 M tokens a second, 33 % of peak")}


def make_mixtral(config):
    """transformers' Mixtral of the shape of our MoE, with random weights."""
    hf_config = transformers.MixtralConfig(
        vocab_size=config.vocab_size, hidden_size=config.n_embd, intermediate_size=config.d_ff,
        num_hidden_layers=config.n_layer, num_attention_heads=config.n_head, num_key_value_heads=config.n_kv_head,
        tie_word_embeddings=config.tie_weights, num_local_experts=config.n_expert, num_experts_per_tok=2)
    return transformers.AutoModelForCausalLM.from_config(hf_config)


def make_step(model, shape, device):
    """A function that takes a training step. It draws new tokens each time, because an MoE routes them differently."""
    vocab_size, B, T = shape
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-5, fused=True)

    def step():
        idx = torch.randint(vocab_size, (B, T)).to(device)
        with autocast("auto", device):
            if isinstance(model, GPT):
                _, loss, routing = model(idx, idx)
                if routing:
                    loss = loss + 0.01 * load_balancing_loss(routing)
            else:
                loss = F.cross_entropy(model(idx, use_cache=False).logits.flatten(0, 1), idx.flatten())
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return step


def time_in_turn(steps, repeats, device):
    """The median seconds of functions, {name: function}. They take turns, so that a disturbance meets all of them."""
    seconds = {name: [] for name in steps}
    for _ in range(2 + repeats):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    return {name: median(times[2:]) for name, times in seconds.items()}  # the first two warm up


def time_training(shape, batch_size, repeats, device):
    """Ratios between the training steps of models, and the dense model's speed."""
    shapes = {"dense": shape, "iso_dense": shape | {"d_ff": 2 * shape["d_ff"]}, "moe": shape | {"n_expert": 4},
              "fast": shape | {"n_expert": 4}, "experts16": shape | {"n_expert": 16}}
    models = {name: GPT(GPTConfig(**shapes[name]), torch.Generator().manual_seed(0)) for name in shapes}
    fast.install(models["fast"])
    config = models["moe"].config
    models["hf_moe"] = make_mixtral(config)
    tokens = (config.vocab_size, batch_size, config.block_size)
    steps = {name: make_step(model.to(device), tokens, device) for name, model in models.items()}
    t = time_in_turn(steps, repeats, device)
    speed = batch_size * config.block_size / t["dense"]  # tokens a second
    return {"moe_over_iso_dense": t["moe"] / t["iso_dense"], "readable_over_fast": t["moe"] / t["fast"],
            "experts16_over_4": t["experts16"] / t["moe"], "hf_moe_over_ours": t["hf_moe"] / t["moe"],
            "dense_ms": 1000 * t["dense"], "dense_tokens_per_second": speed,
            "dense_tflops": speed * models["dense"].flops_per_token() / 1e12}


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--device", type=pick_device, default="auto", help="auto, cpu, cuda ... (default: %(default)s)")
    parser.add_argument("--repeats", type=positive_int, default=7, help="timings of each side (default: %(default)s)")
    parser.add_argument("--out", default="out/bench.json", help="file to write (default: %(default)s)")
    args = parser.parse_args(argv)
    sizes = GPU if args.device.type == "cuda" else CPU
    results = {}
    for size, (shape, batch_size) in sizes.items():
        for ratio, value in time_training(shape, batch_size, args.repeats, args.device).items():
            results.setdefault(ratio, {})[size] = value
            print(f"{ratio}, {size}: {value:,.2f}", flush=True)
    for card, (peak, estimate) in ESTIMATES.items():
        if card in (machine()["gpu"] or ""):
            share = results["dense_tflops"]["PRESET=gpu"] / peak
            print(f"a dense step has {share:.0%} of this card's peak; estimated for {card}: {estimate}")
    with replacing(args.out) as file:
        file.write_text(json.dumps(results | {"machine": machine()}, indent=1))


if __name__ == "__main__":
    run(main)
