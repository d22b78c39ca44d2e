"""How long does a training step take? `make bench` runs this, and `make bench DEVICE=cuda` measures a GPU.

Four models take steps in turn, so that a disturbance meets all of them; a ratio is the median over pairs of steps. The
peak is what one large matrix product reaches. The share of it is an MFU, though not against a data sheet.
"""
import time
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F

import hf
from cli import make_parser, positive_int, run
from data.tokenizer import load_tokenizer
from model import GPT, GPTConfig
from support import fast, training
from support.checkpoint import save_checkpoint
from support.device import autocast, pick_device, pick_dtype
from support.report import machine, markdown


def as_mixtral(model):
    """The Mixtral of transformers with the weights of our MoE. The export compares their logits."""
    fields = {"experts": ["a", "b", "c", "d"], "spec": load_tokenizer().spec, "ledger": [], "log": []}
    with TemporaryDirectory() as folder:
        save_checkpoint(f"{folder}/moe.pt", {"state": model.state_dict(), "config": vars(model.config), **fields})
        hf.export(f"{folder}/moe.pt", Path(folder, "moe"))
        return hf.transformers.AutoModelForCausalLM.from_pretrained(f"{folder}/moe", dtype=torch.float32)


def train_step(model, optimizer, x, y):
    """A step of training, without the balancing loss. x, y: (B, T). model: one of ours, or one of transformers."""
    with autocast("auto", x.device):
        logits = model(x)[0]  # (B, T, V)
    F.cross_entropy(logits.flatten(0, 1), y.flatten()).backward()
    training.clip_gradients(optimizer)
    optimizer.step()
    optimizer.zero_grad()


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps ... (default: auto)")
    parser.add_argument("--n_embd", type=positive_int, default=256, help="width (default: 256)")
    parser.add_argument("--batch_size", type=positive_int, default=8, help="texts of 128 tokens in a step (default: 8)")
    parser.add_argument("--rounds", type=positive_int, default=20, help="measured steps of each model (default: 20)")
    args = parser.parse_args(argv)
    device, generator = pick_device(args.device), torch.Generator().manual_seed(0)
    d_ff = 16 * round(args.n_embd / 6)  # about 8/3 n_embd
    moe = GPTConfig(n_embd=args.n_embd, d_ff=d_ff, n_expert=4)  # each token has two experts
    dense = GPTConfig(n_embd=args.n_embd, d_ff=2 * d_ff)        # so this one has as many active FLOPs
    models = {name: GPT(config, generator) for name, config in (("readable", moe), ("--fast", moe), ("dense", dense))}
    fast.install(models["--fast"])
    flops = {name: model.flops_per_token() for name, model in models.items()}
    if hf.transformers is not None:
        models["Mixtral"] = as_mixtral(models["readable"])
        flops["Mixtral"] = flops["readable"]

    x, y = torch.randint(moe.vocab_size, (2, args.batch_size, moe.block_size), generator=generator).to(device)
    n = 2048 if device.type == "cpu" else 8192
    matrix = torch.randn(n, n, device=device, dtype=getattr(torch, pick_dtype("auto", device)))
    calls = {"peak": partial(torch.mm, matrix, matrix)}
    for name, model in models.items():
        optimizer = training.make_optimizer(model.to(device).train(), lr=1e-3, eps=training.EPS)
        calls[name] = partial(train_step, model, optimizer, x, y)
    seconds = {name: [] for name in calls}
    for _ in range(3 + args.rounds):  # three warm up
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
            seconds[name].append(time.perf_counter() - start)

    seconds = {name: taken[3:] for name, taken in seconds.items()}
    peak, rows = 2 * n**3 / median(seconds["peak"]), []
    for name in models:
        ratio = median(a / b for a, b in zip(seconds[name], seconds["readable"], strict=True))
        speed = x.numel() / median(seconds[name])  # tokens per second
        rows.append([name, f"{ratio:.2f}", f"{speed:,.0f}", f"{flops[name] * speed / peak:.2f}"])
    print(markdown(["training step", "time", "tokens/s", "of peak"], rows))
    print(f"peak: {peak / 1e9:,.0f} GFLOP/s in {matrix.dtype}; {args}; {machine()}")


if __name__ == "__main__":
    run(main)
