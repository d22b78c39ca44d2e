"""How fast is a training step, and what is no communication worth? Ratios in one run. `make bench` runs it.

It takes two processes, each on a GPU of its own if there are two. A ratio above 1 says that the first takes longer.
"""
import time
from cli import make_parser, run
from statistics import median

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from model import GPT, GPTConfig
from support import fast
from support.distributed import autocast, join_ranks, pick_device
from support.report import machine

SHAPE = {"n_embd": 256, "d_ff": 704, "n_head": 8}
N_STEPS, BATCH = 40, (8, 128)  # of each model or process


def new_model(device, n_expert=0):
    """A model with the weights of one seed."""
    return GPT(GPTConfig(n_expert=n_expert, **SHAPE), torch.Generator().manual_seed(0)).to(device)


def time_steps(models, device):
    """The median seconds of a training step of each model, on new tokens each time; --dtype is auto.

    Models take steps in turn, so that a disturbance meets all of them.
    """
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
            loss.item()  # waits for a GPU
            times.append(time.perf_counter() - start)
    return [median(times[3:]) for times in seconds]  # the first three warm up


def main(argv=None):
    make_parser(__doc__).parse_args(argv)
    device, rank, _ = join_ranks("cuda" if torch.cuda.device_count() > 1 else "cpu")
    if rank == 0:  # the other waits
        gpu = pick_device("auto")
        models = [new_model(gpu, n_expert=4), new_model(gpu, n_expert=4)]
        fast.install(models[1])
        readable, grouped = time_steps(models, gpu)
        print(f"the readable sum over experts over --fast: {readable / grouped:.2f}")
        [alone] = time_steps([new_model(device)], device)
    dist.barrier()
    [beside] = time_steps([new_model(device)], device)
    dist.barrier()
    [ddp] = time_steps([DistributedDataParallel(new_model(device))], device)
    if rank == 0:
        print("on two GPUs:" if device.type == "cuda" else "on the CPU:")
        print(f"two branches one after the other over both at once: {2 * alone / beside:.2f}")
        print(f"one model by DDP on two processes over two branches at once, on as many tokens: {ddp / beside:.2f}")
        print("on", ", ".join(f"{key} {value}" for key, value in machine().items() if value))


if __name__ == "__main__":
    run(main)
