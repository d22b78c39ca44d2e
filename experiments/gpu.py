"""What a GPU makes of this project, in five minutes: `make gpu-check` prints it and writes out/gpu.json.

Is every path right (`parity`, `determinism`, `waits`)? How fast is it (`speed`, `hf_step`)? How long will the recipe of
`make PRESET=gpu` take, by its own first steps (`recipe`), and what would a compiler make of them (`compilers`)? On a CPU it only
shows that the check itself works.
"""
import json
from dataclasses import dataclass

import torch

from evaluate import machine
from experiments import bench
from experiments.paired import table
from model import GPT, GPTConfig, gumbel
from support import devices, fast
from support.files import prepare_output, write_text
from support.settings import BadInput, option, parse, run

PATHS = {"dense": {}, "topk": {"n_expert": 4}, "switch": {"n_expert": 4, "routing": "switch"},
         "soft": {"n_expert": 4, "routing": "soft"}, "sample": {"n_expert": 4, "routing": "sample"}}
SMALL = dict(vocab_size=64, block_size=32, n_layer=2, n_head=2, n_embd=64, d_ff=64)
GOALS = {"float64": "at most 1e-6", "float32": "at most 1e-4", "bfloat16": "at most 0.1", "generation": "True",
         "determinism": "True, or False where sums come in any order", "waits": "none on an H100",
         "iso_dense, compiled: MFU": "0.45 on an H100, 0.40 on an A100", "moe over iso_dense, compiled": "at most 1.15",
         "recipe: minutes": "at most 20 on an H100"}  # by a part of the name


@dataclass
class Settings:
    n_layer: int = option(8, "layers of the recipe's model", low=1, group="the recipe of make PRESET=gpu")
    n_head: int = option(8, "its heads", low=1)
    n_embd: int = option(512, "its width", low=1)
    d_ff: int = option(2048, "its feed-forwards' width", low=1)
    block_size: int = option(256, "its tokens in a sequence", low=2)
    batch_size: int = option(64, "its sequences in a step", low=1)
    seed_steps: int = option(1, "steps of the seed", low=1)
    branch_steps: int = option(1, "steps of a branch", low=1)
    finetune_steps: int = option(1, "steps of finetuning", low=1)
    probe: int = option(50, "steps to take of a dense model, and of an MoE", low=1)
    large_embd: int = option(768, "width of the models whose speed is measured, 222M active parameters", low=1, group="speed")
    large_layer: int = option(12, "their layers", low=1)
    large_block: int = option(1024, "their tokens in a sequence", low=2)
    large_batch: int = option(16, "their sequences in a step", low=1)
    device: str = option("cuda", "cuda, cuda:1, cpu ...", group="device and output")
    fast: bool = option(True, "support/fast.py in training")
    out: str = option("out/gpu.json", "file to write")


def loss_and_gradients(path, device, dtype, make=lambda model: model):
    """Of a small model and a batch, both the same on all devices: a list of tensors on the CPU, in float64."""
    generator, half = torch.Generator().manual_seed(0), dtype == torch.bfloat16
    dtype = torch.float32 if half else dtype
    model = make(GPT(GPTConfig(**SMALL | PATHS[path]), generator).to(device, dtype)).train()
    idx = torch.randint(0, 64, (4, 32), generator=generator)
    noise = gumbel(model.config, idx.numel(), 1.0, generator) if path == "sample" else None
    noise = noise and [(G.to(device, dtype), tau) for G, tau in noise]
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=half):
        loss = model(idx.to(device), idx.to(device), noise=noise)[1]
    loss.backward()
    return [loss.detach().cpu().double(), *(p.grad.cpu().double() for p in model.parameters() if p.grad is not None)]


def parity(device):
    """How far loss and gradients are from the CPU's float64, for each path: the norm of the difference over the norm."""
    found = {}
    for path in PATHS:
        want = loss_and_gradients(path, "cpu", torch.float64)
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            for name, make in (("readable", lambda model: model), ("fast", fast.install)):
                got = loss_and_gradients(path, device, dtype, make)
                off, all_of_it = (sum(t.square().sum() for t in ts) ** 0.5 for ts in
                                  ([a - b for a, b in zip(got, want, strict=True)], want))
                found[f"parity: {path}, {name}, {str(dtype)[6:]}"] = (off / all_of_it).item()
    return found


def generation(device):
    """Whether greedy generation gives the CPU's tokens, in float64."""
    prompt, found = torch.arange(8)[None], {}
    for path in ("dense", "topk"):
        model = GPT(GPTConfig(**SMALL | PATHS[path]), torch.Generator().manual_seed(0)).double().eval()
        want = model.generate(prompt, 40)
        found[f"generation: {path} as on the CPU"] = torch.equal(model.to(device).generate(prompt.to(device), 40).cpu(), want)
    return found


