"""Helpers for both training loops: options, the learning rate, the optimizer, and validation."""
import math

import numpy as np
import torch

from cli import BadInput, positive_int
from model import mean_gates_and_probs

# These are Llama-2's (Touvron et al. 2023, section 2.2); the paper states no betas, epsilon or clipping. With torch's
# eps of 1e-8, averaging the branches' output heads is costly; see docs/differences.md.
BETAS = (0.9, 0.95)
EPS = 1e-5
CLIP = 1.0          # largest norm of the gradient
WEIGHT_DECAY = 0.1  # the paper's (4.1), but on matrices only
WARMUP = 0.05       # share of warm-up steps; the paper warms up for 100 of 10,000 to 50,000 steps


def add_run_options(parser):
    """Add the options of both loops that say how a run is saved, logged and computed. Returns their last group."""
    group = parser.add_argument_group("logging and saving")
    group.add_argument("--eval_every", type=positive_int, help="steps between validations (default: --steps / 10)")
    group.add_argument("--eval_windows", type=positive_int, default=16, help="held-out texts per domain (default: 16)")
    group.add_argument("--save_every", type=positive_int, default=500, help="steps between saves (default: 500)")

    group = parser.add_argument_group("device and memory")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, mps ... (default: auto)")
    group.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto",
                       help="type of matrix products; auto is bfloat16 on a GPU that supports it (default: auto)")
    group.add_argument("--recompute", action="store_true", help="save memory by computing activations twice")
    group.add_argument("--shard", action="store_true", help="under torchrun: divide the weights among GPUs (FSDP2)")
    return group


def learning_rate(step, steps, peak):
    """Linear warm-up over a share WARMUP of the steps, then a cosine from the peak to a tenth of it (4.1)."""
    n_warmup = math.ceil(WARMUP * steps)
    if step < n_warmup:
        return peak * (step + 1) / n_warmup
    progress = (step - n_warmup) / max(1, steps - 1 - n_warmup)
    return peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))


def set_learning_rate(optimizer, step, steps, peak):
    """Set the optimizer's learning rate for this step, and return it."""
    rate = learning_rate(step, steps, peak)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def make_optimizer(model, lr, eps):
    """Make an AdamW for the trainable parameters. The norms' vectors have no weight decay (4.1)."""
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups = [{"params": [p for name, p in params.items() if "norm" not in name], "weight_decay": WEIGHT_DECAY},
              {"params": [p for name, p in params.items() if "norm" in name], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=BETAS, eps=eps, fused=True)


def clip_gradients(optimizer):
    """Scale all gradients down so that their norm is at most CLIP."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(params, CLIP)


def count_runs(ledger, mixture):
    """Count the runs in a model's ledger that read this mixture. get_batch draws new rows for each run."""
    return sum(entry["settings"].get("data") == mixture for entry in ledger)


def step_generator(device, *key):
    """Make a random generator for one step. The same key, such as (seed, run, step, rank), gives the same numbers."""
    seed = np.random.SeedSequence(key).generate_state(1)[0]
    return torch.Generator(device).manual_seed(int(seed))


def check_batch_size(batch_size, grad_accum, n_ranks):
    """Raise BadInput unless a batch can be cut into equal parts, grad_accum of them for each GPU."""
    if batch_size % (grad_accum * n_ranks):
        raise BadInput(f"--batch_size {batch_size} must be a multiple of --grad_accum {grad_accum} times the number of "
                       f"GPUs, {n_ranks}")


@torch.no_grad()
def batch_means(forward, parts, noises, precision):
    """Measure U and P, the means of gates and probabilities over a batch in equal parts, (n_layer, N) each.

    Each part then has the loss N sum_i U_i P_i, with the gradient N sum_i (U_i dp_i + P_i du_i), in which u and p are
    the part's own means. The mean of these gradients over all parts is the gradient for the whole batch.
    parts: token ids, (B, T) each; noises: the noise of each part; precision: see support/device.py's autocast.
    """
    us, ps = [], []
    for xs, noise in zip(parts, noises, strict=True):
        with precision:
            _, _, routing = forward(xs, noise=noise, n_last=1)
        u, p = mean_gates_and_probs(routing)
        us.append(u)
        ps.append(p)
    return torch.stack(us).mean(0), torch.stack(ps).mean(0)


@torch.no_grad()
def validate(model, windows, batch_size, device, precision):
    """Compute {domain: mean loss in nats} on windows, {domain: (n, T + 1)}. Raises BadInput if a loss is not finite."""
    model.eval()
    losses = {}
    for name, rows in windows.items():
        total = 0.0
        for chunk in rows.to(device).split(batch_size):
            with precision:
                _, loss, _ = model(chunk[:, :-1], chunk[:, 1:])
            total += loss.item() * len(chunk)
        losses[name] = total / len(rows)
        if not math.isfinite(total):
            raise BadInput("the loss is not finite any more; lower --lr, or --alpha in finetuning, or "
                           "try a larger --eps")
    model.train()
    return losses


def format_numbers(numbers):
    """Format {"math": 0.5, "code": 0.25} as "math 0.500 code 0.250"."""
    return " ".join(f"{name} {number:.3f}" for name, number in numbers.items())
