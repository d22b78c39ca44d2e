"""Helpers of both training loops: the rate, the optimizer, batches, validation, and the settings of a run."""
import math

import numpy as np
import torch

from data.common import BadInput
from data.loader import first_windows

# Llama-2's (Touvron et al. 2023, section 2.2); the paper states neither betas nor epsilon. With torch's eps of 1e-8 a
# branch pushes down the head's rows of all tokens that it never meets, and averaging heads becomes costly.
BETAS = (0.9, 0.95)
EPS = 1e-5


def learning_rate(step, steps, peak, warmup):
    """Linear warm-up over a share `warmup` of the steps, then a cosine from the peak to a tenth of it (4.1)."""
    n_warmup = math.ceil(warmup * steps)
    if step < n_warmup:
        return peak * (step + 1) / n_warmup
    progress = (step - n_warmup) / max(1, steps - 1 - n_warmup)
    return peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))


def set_learning_rate(optimizer, step, args):
    """Give the optimizer the rate of this step; returns it."""
    rate = learning_rate(step, args.steps, args.lr, args.warmup)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def make_optimizer(model, args):
    """AdamW over the parameters that train; no weight decay on the norms' vectors (4.1)."""
    params = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": [p for p in params if p.ndim >= 2], "weight_decay": args.weight_decay},
              {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=args.lr, betas=BETAS, eps=args.eps, fused=True)


def clip_gradients(optimizer, max_norm):
    """Scale all gradients down so that their norm is at most max_norm (0: no limit)."""
    params = []
    for group in optimizer.param_groups:
        params += group["params"]
    if max_norm:
        torch.nn.utils.clip_grad_norm_(params, max_norm)


def count_stages(lineage, mixture):
    """Count the earlier stages that read this mixture. get_batch draws new rows for each."""
    return sum(entry["settings"].get("data") == mixture for entry in lineage)


def is_due(done, every, steps):
    """Whether to validate after `done` steps: every `every` steps (None: ten times a run), and after the last."""
    every = every or max(1, steps // 10)
    return done % every == 0 or done == steps


def step_generator(device, *key):
    """A random generator for one step; the same key, as (seed, stage, step, rank), gives the same numbers."""
    seed = np.random.SeedSequence(key).generate_state(1)[0]
    return torch.Generator(device).manual_seed(int(seed))


def check_batch_size(args, n_ranks):
    """Raise BadInput unless a batch can be cut into equal parts."""
    if args.batch_size % (args.grad_accum * n_ranks):
        raise BadInput(f"--batch_size {args.batch_size} must be a multiple of --grad_accum {args.grad_accum} "
                       f"times the number of GPUs, {n_ranks}")


def read_texts(domains, mixture, block_size, n_windows):
    """The training texts of a mixture, {domain: (n,) tokens}, and what is validated on, {domain: (n_windows, T + 1)}.

    Every domain that has enough validation text is validated on. Raises BadInput if one of the mixture is missing or
    has too little text.
    """
    for name in mixture:
        if name not in domains:
            raise BadInput(f"--data: there is no domain {name!r}; prepared are {', '.join(domains)}")
        if len(domains[name].train) <= block_size:
            raise BadInput(f"--data: the training text of {name!r} is shorter than --block_size {block_size}")
    texts = {name: domains[name].train for name in mixture}
    windows = {name: first_windows(domain.val, block_size, n_windows) for name, domain in domains.items()
               if len(domain.val) > block_size}
    return texts, windows


@torch.no_grad()
def validate(model, windows, device, batch_size):
    """{domain: mean loss in nats per token} on fixed windows, {domain: (n, T + 1)}."""
    model.eval()
    losses = {}
    for name, rows in windows.items():
        total = 0.0
        for chunk in rows.to(device).split(batch_size):
            _, loss, _ = model(chunk[:, :-1], chunk[:, 1:])
            total += loss.item() * len(chunk)
        losses[name] = total / len(rows)
    model.train()
    return losses


def check_finite(loss, step, args):
    """Raise BadInput if the loss is not finite. The weights are not finite then, either; nothing more is written."""
    if not math.isfinite(loss):
        raise BadInput(f"--lr {args.lr}: the loss is not finite after step {step}; try a lower rate")


def format_numbers(numbers):
    """{"math": 0.5, "code": 0.25} as "math 0.500 code 0.250"."""
    return " ".join(f"{name} {number:.3f}" for name, number in numbers.items())


def run_settings(args, model, lineage, domains, device):
    """Everything that a run's result depends on, as plain values. Must match when the run is resumed.

    It also stands in the ledger. Options that leave the result alone are left out. The number of GPUs is left out, too:
    a run may go on with another, though each GPU balances its own tokens and draws its own noise.
    """
    settings = {name: value for name, value in vars(args).items() if name not in ("recompute", "shard", "save_every")}
    digests = {}
    for name, domain in domains.items():
        for file in ("train.bin", "val.bin"):
            digests[f"{name}/{file}"] = domain.meta["files"][file]
    return settings | {"config": vars(model.config), "device": device.type, "digests": digests,
                       "stages of --init": [entry["id"] for entry in lineage]}
