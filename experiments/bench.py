"""How fast is a training step, and what is no communication worth? Ratios in one run. `make bench` runs it.

Models take steps in turn, so that a disturbance meets all of them. A ratio above 1 says that the first takes longer.
"""
import tempfile
import time
from cli import make_parser, run
from statistics import mean, median

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from model import GPT, GPTConfig
from support import fast
from support.distributed import autocast
from support.report import machine

SHAPE = {"n_embd": 256, "d_ff": 704, "n_head": 8}
N_STEPS, BATCH = 40, (8, 128)  # of each model or process


def time_steps(models, device):
    """The median seconds of a training step of each model, {name: model}, on new tokens each time; --dtype is auto."""
    optimizers = {name: torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True) for name, model in models.items()}
    seconds = {name: [] for name in models}
    for _ in range(N_STEPS):
        for name, model in models.items():
            idx = torch.randint(1024, BATCH, device=device)
            start = time.perf_counter()
            with autocast("auto", device):
                _, loss, _ = model(idx, idx)
            loss.backward()
            optimizers[name].step()
            optimizers[name].zero_grad()
            loss.item()  # waits for a GPU
            seconds[name].append(time.perf_counter() - start)
    return {name: median(times[3:]) for name, times in seconds.items()}  # the first three warm up


def train_beside(rank, n_ranks, shared, folder):
    """One of n_ranks processes that start together: a branch of its own, or by DDP its part of one `shared` model."""
    torch.set_num_threads(1)
    device = torch.device("cuda", rank) if torch.cuda.device_count() > 1 else torch.device("cpu")
    dist.init_process_group(init_method=f"file://{folder}/start", rank=rank, world_size=n_ranks)
    model = GPT(GPTConfig(**SHAPE), torch.Generator().manual_seed(0)).to(device)
    step = time_steps({"dense": DistributedDataParallel(model) if shared else model}, device)["dense"]
    torch.save(step, f"{folder}/{rank}")
    dist.destroy_process_group()


def time_beside(n_ranks, shared):
    """The mean of the median seconds of a step of n_ranks processes."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(train_beside, (n_ranks, shared, folder), nprocs=n_ranks)
        return mean(torch.load(f"{folder}/{rank}", weights_only=True) for rank in range(n_ranks))


def main(argv=None):
    make_parser(__doc__).parse_args(argv)
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = GPTConfig(n_expert=4, **SHAPE)
    models = {name: GPT(config, torch.Generator().manual_seed(0)).to(device) for name in ("readable", "fast")}
    fast.install(models["fast"])
    t = time_steps(models, device)
    print(f"the readable sum over experts over --fast: {t['readable'] / t['fast']:.2f}")
    alone, beside, ddp = time_beside(1, False), time_beside(2, False), time_beside(2, True)
    print("on two GPUs:" if torch.cuda.device_count() > 1 else "on the CPU:")
    print(f"two branches one after the other over both at once: {2 * alone / beside:.2f}")
    print(f"one model by DDP on two processes over two branches at once, on as many tokens: {ddp / beside:.2f}")
    print("on", ", ".join(f"{key} {value}" for key, value in machine().items() if value))


if __name__ == "__main__":
    run(main)
