"""Stage 1 of Branch-Train-MiX, branch and train (3.1): a dense model on any mixture of domains.

    python train_expert.py --data general=0.7,math=0.1,code=0.1,wiki=0.1 --out out/seed.pt   # a seed, from scratch
    python train_expert.py --init out/seed.pt --data math=0.95,general=0.05 --out out/math.pt  # a branch of it

Branches need nothing from each other, so they run at the same time, on one machine or on several.
Beside the checkpoint lie NAME.jsonl, a line for each validation (its train_loss is of one batch), and, until the run is
done, NAME.state, from which --resume goes on.
"""
import json
import math
import os
import signal
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import checkpoint as ckpt
import devices
from data.loader import check_tokenizer, first_windows, get_batch, open_split, prepared, read_meta
from model import GPT, MIN_TAU, GPTConfig, expert_load, load_balancing_loss
from settings import BadInput, Diverged, Stopped, mixture, option, parse, run, signals


@dataclass
class TrainSettings:
    """What stages 1 and 3 have in common. The recipe is the paper's (4.1), scaled down."""
    out: str = option("", "checkpoint to write")
    init: str = option("", "checkpoint to start from")
    data: str = option("general", "mixture of domains, as in general=0.7,math=0.3")
    data_dir: str = option("data/bin", "folder written by data.prepare")
    steps: int = option(1000, "optimizer steps", low=1)
    batch_size: int = option(8, "sequences in a step, over all micro-batches", low=1)
    grad_accum: int = option(1, "micro-batches a step is split into, to save memory; an MoE balances the load of each", low=1)
    block_size: int = option(0, "tokens in a sequence; 0: the model's own, 128 for a new one", low=0)
    lr: float = option(3e-3, "peak learning rate; falls to a tenth of it along a cosine", low=0.0)
    warmup: float = option(0.05, "share of the steps in which the rate rises to its peak", low=0.0, high=1.0)
    weight_decay: float = option(0.1, "AdamW's weight decay, on matrices only", low=0.0)
    clip: float = option(1.0, "largest norm of the gradient; 0: no limit", low=0.0)
    eval_every: int = option(0, "steps between validations; 0: ten in a run", low=0)
    eval_windows: int = option(16, "validation sequences for each domain", low=1)
    patience: int = option(10, "give up after N steps in a row whose loss or gradient is not finite (each is skipped)", low=1)
    save_every: int = option(500, "steps between saves of NAME.state", low=1)
    resume: bool = option(False, "go on from NAME.state if there is one")
    seed: int = option(0, "seed of the new weights and of the batches", low=0)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps ...")
    dtype: str = option("auto", "of the matrix products; auto: bfloat16 where the hardware has it",
                        choices=("auto", "float32", "bfloat16"))
    compile: bool = option(False, "torch.compile the model (needs a C++ compiler on the CPU)")
    recompute: bool = option(False, "save memory: keep no activations inside a block, compute them again in the backward pass")
    loss_chunk: int = option(0, "save memory: compute the logits for N tokens at a time; 0: for all at once", low=0)
    shard: bool = option(False, "under torchrun: share out the weights too (FSDP2), where a rank cannot hold them all")


@dataclass
class Settings(TrainSettings):
    """Stage 1 adds the shape of a new model. A branch has its seed's."""
    n_layer: int = option(0, f"layers; 0: {GPTConfig.n_layer}, or as --init has", low=0)
    n_head: int = option(0, f"attention heads; 0: {GPTConfig.n_head}, or as --init has", low=0)
    n_kv_head: int = option(0, "key/value heads; 0: as many as heads, or as --init has", low=0)
    n_embd: int = option(0, f"width; 0: {GPTConfig.n_embd}, or as --init has", low=0)
    d_ff: int = option(0, f"width inside the feed-forward; 0: {GPTConfig.d_ff}, or as --init has", low=0)
    tie_weights: bool = option(False, "use the token embeddings as output head")


def learning_rate(step, steps, peak, warmup):
    """Linear warm-up, then a cosine from the peak to a tenth of it (4.1)."""
    n_warmup = math.ceil(warmup * steps)
    if step < n_warmup:
        return peak * (step + 1) / n_warmup
    progress = (step - n_warmup) / max(1, steps - 1 - n_warmup)
    return peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))


