"""Stage 1 of Branch-Train-MiX, branch and train (3.1): a dense model on any mixture of domains.

    python train_expert.py --data general=0.7,math=0.1,code=0.1,wiki=0.1 --out out/seed.pt   # a seed, from scratch
    python train_expert.py --init out/seed.pt --data math=0.95,general=0.05 --out out/math.pt  # a branch of it

Branches need nothing from each other, so they run at the same time, on one machine or on several.
A run saves its state in NAME.state every --save_every steps and deletes it at the end; --resume goes on from it.
"""
import math
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data.loader import check_tokenizer, files_in, first_windows, get_batch, prepared, read_domains, text_of
from model import GPT, GPTConfig, expert_load, gumbel, load_balancing_loss
from support import checkpoint as ckpt
from support import devices, fast, ledger
from support.files import check_other, output, reading, state_of
from support.settings import BadInput, Diverged, Stopped, mixture, option, parse, run, signals


@dataclass
class TrainSettings:
    """What stages 1 and 3 have in common. The recipe is the paper's (4.1), scaled down."""
    out: str = option("", "checkpoint to write", group="files")
    init: str = option("", "checkpoint to start from")
    data: str = option("general", "mixture of domains, as in general=0.7,math=0.3")
    data_dir: str = option("data/bin", "folder written by data.prepare; each domain in it is validated on, if long enough")

    steps: int = option(1000, "optimizer steps", low=1, group="recipe")
    batch_size: int = option(8, "sequences in a step, over all micro-batches and ranks", low=1, high=10**6)
    block_size: int = option(0, "tokens in a sequence; 0: the model's own, 128 for a new one", low=0)
    lr: float = option(3e-3, "peak learning rate; falls to a tenth of it along a cosine", low=0.0)
    warmup: float = option(0.05, "share of the steps in which the rate rises to its peak", low=0.0, high=1.0)
    weight_decay: float = option(0.1, "AdamW's weight decay, on matrices only", low=0.0)
    clip: float = option(1.0, "largest norm of the gradient; 0: no limit", low=0.0)
    train: str = option("all", "what trains; with feed-forwards the rest stays the seed's, so that averaging it changes nothing",
                        choices=("all", "feed-forwards"))
    seed: int = option(0, "seed of the new weights and of the batches", low=0)

    eval_every: int = option(0, "steps between validations; 0: ten in a run", low=0, group="logging and saving")
    eval_windows: int = option(16, "validation sequences for each domain", low=1)
    save_dtype: str = option("float32", "dtype of the weights in the checkpoint", choices=("float32", "bfloat16"))
    save_every: int = option(500, "steps between saves of NAME.state", low=1)
    resume: bool = option(False, "go on from NAME.state if there is one")

    grad_accum: int = option(1, "micro-batches a step is split into; an MoE balances the load of each", low=1, group="memory")
    recompute: bool = option(False, "activation checkpointing: compute what is inside a block again in the backward pass")
    loss_chunk: int = option(0, "compute the logits for N tokens at a time; 0: for all at once", low=0)
    shard: bool = option(False, "under torchrun: shard the weights over the ranks, too (FSDP2)")

    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps ...", group="device")
    dtype: str = option("auto", "dtype of the matrix products; auto: float32 on a CPU, bfloat16 on a GPU that has it",
                        choices=("auto", "float32", "bfloat16"))
    fast: bool = option(False, "all experts in one call for each matrix (support/fast.py), for a GPU")
    compile: bool = option(False, "torch.compile the model; includes --fast (on the CPU it needs a C++ compiler)")

    alpha = 0.0  # no option here: a dense model has no load to balance


@dataclass
class Settings(TrainSettings):
    """Stage 1 adds the shape of a new model. A branch has its seed's."""
    n_layer: int = option(0, f"layers; 0: {GPTConfig.n_layer}, or as --init has", low=0,
                          group="shape of a new model")
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


