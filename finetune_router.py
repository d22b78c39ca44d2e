"""Stage 3 of Branch-Train-MiX, MoE finetuning (section 3.2): train all weights of the mixed model, routers included.

    python finetune_router.py --init out/btx_mixed.pt --out out/btx.pt

A run saves its progress in NAME.progress every --save_every steps. After an interruption, the same command resumes it.
"""
import math
import time

from tqdm import tqdm, trange

from cli import BadInput, make_parser, non_negative, non_negative_int, positive_int, run
from data.loader import check_tokenizer, get_batch, load_domains, read_mixture, read_texts
from model import gumbel, is_feed_forward, is_router, load_balancing_loss, mean_gates_and_probs
from support import fast, training
from support.checkpoint import build_model, check_save_path, load_checkpoint
from support.device import autocast
from support.ledger import new_entry
from support.progress import load_progress, run_settings, save_progress, save_trained
from support.ranks import join_ranks, wrap

PAPER_MIXTURE = "general=0.1923,math=0.3016,code=0.4031,wiki=0.1030"  # section 4.1


def parse(argv):
    """Read the options of this stage."""
    parser = make_parser(__doc__)

    group = parser.add_argument_group("files")
    group.add_argument("--out", required=True, help="checkpoint to write; each run needs its own")
    group.add_argument("--init", required=True, help="an MoE, such as one that mix.py wrote")
    group.add_argument("--data", type=read_mixture, default=PAPER_MIXTURE,
                       help="domains and weights (default: the paper's)")
    group.add_argument("--data_dir", default="data/bin", help="folder that data.prepare wrote (default: %(default)s)")

    group = parser.add_argument_group("recipe (that of the paper's section 4.1, scaled down)")
    group.add_argument("--steps", type=positive_int, default=1000, help="optimizer steps (default: %(default)s)")
    group.add_argument("--batch_size", type=positive_int, default=8, help="sequences in a step (default: 8)")
    group.add_argument("--block_size", type=positive_int, help="tokens in a sequence (default: that of --init)")
    group.add_argument("--lr", type=non_negative, default=1e-3, help="peak learning rate (default: %(default)s)")
    group.add_argument("--eps", type=non_negative, default=training.EPS, help="AdamW's epsilon (default: %(default)s)")
    group.add_argument("--train", choices=("all", "router", "all-but-experts"), default="all",
                       help="what to train; all-but-experts freezes the experts' feed-forwards (default: all)")
    group.add_argument("--seed", type=non_negative_int, default=0, help="seed of batches and noise (default: 0)")

    group = parser.add_argument_group("load balancing (section 3.3)")
    group.add_argument("--alpha", type=non_negative, default=0.01, help="weight of the balancing loss (default: 0.01)")

    group = training.add_run_options(parser)
    group.add_argument("--grad_accum", type=positive_int, default=1,
                       help="cut a batch into N parts, to save memory; costs a third more; first try --recompute")
    group.add_argument("--fast", action="store_true", help="one call per matrix for all experts (support/fast.py)")
    return parser.parse_args(argv)


def freeze(model, what):
    """Freeze all but `what`: "all", the routers alone ("router"), or "all-but-experts" (frozen experts in Table 5)."""
    if what == "all":
        return
    for name, p in model.named_parameters():
        if what == "router":
            p.requires_grad = is_router(name)
        else:
            p.requires_grad = not is_feed_forward(name)


def temperature(share):
    """tau of Sample Top-1 (3.3) after this share of the steps: max(0.5, exp(-r t)), as in Jang et al. 2016.

    The paper prints max(0.5, -r t), which is always 0.5. Here r t = 1e-4 * 40,000 * share = 4 * share, whatever the
    length of the run.
    """
    r, t = 1e-4, 40_000 * share
    return max(0.5, math.exp(-r * t))


def draw_noise(config, n_tokens, share, generator):
    """The Noise of each layer for n_tokens tokens, after this share of the steps; None, except for Sample Top-1."""
    if config.routing != "sample":
        return None
    return gumbel(config, n_tokens, temperature(share), generator)