def router_noise(config, key, progress, device):
    """What a training step must give to `GPT.forward`: for Sample Top-1 a generator seeded from `key`, and tau; else {}.

    key: (seed, stage, step, rank); progress: the share of the steps done. The paper prints tau = max(0.5, -r t), which is always
    0.5; we read Jang et al.'s max(0.5, exp(-r t)). Its r = 1e-4 for a run of 40,000 steps is r t = 4 * progress for any length.
    """
    if config.routing != "sample":
        return {}
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return {"generator": torch.Generator(device).manual_seed(seed), "tau": max(MIN_TAU, math.exp(-4 * progress))}


def make_optimizer(model, settings, device):
    """AdamW (0.9, 0.95) over the parameters that require gradients; no decay on the norms' vectors."""
    params = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": [p for p in params if p.ndim >= 2], "weight_decay": settings.weight_decay},
              {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.95), fused=device.type in ("cpu", "cuda"))


def training_step(forward, optimizer, x, y, autocast, grad_accum=1, clip=1.0, alpha=0.0, **options):
    """One optimizer step on the batch x, y (B, T): mean cross-entropy + alpha * load_balancing_loss (3.3), gradients clipped.

    options: see GPT.forward. Returns the cross-entropy and the routing of the last micro-batch, and whether loss and gradient
    were finite: the weights are left alone if not.
    """
    for xs, ys in zip(x.chunk(grad_accum), y.chunk(grad_accum), strict=True):
        with autocast:
            _, nll, routing = forward(xs, ys, **options)
            balance = load_balancing_loss(routing, devices.mean_over_ranks) if routing and alpha else 0.0
        ((nll + alpha * balance) / grad_accum).backward()
    norm = torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], clip or math.inf)
    nll = devices.mean_over_ranks(nll.detach())
    finite = bool(torch.isfinite(norm + nll))
    if finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return nll.item(), routing, finite


@torch.no_grad()
def validate(model, windows, device, batch_size=16, loss_chunk=0):
    """Mean loss in nats per token on fixed windows (n, T + 1); batch_size and loss_chunk change nothing but the memory used."""
    total = 0.0
    for chunk in windows.split(batch_size):
        chunk = chunk.to(device)
        _, loss, _ = model(chunk[:, :-1], chunk[:, 1:], loss_chunk=loss_chunk)
        total += loss.item() * len(chunk)
    return total / len(windows)


def start(settings):
    """Check the settings that both stages share, before anything is written. Returns device and mixture. Raises BadInput."""
    ckpt.check_name(settings.out)
    if settings.init and Path(settings.init).resolve() == Path(settings.out).resolve():
        raise BadInput(f"--out {settings.out} is the --init too, and would be lost; choose another name")
    if settings.shard and "RANK" not in os.environ:
        raise BadInput("--shard shares the weights out among torchrun's ranks, and there are none; leave the option out")
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    if settings.batch_size % (settings.grad_accum * ranks):
        raise BadInput(f"--batch_size {settings.batch_size} must be a multiple of --grad_accum {settings.grad_accum}"
                       + f" times the {ranks} ranks" * (ranks > 1))
    devices.keep_memory()
    device, weights = devices.pick_device(settings.device), mixture(settings.data)
    meta = {domain: read_meta(settings.data_dir, domain) for domain in [*weights, *prepared(settings.data_dir)]}
    if len({m["fingerprint"] for m in meta.values()}) > 1:
        raise BadInput(f"--data: {', '.join(meta)} were prepared with different tokenizers; prepare them again together")
    return device, weights