def temperature(progress):
    """tau of Sample Top-1 (3.3) after this share of the steps: max(0.5, exp(-r t)), as in Jang et al. 2016.

    The paper prints max(0.5, -r t), which is always 0.5. Here r t = 1e-4 * 40,000 * progress = 4 * progress for any length.
    """
    r, t = 1e-4, 40_000 * progress
    return max(0.5, math.exp(-r * t))


def router_noise(config, progress, key, device):
    """For Sample Top-1 a function n_tokens -> noise of a forward pass, drawn from `key`, (seed, stage, step, rank); else None."""
    if config.routing != "sample":
        return None
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    generator = torch.Generator(device).manual_seed(seed)
    tau = torch.full((), temperature(progress), device=device)  # a number would be a constant of a compiled graph
    return lambda n_tokens: gumbel(config, n_tokens, tau, generator)


def make_optimizer(model, settings):
    """AdamW (0.9, 0.95) over the parameters that require gradients; no decay on the norms' vectors."""
    params = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": [p for p in params if p.ndim >= 2], "weight_decay": settings.weight_decay},
              {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.95), fused=params[0].device.type in ("cpu", "cuda"))


def objective(nll, routing, alpha):
    """What MoE finetuning minimises: NLL + alpha * load_balancing_loss (3.3), its means taken over all ranks. A scalar.

    routing: of every layer, see model.Routing. With alpha = 0 the load-balancing loss is not computed.
    """
    if not alpha:
        return nll
    return nll + alpha * load_balancing_loss(routing, devices.mean_over_ranks)


def training_step(forward, optimizer, x, y, settings, autocast, noise=None):
    """One optimizer step on the batch x, y (B, T): the mean cross-entropy, for an MoE see `objective`, gradients clipped.

    noise: see router_noise. Returns the cross-entropy and the routing, both of the last micro-batch. With --fast in bfloat16
    nothing here waits for a GPU.
    """
    n = settings.grad_accum
    for i, (xs, ys) in enumerate(zip(x.chunk(n), y.chunk(n), strict=True), 1):
        with autocast, devices.syncing(forward, i == n):
            _, nll, routing = forward(xs, ys, noise=noise and noise(xs.numel()), recompute=settings.recompute,
                                      loss_chunk=settings.loss_chunk)
            loss = objective(nll, routing, settings.alpha) if routing else nll
        (loss / n).backward()
    torch.nn.utils.clip_grad_norm_(devices.params_of(optimizer), settings.clip or math.inf)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return devices.mean_over_ranks(nll.detach()), routing


@torch.no_grad()
def validate(model, windows, device, batch_size=16, loss_chunk=0):
    """Mean loss in nats per token on fixed windows (n, T + 1); batch_size and loss_chunk change nothing but the memory used.

    Raises Diverged if it is not finite.
    """
    model.eval()
    total = 0.0
    for chunk in windows.split(batch_size):
        chunk = chunk.to(device)
        _, loss, _ = model(chunk[:, :-1], chunk[:, 1:], loss_chunk=loss_chunk)
        total += loss.item() * len(chunk)
    model.train()
    if not math.isfinite(total):
        raise Diverged("the validation loss is not finite; try a lower --lr")
    return total / len(windows)


def check(settings):
    """Check what both stages share, before anything is written. Returns the device, and {name: what read_domain found} of all
    domains in --data_dir. Raises BadInput."""
    ckpt.check_name(settings.out, "--out ")
    check_other(settings.out, [settings.init, *files_in(settings.data_dir)])
    ranks = devices.n_ranks()
    if settings.shard and ranks == 1:
        raise BadInput("--shard needs several ranks; start with torchrun, or leave the option out")
    if settings.batch_size % (settings.grad_accum * ranks):
        raise BadInput(f"--batch_size {settings.batch_size} must be a multiple of --grad_accum {settings.grad_accum}"
                       + f" times the {ranks} ranks" * (ranks > 1))
    device, names = devices.pick_device(settings.device), [*mixture(settings.data), *prepared(settings.data_dir)]
    if settings.compile:
        devices.check_compiler(device)
    return device, read_domains(settings.data_dir, dict.fromkeys(names))


