"""How fast is it? Ratios of two things that are timed in turn, in one run, on one machine. `make bench` runs it.

    python -m experiments.bench --device cuda --compile      # on a GPU, with a larger model

A ratio above 1 says that the first takes longer. `moe` is the MoE of model.py with four experts, `fast` the same with
support/fast.py, `iso_dense` a dense model with its active FLOPs, `hf` transformers' Mixtral or Llama of the same shape.
"""
import json
import subprocess
import tempfile
import time
from functools import partial
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch.nn.utils import clip_grad_norm_

from cli import make_parser, positive_int, replacing, run
from data.loader import get_batch
from model import GPT, GPTConfig, load_balancing_loss
from support import fast
from support.distributed import autocast, pick_device
from support.generation import generate
from support.report import machine

CPU = {  # name: the models' shape, sequences in a step
    "128": (dict(n_embd=128, d_ff=352, n_head=4), 8),
    "512": (dict(n_embd=512, d_ff=1408, n_head=16), 8),
    "128, 4x tokens": (dict(n_embd=128, d_ff=352, n_head=4), 32)}
PRETRAINED = dict(n_embd=576, d_ff=1536, n_head=9, n_kv_head=3, n_layer=30, vocab_size=49152, block_size=256,
                  tie_weights=True)  # SmolLM2-135M
GPU = {"PRESET=gpu": (dict(n_embd=512, d_ff=2048, n_head=8, n_layer=8, block_size=256), 64)}