def train(model, settings, weights, device, header, stage, alpha=0.0, stop=()):
    """Train `model` in place and write settings.out, by the one training loop of this project.

    header: what the checkpoint says besides the weights, {"tokenizer", "experts", "lineage"}, the lineage ending before
    this stage. The loss is the mean cross-entropy + alpha * load_balancing_loss (3.3). Returns the checkpoint written.
    stop: see settings.signals; with a signal in it the state is saved and Stopped raised. Raises Diverged if the loss or
    the gradient is not finite for settings.patience steps in a row, none of which changes the weights.
    """
    out, T = Path(settings.out), model.config.block_size
    tokens = {domain: open_split(settings.data_dir, domain, "train", T) for domain in weights}
    windows = {domain: first_windows(settings.data_dir, domain, T, settings.eval_windows)
               for domain in prepared(settings.data_dir)
               if domain in weights or len(open_split(settings.data_dir, domain, "val")) > T}
    with ckpt.output(out) if devices.rank_and_size()[0] == 0 else nullcontext():
        return loop(model, settings, weights, tokens, windows, device, header, stage, alpha, stop)


def loop(model, settings, weights, tokens, windows, device, header, stage, alpha, stop):
    """The training loop; see `train`. tokens, windows: of each domain, what to train on and what to validate on."""
    out, T, stage_number = Path(settings.out), model.config.block_size, len(header["lineage"])
    rank, world_size = devices.rank_and_size()
    state_file, log_file = out.with_suffix(".state"), out.with_suffix(".jsonl")
    flops_per_step = model.flops_per_token(T) * settings.batch_size * T
    forward = devices.spread(model.train(), device, settings.shard)
    if settings.compile:
        forward = torch.compile(forward)
    optimizer = make_optimizer(model, settings, device)
    state = {"step": 0, "seconds": 0.0, "log": []}
    if state_file.exists():
        if not settings.resume:
            raise BadInput(f"{state_file} is what an interrupted run left: --resume goes on from it; delete it to start anew")
        state = ckpt.load_state(state_file, model, optimizer, run_settings(settings), header["lineage"])
    log, skipped, micro_batch = state["log"], 0, settings.batch_size // settings.grad_accum // world_size
    dtype = devices.pick_dtype(settings.dtype, device)
    autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
    options = {"recompute": settings.recompute, "loss_chunk": settings.loss_chunk}
    eval_every = settings.eval_every or max(1, settings.steps // 10)
    clock = time.perf_counter() - state["seconds"] / world_size  # the state and the ledger count those of all ranks
    bar = tqdm(range(state["step"], settings.steps), initial=state["step"], total=settings.steps, desc=out.stem,
               mininterval=1.0, dynamic_ncols=True, disable=rank > 0)
    for step in bar:
        batch = get_batch(tokens, weights, T, settings.batch_size, settings.seed, step, rank=rank, world_size=world_size,
                          stage=stage_number)
        x, y = (t.to(device, non_blocking=True) for t in batch)
        lr = learning_rate(step, settings.steps, settings.lr, settings.warmup)
        for group in optimizer.param_groups:
            group["lr"] = lr
        noise = router_noise(model.config, (settings.seed, stage_number, step, rank), step / settings.steps, device)
        nll, routing, finite = training_step(forward, optimizer, x, y, autocast, settings.grad_accum, settings.clip, alpha,
                                             **options, **noise)
        skipped = 0 if finite else skipped + 1
        if skipped == settings.patience:
            raise Diverged(f"step {step}: loss or gradient was not finite for {skipped} steps in a row; "
                           f"{f'{state_file} is from before; delete it and ' if state_file.exists() else ''}try a lower --lr")

        done = step + 1
        if done % 20 == 0 or done == settings.steps:
            seconds = time.perf_counter() - clock
            shown = {"loss": f"{nll:.3f}", "tokens/s": f"{done * settings.batch_size * T / seconds:,.0f}"}
            if devices.peak_flops(device):
                shown["MFU"] = f"{done * flops_per_step / seconds / devices.peak_flops(device) / world_size:.1%}"
            if routing:
                shown["load"] = " ".join(f"{share:.0%}" for share in mean_load(routing))
            bar.set_postfix(shown)
        if done % eval_every == 0 or done == settings.steps:
            pause = time.perf_counter()
            model.eval()
            entry = {"step": done, "tokens": done * settings.batch_size * T, "lr": lr, "train_loss": nll,
                     "val_loss": {domain: validate(model, w, device, micro_batch, settings.loss_chunk)
                                  for domain, w in windows.items()},
                     "seconds": pause - clock}
            if routing:
                entry["load"] = dict(zip(header["experts"], mean_load(routing), strict=True))
                entry["balance"] = load_balancing_loss(routing, devices.mean_over_ranks).item() / len(routing)
            model.train()
            log.append(entry)
            if rank == 0:
                text = "".join(json.dumps(line) + "\n" for line in log)
                ckpt.write_whole(log_file, lambda file, text=text: file.write(text.encode()))
            clock += time.perf_counter() - pause  # the ledger counts no validation
        stopping = devices.any_rank(stop, device) and done < settings.steps
        if stopping or done % settings.save_every == 0 and done < settings.steps:
            weights_now, optimizer_now = devices.full_state(model, optimizer)
            if rank == 0:
                ckpt.save(state_file, {"model": weights_now, "optimizer": optimizer_now, "step": done, "log": log,
                                       "seconds": (time.perf_counter() - clock) * world_size, "settings": run_settings(settings),
                                       "lineage": header["lineage"]})
        if stopping:
            devices.any_rank(True, device)  # nobody leaves before the state is written
            bar.close()
            raise Stopped((stop or [signal.SIGTERM])[0],
                          f"stopped after step {done} of {settings.steps}; the same command with --resume goes on")
    parents = [entry["id"] for entry in header["lineage"][-1:]]
    entry = ckpt.ledger_entry(stage, out, parents, tokens=settings.steps * settings.batch_size * T,
                              flops=settings.steps * flops_per_step, ranks=world_size,
                              seconds=(time.perf_counter() - clock) * world_size, alpha=alpha,
                              settings=run_settings(settings) | {"block_size": T, "device": str(device)})
    result = ckpt.pack(devices.whole(model.state_dict()), model.config, header["tokenizer"], header["experts"],
                       header["lineage"] + [entry])
    if rank == 0:
        ckpt.save(out, result)
        state_file.unlink(missing_ok=True)
        losses = " ".join(f"{domain} {loss:.3f}" for domain, loss in log[-1]["val_loss"].items())
        print(f"wrote {out}; validation loss: {losses}" if losses else f"wrote {out}")
    return result


def mean_load(routing):
    """Share of the gates that each expert has, averaged over layers; a list of N floats."""
    return devices.mean_over_ranks(torch.stack([expert_load(r) for r in routing]).mean(0)).tolist()


def run_settings(settings):
    """The settings that a resumed run must share with the interrupted one: all but those that say how it is computed."""
    return {k: v for k, v in asdict(settings).items() if k not in ("resume", "compile", "recompute", "loss_chunk", "shard")}


def main(argv=None):
    settings = parse(Settings, argv)
    device, weights = start(settings)
    shape = {name: value for name, value in vars(settings).items() if value and not hasattr(TrainSettings, name)}
    if settings.init:
        header = ckpt.load(settings.init)
        if header["config"]["n_expert"]:
            raise BadInput(f"{settings.init} is a mixture of experts; finetune_router.py trains those")
        check_tokenizer(settings.data_dir, weights, header["tokenizer"], settings.init)
        for name, value in shape.items():
            if value != header["config"][name]:
                raise BadInput(f"--{name} {value}: {settings.init} has {header['config'][name]}, and a branch keeps its seed's "
                               "shape; leave the option out")
        model = ckpt.build(header)
        model.config.block_size = settings.block_size or model.config.block_size
    else:
        meta = read_meta(settings.data_dir, next(iter(weights)))
        tokenizer = {"name": meta["tokenizer"], "fingerprint": meta["fingerprint"], "vocab_size": meta["vocab_size"]}
        header = {"tokenizer": tokenizer, "experts": [], "lineage": []}
        try:
            config = GPTConfig(vocab_size=meta["vocab_size"], block_size=settings.block_size or GPTConfig.block_size, **shape)
        except ValueError as error:
            raise BadInput(f"--{error}") from None
        model = GPT(config, torch.Generator().manual_seed(settings.seed))
    with signals() as stop, devices.ranks(device):
        train(model, settings, weights, device, header, stage="train", stop=stop)


if __name__ == "__main__":
    run(main)
