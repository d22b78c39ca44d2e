"""Measure what --fast and training without communication save, as ratios of times within one run (`make bench`).

It needs two processes, each on its own GPU if there are two. A ratio above 1 means that the first takes longer.
"""
import time
from statistics import median

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from cli import make_parser, run
from model import GPT, GPTConfig
from support import fast
from support.distributed import autocast, join_ranks, pick_device
from support.report import machine

SHAPE = {"n_embd": 256, "d_ff": 704, "n_head": 8}
N_STEPS, BATCH = 40, (8, 128)  # for each model or process


def new_model(device, n_expert=0):
    """Make a model whose weights are drawn with a fixed random seed."""
    return GPT(GPTConfig(n_expert=n_expert, **SHAPE), torch.Generator().manual_seed(0)).to(device)


def time_steps(models, device):
    """Measure the median seconds of a training step of each model. They take turns, so a disturbance affects all."""
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True) for model in models]
    seconds = [[] for _ in models]
    for _ in range(N_STEPS):
        for model, optimizer, times in zip(models, optimizers, seconds, strict=True):
            idx = torch.randint(1024, BATCH, device=device)
            start = time.perf_counter()
            with autocast("auto", device):
                _, loss, _ = model(idx, idx)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loss.item()  # waits until a GPU is done
            times.append(time.perf_counter() - start)
    return [median(times[3:]) for times in seconds]  # the first three steps are a warm-up


def main(argv=None):
    make_parser(__doc__).parse_args(argv)
    device, rank, _ = join_ranks("cuda" if torch.cuda.device_count() > 1 else "cpu")
    if rank == 0:  # the other process waits
        gpu = pick_device("auto")
        models = [new_model(gpu, n_expert=4), new_model(gpu, n_expert=4)]
        fast.install(models[1])
        readable, grouped = time_steps(models, gpu)
        print(f"time of the readable sum over experts / --fast: {readable / grouped:.2f}")
        [alone] = time_steps([new_model(device)], device)
    dist.barrier()
    [beside] = time_steps([new_model(device)], device)
    dist.barrier()
    [ddp] = time_steps([DistributedDataParallel(new_model(device))], device)
    if rank == 0:
        print("on two GPUs:" if device.type == "cuda" else "on the CPU:")
        print(f"time of two branches one after the other / both at once: {2 * alone / beside:.2f}")
        print(f"time of one DDP model on two processes / two branches at once, on as many tokens: {ddp / beside:.2f}")
        print("on", ", ".join(f"{key} {value}" for key, value in machine().items() if value))


if __name__ == "__main__":
    run(main)