def time_in_turn(calls, repeats, device):
    """The median seconds of functions, {name: function}. They take turns, so that a disturbance meets all of them."""
    seconds = {name: [] for name in calls}
    for _ in range(2 + repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    return {name: median(times[2:]) for name, times in seconds.items()}  # the first two warm up, and compile


def our_model(device, **shape):
    """A GPT with random weights."""
    return GPT(GPTConfig(**shape), torch.Generator().manual_seed(0)).to(device)


def their_model(device, config):
    """transformers' Mixtral or Llama of the same shape, with random weights."""
    shape = dict(vocab_size=config.vocab_size, hidden_size=config.n_embd, intermediate_size=config.d_ff,
                 num_hidden_layers=config.n_layer, num_attention_heads=config.n_head,
                 num_key_value_heads=config.n_kv_head, tie_word_embeddings=config.tie_weights)
    hf_config = transformers.LlamaConfig(**shape)
    if config.n_expert:
        hf_config = transformers.MixtralConfig(num_local_experts=config.n_expert, num_experts_per_tok=2, **shape)
    return transformers.AutoModelForCausalLM.from_config(hf_config).to(device)


def make_step(model, config, batch_size, device, compiled=False, dtype="auto"):
    """A function that takes a training step. It draws new tokens each time, because an MoE routes them differently."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-5, fused=True)
    forward = torch.compile(model) if compiled else model

    def step():
        idx = torch.randint(config.vocab_size, (batch_size, config.block_size)).to(device)  # (B, T)
        with autocast(dtype, device):
            if isinstance(model, GPT):
                _, loss, routing = forward(idx, idx)
                if routing:
                    loss = loss + 0.01 * load_balancing_loss(routing)
            else:
                loss = F.cross_entropy(forward(idx, use_cache=False).logits.flatten(0, 1), idx.flatten())
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return step


def time_training(shape, batch_size, args):
    """Training steps of MoEs, of dense models and of transformers' models; and the making of a batch."""
    device = args.device
    wide = shape | {"d_ff": 2 * shape["d_ff"]}
    models = {"dense": our_model(device, **shape), "iso_dense": our_model(device, **wide),
              "moe": our_model(device, n_expert=4, **shape), "fast": our_model(device, n_expert=4, **shape),
              "experts16": our_model(device, n_expert=16, **shape)}
    fast.install(models["fast"])
    config = models["dense"].config
    models["hf_moe"] = their_model(device, models["moe"].config)
    models["hf_dense"] = their_model(device, config)
    calls = {}
    for name, model in models.items():
        compiled = args.compile and name in ("dense", "iso_dense", "fast")  # it cannot follow the readable sum
        calls[name] = make_step(model, config, batch_size, device, compiled)
    text = {"general": np.zeros(10**6, "<u2")}
    calls["loader"] = partial(get_batch, text, {"general": 1.0}, (batch_size, config.block_size), (0, 0, 0))
    t = time_in_turn(calls, args.repeats, device)
    speed = batch_size * config.block_size / t["dense"]  # tokens a second
    return {"moe_over_iso_dense": t["moe"] / t["iso_dense"], "fast_over_iso_dense": t["fast"] / t["iso_dense"],
            "readable_over_fast": t["moe"] / t["fast"], "experts16_over_4": t["experts16"] / t["moe"],
            "hf_moe_over_ours": t["hf_moe"] / t["moe"], "hf_dense_over_ours": t["hf_dense"] / t["dense"],
            "loader_over_step": t["loader"] / t["dense"], "dense_tokens_per_second": speed,
            "dense_tflops": speed * models["dense"].flops_per_token() / 1e12}


def time_pretrained(args):
    """A training step of 512 tokens, in bfloat16, at the size of PRESET=pretrained."""
    ours = our_model(args.device, **PRETRAINED)
    theirs = their_model(args.device, ours.config)
    calls = {"ours": make_step(ours, ours.config, 2, args.device, dtype="bfloat16"),
             "theirs": make_step(theirs, ours.config, 2, args.device, dtype="bfloat16")}
    t = time_in_turn(calls, args.repeats, args.device)
    return {"hf_dense_over_ours": t["theirs"] / t["ours"]}


def time_generation(n_texts, args):
    """128 new tokens for each text: our MoE, our dense model, transformers' Mixtral, all of width 128."""
    moe = our_model(args.device, n_expert=4, block_size=256).eval()
    dense = our_model(args.device, block_size=256).eval()
    mixtral = their_model(args.device, moe.config).eval()
    prompt = torch.ones(n_texts, 8, dtype=torch.int64, device=args.device)
    calls = {"moe": partial(generate, moe, prompt, 128), "dense": partial(generate, dense, prompt, 128),
             "hf": partial(mixtral.generate, prompt, attention_mask=prompt, max_new_tokens=128, min_new_tokens=128)}
    t = time_in_turn(calls, args.repeats, args.device)
    return {"moe_generate_over_dense": t["moe"] / t["dense"], "hf_generate_over_ours": t["hf"] / t["moe"]}


def time_branches(args):
    """Three experts at the same time by `make -j3`, over one after the other."""
    with tempfile.TemporaryDirectory() as out:
        make = partial(subprocess.run, check=True, capture_output=True)
        seed = ["make", f"OUT={out}", "SEED_STEPS=1", "EXPERT_STEPS=150", f"{out}/seed.pt"]
        make(seed)
        experts = [*seed, "-W", f"{out}/seed.pt", f"{out}/math.pt", f"{out}/code.pt", f"{out}/wiki.pt"]  # -W: as if new
        calls = {"serial": partial(make, experts), "parallel": partial(make, [*experts, "-j3"])}
        t = time_in_turn(calls, 1, args.device)
    return {"parallel_over_serial": t["parallel"] / t["serial"]}


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--device", type=pick_device, default="auto", help="auto, cpu, cuda ... (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="torch.compile all our models but the readable sum")
    parser.add_argument("--repeats", type=positive_int, default=7, help="timings of each side (default: %(default)s)")
    parser.add_argument("--out", default="out/bench.json", help="file to write (default: %(default)s)")
    args = parser.parse_args(argv)
    sizes = GPU if args.device.type == "cuda" else CPU
    measures = {"1": partial(time_generation, 1, args), "16": partial(time_generation, 16, args),
                "make": partial(time_branches, args), "135M, bfloat16": partial(time_pretrained, args)}
    for size, (shape, batch_size) in sizes.items():
        measures[size] = partial(time_training, shape, batch_size, args)
    results = {}
    for case, measure in measures.items():
        for ratio, value in measure().items():
            results.setdefault(ratio, {})[case] = value
            print(f"{ratio}, {case}: {value:,.2f}", flush=True)
    with replacing(args.out) as file:
        file.write_text(json.dumps(results | {"machine": machine()}, indent=1))


if __name__ == "__main__":
    run(main)
