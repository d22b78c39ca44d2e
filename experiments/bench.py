"""How fast is it? Each ratio is of two things that are timed in turn, in one run, on one machine.

    python -m experiments.bench                              # `make bench` also sets the Makefile's environment
    python -m experiments.bench --device cuda --compile      # on a GPU, with larger models

Prints a table and writes JSON. A ratio above 1 says that the first of the two takes longer. `hf` is transformers' Mixtral or
Llama of the same shape, `iso_dense` a dense model with as many active FLOPs as the MoE, `fast` the MoE with support/fast.py.
"""
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch.nn.utils import clip_grad_norm_

import hf
from data.common import make_parser, positive_int, replacing, run
from data.loader import get_batch
from evaluate import machine
from model import GPT, GPTConfig, load_balancing_loss
from support import fast
from support.distributed import autocast, pick_device
from support.generation import generate

ON_CPU = {  # name of a shape: fields of GPTConfig, and sequences in a step
    "128": (dict(n_embd=128, d_ff=352, n_head=4), 8),
    "512": (dict(n_embd=512, d_ff=1408, n_head=16), 8),
    "128, 4x tokens": (dict(n_embd=128, d_ff=352, n_head=4), 32)}
ON_GPU = {
    "PRESET=gpu": (dict(n_embd=512, d_ff=2048, n_head=8, n_layer=8, block_size=256), 64),
    "768": (dict(n_embd=768, d_ff=2112, n_head=12, n_layer=12, block_size=1024, vocab_size=50304), 16)}


def time_in_turn(calls, repeats, device):
    """The median seconds of several functions, {name: function}. They take turns, so that a disturbance meets all of them."""
    seconds = {name: [] for name in calls}
    for _ in range(2 + repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    return {name: median(times[2:]) for name, times in seconds.items()}  # the first two warm up, and compile


def new_model(shape, device, **changes):
    """A GPT with random weights."""
    return GPT(GPTConfig(**shape | changes), torch.Generator().manual_seed(0)).to(device)


def their_model(ours):
    """transformers' model of the same shape, with random weights."""
    about = {"model": ours.state_dict(), "experts": [], "lineage": []}
    theirs = transformers.AutoModelForCausalLM.from_config(hf.make_config(about, ours.config, eot=0))
    return theirs.to(ours.embed.weight.device)


def random_tokens(config, batch_size, seed, device):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocab_size, (batch_size, config.block_size), generator=generator).to(device)  # (B, T)


def trainer(model, config, batch_size, args, compiled=False):
    """A function that takes one training step, each time on another batch: the slices of an MoE change from batch to batch."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    forward = torch.compile(model) if compiled else model
    seeds = count()

    def step():
        idx = random_tokens(config, batch_size, next(seeds), args.device)
        with autocast(args.dtype, args.device):
            if isinstance(model, GPT):
                _, loss, routing = forward(idx, idx)
                if routing:
                    loss = loss + 0.01 * load_balancing_loss(routing)
            else:
                logits = forward(idx, use_cache=False).logits
                loss = F.cross_entropy(logits.float().flatten(0, 1), idx.flatten())
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return step


def time_training(shape, batch_size, args):
    """A training step of MoEs, of dense models and of transformers' models, and the making of a batch."""
    models = {"dense": new_model(shape, args.device), "iso_dense": new_model(shape | {"d_ff": 2 * shape["d_ff"]}, args.device)}
    for name, n_expert in (("moe", 4), ("fast", 4), ("experts16", 16)):
        models[name] = new_model(shape, args.device, n_expert=n_expert)
    fast.install(models["fast"])
    config = models["dense"].config
    calls = {}
    for name, model in models.items():
        compiled = args.compile and name in ("dense", "iso_dense", "fast")  # the compiler cannot follow the readable sum
        calls[name] = trainer(model, config, batch_size, args, compiled)
    for name in ("dense", "moe"):
        calls[f"hf_{name}"] = trainer(their_model(models[name]), config, batch_size, args)
    text, steps = {"general": np.zeros(10**6, "<u2")}, count()
    calls["loader"] = lambda: get_batch(text, {"general": 1.0}, config.block_size, batch_size, 0, 0, next(steps))
    t = time_in_turn(calls, args.repeats, args.device)
    speed = batch_size * config.block_size / t["dense"]
    return {"moe_over_iso_dense": t["moe"] / t["iso_dense"], "fast_over_iso_dense": t["fast"] / t["iso_dense"],
            "readable_over_fast": t["moe"] / t["fast"], "experts16_over_4": t["experts16"] / t["moe"],
            "hf_moe_over_ours": t["hf_moe"] / t["moe"], "hf_dense_over_ours": t["hf_dense"] / t["dense"],
            "loader_over_step": t["loader"] / t["dense"], "dense_tokens_per_second": speed,
            "dense_tflops": speed * models["dense"].flops_per_token() / 1e12}