def determinism(s, device):
    """Whether five steps done twice give the same weights, bit for bit."""
    found = {}
    for path in (path for path in PATHS if path != "sample"):
        weights = []
        for _ in range(2):
            model = bench.new(s, device, **PATHS[path])
            take = bench.trainer(s, device, model)
            for _ in range(5):
                take()
            weights.append([p.detach().cpu() for p in model.parameters()])
        found[f"determinism: {path}"] = all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    return found


def waits(s, device):
    """Whether a step of --fast never makes the CPU wait for the GPU."""
    found = {}
    for path in ("dense", "topk"):
        take = bench.trainer(s, device, bench.new(s, device, **PATHS[path]))
        take()
        try:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("error")
            take()
            found[f"waits: {path}"] = "none"
        except RuntimeError as error:
            found[f"waits: {path}"] = str(error)[:100]
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    return found


def speed(s, device):
    """A dense model, and an MoE with as many active FLOPs: tokens a second, MFU, ratio, peak memory; eager and compiled."""
    found, tokens = {}, s.batch_size * s.block_size
    for how in ("eager", "compiled"):
        s.compile, times = how == "compiled", {}
        for name in ("iso_dense", "moe"):
            model = bench.equal_flops(s, device)[name]
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            times[name] = bench.in_turn({name: bench.trainer(s, device, model)}, s.repeats, device, warm=5)[name]
            found[f"{name}, {how}: tokens/s"] = tokens / times[name]
            if devices.peak_flops(device):
                found[f"{name}, {how}: MFU"] = model.flops_per_token() * tokens / times[name] / devices.peak_flops(device)
            if device.type == "cuda":
                found[f"{name}, {how}: peak GB"] = torch.cuda.max_memory_allocated() / 1e9
        found[f"moe over iso_dense, {how}"] = times["moe"] / times["iso_dense"]
    s.compile = False
    return found


def recipe(s, small, device):
    """Minutes that the training of `make PRESET=gpu` takes, by the first steps of each kind."""
    seconds = {}
    for name, changes in (("dense", {}), ("moe", {"n_expert": 4})):
        take = bench.trainer(small, device, bench.new(small, device, d_ff=s.d_ff, **changes))
        seconds |= bench.in_turn({name: take}, s.probe, device)
    dense_steps = s.seed_steps + 3 * s.branch_steps
    return {"recipe: ms for a dense step": 1000 * seconds["dense"], "recipe: ms for an MoE step": 1000 * seconds["moe"],
            "recipe: minutes": (dense_steps * seconds["dense"] + s.finetune_steps * seconds["moe"]) / 60}


def compilers(s, small, device):
    """What torch.compile makes of the recipe's short dense step, in two of its modes: the second records CUDA graphs."""
    takes = {}
    for mode in ("default", "reduce-overhead"):
        model = bench.new(small, device, d_ff=s.d_ff)
        takes[mode] = bench.trainer(small, device, model, torch.compile(model, mode=mode))
    return {f"compilers: ms for a dense step, {mode}": 1000 * t for mode, t in bench.in_turn(takes, s.probe, device).items()}


def main(argv=None):
    s = parse(Settings, argv)
    device = devices.pick_device(s.device)
    devices.check_compiler(device)
    prepare_output(s.out)
    shape = dict(device=s.device, fast=s.fast, vocab_size=1024)
    small = bench.Settings(n_embd=s.n_embd, n_layer=s.n_layer, n_head=s.n_head, block_size=s.block_size,
                           batch_size=s.batch_size, **shape)
    large = bench.Settings(n_embd=s.large_embd, n_layer=s.large_layer, n_head=max(1, s.large_embd // 64),
                           block_size=s.large_block, batch_size=s.large_batch, **shape | {"vocab_size": 50304})
    bench.new(small, torch.device("meta"), n_expert=4, d_ff=s.d_ff)  # is it a shape at all?
    bench.new(large, torch.device("meta"), n_expert=4)
    found, parts = {}, {"parity": lambda: parity(device), "generation": lambda: generation(device),
                        "determinism": lambda: determinism(small, device), "waits": lambda: waits(small, device),
                        "recipe": lambda: recipe(s, small, device), "compilers": lambda: compilers(s, small, device),
                        "speed": lambda: speed(large, device),
                        "generate": lambda: bench.generate(small, device), "hf_step": lambda: bench.hf_step(large, device)}
    for name, part in parts.items():
        try:
            found |= part()
        except (BadInput, RuntimeError) as error:  # memory that ends, a transformers that computes something else
            found[f"{name} failed"] = str(error)[:200]
        write_text(s.out, json.dumps(found | {"machine": machine() | {"device": str(device), "settings": vars(s)}}, indent=1))
    shown = {name: f"{value:.3g}" if isinstance(value, float) else str(value) for name, value in found.items()}
    goals = {name: next((goal for part, goal in GOALS.items() if part in name), "") for name in shown}
    print(table(["what", "measured", "goal"], [[name, value, goals[name]] for name, value in shown.items()]))
    print(f"wrote {s.out}")


if __name__ == "__main__":
    run(main)