def routed(routing, experts):
    """What the log says of an MoE's step: each expert's share of the gates, averaged over layers, and the load-balancing loss
    of a layer. Nothing of a dense model."""
    if not routing:
        return {}
    load = devices.mean_over_ranks(torch.stack([expert_load(layer) for layer in routing]).mean(0)).tolist()
    return {"load": dict(zip(experts, load, strict=True)),
            "balance": load_balancing_loss(routing, devices.mean_over_ranks).item() / len(routing)}


def listed(numbers):
    """{"math": 0.5, "code": 0.25} as text."""
    return " ".join(f"{name} {number:.3f}" for name, number in numbers.items())


def train(model, settings, header, device, data, stop=()):
    """Train `model` in place and write settings.out, for which files.output is held, by the one training loop of this project.

    header: what the checkpoint says besides the weights, {"tokenizer", "experts", "lineage"}, the lineage ending before
    this stage; data: see check; stop: see settings.signals, with a signal in it the state is saved and Stopped raised.
    Raises Diverged if loss or weights are not finite, and nothing is written of them; BadInput if the log would be
    too large.
    """
    out, config, stage = Path(settings.out), model.config, len(header["lineage"])
    T, (rank, world_size) = config.block_size, devices.rank_and_size()
    domains = mixture(settings.data)
    tokens = {domain: text_of(data, domain, "train", T) for domain in domains}
    windows = {domain: first_windows(text_of(data, domain, "val", T), T, settings.eval_windows) for domain in data
               if domain in domains or len(data[domain]["val.bin"]) > T}
    digests = {f"{domain}/{file}": data[domain]["files"][file]
               for file, read in (("train.bin", tokens), ("val.bin", windows)) for domain in read}
    digests["tokenizer"] = header["tokenizer"]["fingerprint"]
    every = settings.eval_every or max(1, settings.steps // 10)
    if settings.steps // every * (len(windows) + len(header["experts"])) > 10**4:  # or a log might not fit into a header
        raise BadInput(f"--eval_every {every}: too many validations to keep in a log; let there be fewer")
    setup = ckpt.setup(settings, config, device, header, digests)
    if settings.fast or settings.compile:  # the compiler cannot follow the readable loop
        fast.install(model)
    forward = devices.spread(model.train(), device, settings.shard)
    forward = torch.compile(forward) if settings.compile else forward
    optimizer, autocast = make_optimizer(model, settings), devices.autocast(settings.dtype, device)
    state = ckpt.load_state(out, model, optimizer, settings, setup)  # seconds of all ranks
    step_tokens = settings.batch_size * T
    token_flops, peak = model.flops_per_token(), devices.peak_flops(device) * world_size
    start = time.perf_counter() - state["seconds"] / world_size
    bar = tqdm(initial=state["step"], total=settings.steps, desc=out.stem, mininterval=1.0, dynamic_ncols=True,
               disable=rank > 0 or os.environ.get("TQDM_DISABLE", "0") not in ("", "0"))
    for step in range(state["step"], settings.steps):
        x, y = get_batch(tokens, domains, T, settings.batch_size, settings.seed, step, rank, world_size, stage)  # (B, T)
        rate = learning_rate(step, settings.steps, settings.lr, settings.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        noise = router_noise(config, step / settings.steps, (settings.seed, stage, step, rank), device)
        x, y = (devices.send(t, device) for t in (x, y))
        nll, routing = training_step(forward, optimizer, x, y, settings, autocast, noise)
        done, last = step + 1, step + 1 == settings.steps
        stopping = devices.any_rank(stop, device) and not last
        saving, validating, text = stopping or done % settings.save_every == 0 and not last, done % every == 0 or last, ""
        if done % 20 == 0 or validating or saving:  # all ranks look at the same steps
            loss = nll.item()
            if not math.isfinite(loss):  # the weights are not either, then, and no later loss is
                raise Diverged(f"at step {done} the loss is not finite; try a lower --lr")
            speed, gates = done * step_tokens / (time.perf_counter() - start), routed(routing, header["experts"])
            text = (f"loss {loss:.3f}, {speed:,.0f} tokens/s" + (f", MFU {speed * token_flops / peak:.1%}" if peak else "")
                    + (f", load {listed(gates['load'])}" if gates else ""))
        seconds = time.perf_counter() - start
        if validating:
            losses = {domain: validate(model, w, device, len(x) // settings.grad_accum, settings.loss_chunk)
                      for domain, w in windows.items()}
            state["log"].append({"step": done, "tokens": done * step_tokens, "lr": rate, "train_loss": loss,
                                 "val_loss": losses, "seconds": seconds} | gates)
            start = time.perf_counter() - seconds  # validation does not count
        if saving:
            state |= {"step": done, "seconds": seconds * world_size}
            ckpt.save_state(out, model, optimizer, state)
        with suppress(OSError):  # a pipe whose reader has ended costs no training
            if validating and rank == 0:
                tqdm.write(f"{out.stem}: step {done} of {settings.steps}, {text}, validation: {listed(losses)}")
            bar.update()
            if text:
                bar.set_postfix_str(text)
            if stopping or last:
                bar.close()
        if stopping:
            devices.any_rank(True, device)  # nobody leaves before the state is written
            raise Stopped((stop or [signal.SIGTERM])[0], f"stopped after step {done}; the same command with --resume goes on")
    parents = [entry["id"] for entry in header["lineage"][-1:]]
    entry = ledger.entry("finetune" if config.n_expert else "train", out, parents, alpha=settings.alpha,
                         tokens=settings.steps * step_tokens, flops=settings.steps * step_tokens * token_flops,
                         seconds=(time.perf_counter() - start) * world_size, ranks=world_size, settings=setup)
    weights = devices.whole(model.state_dict())
    if rank == 0:
        ckpt.save(out, ckpt.pack(weights, config, header["tokenizer"], header["experts"], [*header["lineage"], entry],
                                 state["log"], settings.save_dtype))
        state_of(out).unlink(missing_ok=True)
        print(f"wrote {out}; validation loss: {listed(state['log'][-1]['val_loss'])}")
    devices.any_rank(True, device)  # nobody leaves while another still sends or writes


def load_model(settings, data):
    """The model in --init, and the rest of that checkpoint. Raises BadInput if the domains have another tokenizer."""
    header = ckpt.load(settings.init)
    check_tokenizer(data, header["tokenizer"], settings.init)
    model = ckpt.build(header)
    model.config.block_size = settings.block_size or model.config.block_size
    return model, header


def new_model(settings, data, shape):
    """A model with fresh weights and the header of a first stage. Raises BadInput."""
    first = next(iter(data))
    about = data[first]["tokenizer"]
    check_tokenizer(data, about, f"{settings.data_dir}/{first}")
    try:
        config = GPTConfig(vocab_size=about["vocab_size"], block_size=settings.block_size or GPTConfig.block_size, **shape)
    except ValueError as error:
        raise BadInput(f"--{error}") from None
    with reading("--n_layer, --n_embd, --d_ff: a model of this shape", "made"):
        model = GPT(config, torch.Generator().manual_seed(settings.seed))
    return model, {"tokenizer": about, "experts": [], "lineage": []}


def main(argv=None):
    settings = parse(Settings, argv)
    device, data = check(settings)
    shape = {name: value for name, value in vars(settings).items() if value and not hasattr(TrainSettings, name)}
    if settings.init:
        model, header = load_model(settings, data)
        if model.config.n_expert:
            raise BadInput(f"{settings.init} is a mixture of experts; finetune_router.py trains those")
        for name in shape:
            raise BadInput(f"--{name}: a branch keeps the shape of its seed, {settings.init}; leave the option out")
    else:
        model, header = new_model(settings, data, shape)
    for name, p in model.named_parameters():
        p.requires_grad_(settings.train == "all" or ".ff." in name)
    with devices.on_first_rank(output(settings.out, resume=settings.resume)), devices.ranks(device), signals() as stop:
        train(model, settings, header, device, data, stop)


if __name__ == "__main__":
    run(main)