def time_generation(shape, args, n_texts, n_new=128):
    """Greedy generation of n_new tokens for n_texts prompts of 8: our MoE, our dense model, transformers' Mixtral."""
    shape = shape | {"block_size": n_new + 8}  # so that no text outgrows it
    moe, dense = new_model(shape, args.device, n_expert=4).eval(), new_model(shape, args.device).eval()
    theirs = their_model(moe).eval()
    prompt = random_tokens(moe.config, n_texts, 0, args.device)[:, :8]
    calls = {"moe": partial(generate, moe, prompt, n_new), "dense": partial(generate, dense, prompt, n_new),
             "hf": partial(theirs.generate, prompt, max_new_tokens=n_new, min_new_tokens=n_new, do_sample=False,
                           attention_mask=torch.ones_like(prompt), pad_token_id=0)}
    t = time_in_turn(calls, args.repeats, args.device)
    return {"moe_generate_over_dense": t["moe"] / t["dense"], "hf_generate_over_ours": t["hf"] / t["moe"]}


def time_branches(args):
    """Three experts at the same time by `make -j3`, over one after the other."""
    root = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory() as folder:
        experts = [Path(folder, f"{name}.pt") for name in ("math", "code", "wiki")]
        seed = Path(folder, "seed.pt")
        data = ["--data_dir", args.data_dir, "--device", args.device.type]
        subprocess.run([sys.executable, "train_expert.py", *data, "--steps", "1", "--out", seed], cwd=root, check=True)

        def make(*options):
            for path in experts:
                path.unlink(missing_ok=True)
            subprocess.run(["make", *options, "-o", seed, f"OUT={folder}", f"DATA={args.data_dir}", f"PY={sys.executable}",
                            "EXPERT_STEPS=150", *experts], cwd=root, check=True, capture_output=True)
        t = time_in_turn({"parallel": partial(make, "-j3"), "serial": make}, 1, args.device)
    return {"parallel_over_serial": t["parallel"] / t["serial"]}


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--device", type=pick_device, default="auto", help="auto, cpu, cuda ... (default: %(default)s)")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto",
                        help="of the matrix products in training (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="torch.compile our models in training, but for the readable sum")
    parser.add_argument("--repeats", type=positive_int, default=7, help="timings of each side (default: %(default)s)")
    parser.add_argument("--data_dir", default="data/bin", help="folder written by data.prepare (default: %(default)s)")
    parser.add_argument("--out", default="out/bench.json", help="file to write (default: %(default)s)")
    args = parser.parse_args(argv)
    shapes = ON_GPU if args.device.type == "cuda" else ON_CPU
    results = {}
    for name, (shape, batch_size) in shapes.items():
        results |= {f"{ratio}, {name}": value for ratio, value in time_training(shape, batch_size, args).items()}
    shape = next(iter(shapes.values()))[0]
    for n_texts in (1, 16):
        results |= {f"{ratio}, {n_texts}": value for ratio, value in time_generation(shape, args, n_texts).items()}
    results |= time_branches(args)
    for name, value in results.items():
        print(f"{name:40} {value:12,.2f}")
    with replacing(args.out) as part:
        part.write_text(json.dumps(results | {"machine": machine()}, indent=1))


if __name__ == "__main__":
    run(main)