def main(argv=None):
    args = parse(argv)
    device, rank, n_ranks = join_ranks(args.device)
    training.check_batch_size(args.batch_size, args.grad_accum, n_ranks)
    precision = autocast(args.dtype, device)

    # the mixed model: spec is its tokenizer, experts has its experts' names, and ledger says how it was made
    domains = load_domains(args.data_dir)
    checkpoint = load_checkpoint(args.init)
    spec, experts, ledger = checkpoint["spec"], checkpoint["experts"], checkpoint["ledger"]
    if not experts:
        raise BadInput(f"--init {args.init} is a dense model without a router; first mix several models with mix.py")
    model = build_model(checkpoint, share=True)  # ranks on one machine share the memory of the file
    config = model.config
    config.block_size = args.block_size or config.block_size
    freeze(model, args.train)
    if args.fast:
        fast.install(model)

    # the data
    check_tokenizer(domains, spec, args.init)
    T = config.block_size
    texts, windows = read_texts(domains, args.data, T, args.eval_windows)
    n_earlier_runs = training.count_runs(ledger, args.data)  # so that a second run on the same mixture reads new text

    # the optimizer; load_progress fills it and the model if a run was interrupted
    check_save_path(args.out, [args.init])
    forward = wrap(model.train(), device, args.shard)  # the same model, inside DDP or FSDP2 on several GPUs
    optimizer = training.make_optimizer(model, args.lr, args.eps)
    settings = run_settings(args, model, ledger, domains, device)
    start, seconds, log = load_progress(args.out, model, optimizer, settings)
    began = time.perf_counter() - seconds  # so that the time before an interruption counts, too
    eval_every = args.eval_every or max(1, args.steps // 10)

    for step in trange(start, args.steps, initial=start, total=args.steps, desc=args.out):
        rate = training.set_learning_rate(optimizer, step, args.steps, args.lr)
        key = args.seed, n_earlier_runs, step
        x, y = get_batch(texts, args.data, (args.batch_size, T), key, rank, n_ranks)  # (B, T)
        x, y = x.to(device), y.to(device)
        generator = training.step_generator(device, *key, rank)
        x_parts, y_parts = x.chunk(args.grad_accum), y.chunk(args.grad_accum)
        noises = [draw_noise(config, xs.numel(), step / args.steps, generator) for xs in x_parts]  # Sample Top-1 (3.3)
        if args.grad_accum > 1:  # a first pass measures the whole batch, so that its load is balanced, not each part's
            U, P = training.batch_means(forward, x_parts, noises, precision)  # (n_layer, N) each
        for xs, ys, noise in zip(x_parts, y_parts, noises, strict=True):
            with precision:
                _, nll, routing = forward(xs, ys, noise=noise, recompute=args.recompute)
            u, p = mean_gates_and_probs(routing)  # (n_layer, N) each
            if args.grad_accum > 1:  # the means of the whole batch, with the gradients of this part's
                u, p = u + (U - u).detach(), p + (P - p).detach()
            loss = nll + args.alpha * load_balancing_loss(u, p)  # (3.3)
            (loss / args.grad_accum).backward()
        training.clip_gradients(optimizer)
        optimizer.step()
        optimizer.zero_grad()

        done = step + 1
        if done % eval_every == 0 or done == args.steps:
            # nll is that of the last micro-batch; balance is 1 for equal loads in Top-k, and N if one expert has all
            losses = training.validate(model, windows, len(x) // args.grad_accum, device, precision)
            load = dict(zip(experts, u.mean(0).tolist(), strict=True))
            balance = load_balancing_loss(u, p).item() / config.n_layer
            log.append({"step": done, "tokens": done * args.batch_size * T, "lr": rate, "train_loss": nll.item(),
                        "val_loss": losses, "seconds": time.perf_counter() - began, "load": load, "balance": balance})
            tqdm.write(f"{args.out}: step {done} of {args.steps}, load {training.format_numbers(load)}, "
                       f"balance {balance:.2f}, validation loss {training.format_numbers(losses)}")
        if done % args.save_every == 0:
            save_progress(args.out, model, optimizer, settings, done, time.perf_counter() - began, log)

    n_tokens = args.steps * args.batch_size * T
    flops = n_tokens * model.flops_per_token()
    if args.grad_accum > 1:
        flops += flops // 3  # the first pass over each batch, which has no backward pass
    entry = new_entry("finetune", args.out, ledger[-1:], tokens=n_tokens, flops=flops,
                      seconds=(time.perf_counter() - began) * n_ranks, ranks=n_ranks, settings=settings)
    save_trained(args.out, model, spec=spec, experts=experts, ledger=[*ledger, entry], log=log)


if __name__ == "__main__":
    run(main)
