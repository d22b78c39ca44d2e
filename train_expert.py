"""Stage 1 of Branch-Train-MiX, branch and train (section 3.1): train a dense model on a mixture of domains.

    python train_expert.py --data general=70,math=10,code=10,wiki=10 --out out/seed.pt     # a seed, from scratch
    python train_expert.py --init out/seed.pt --data math=95,general=5 --out out/math.pt   # a branch of it

Branches need nothing from each other, so they can train at the same time, on one machine or on several.
A run saves its progress in NAME.progress every --save_every steps. After an interruption, the same command resumes it.
"""
import time

import torch
from tqdm import tqdm, trange

from cli import BadInput, make_parser, non_negative, non_negative_int, positive_int, run
from data.loader import check_tokenizer, get_batch, load_domains, read_mixture, read_texts
from model import GPT, GPTConfig
from support import training
from support.checkpoint import build_model, check_save_path, load_checkpoint
from support.device import autocast
from support.ledger import new_entry
from support.progress import load_progress, run_settings, save_progress, save_trained
from support.ranks import join_ranks, wrap

SHAPE = ("n_layer", "n_head", "n_embd", "d_ff", "tie_weights")  # options for a new model; a branch keeps its seed's


def parse(argv):
    """Read the options of this stage."""
    parser = make_parser(__doc__)

    group = parser.add_argument_group("files")
    group.add_argument("--out", required=True, help="checkpoint to write; each run needs its own")
    group.add_argument("--init", help="checkpoint to start from, such as the seed of a branch")
    group.add_argument("--data", type=read_mixture, required=True, help="domains and weights, as in general=70,math=30")
    group.add_argument("--data_dir", default="data/bin", help="folder that data.prepare wrote (default: %(default)s)")

    group = parser.add_argument_group("recipe (that of the paper's section 4.1, scaled down)")
    group.add_argument("--steps", type=positive_int, default=1000, help="optimizer steps (default: %(default)s)")
    group.add_argument("--batch_size", type=positive_int, default=8, help="sequences in a step (default: 8)")
    group.add_argument("--block_size", type=positive_int, help="tokens in a sequence (default: that of --init, or 128)")
    group.add_argument("--lr", type=non_negative, default=3e-3, help="peak learning rate (default: %(default)s)")
    group.add_argument("--eps", type=non_negative, default=training.EPS, help="AdamW's epsilon (default: %(default)s)")
    group.add_argument("--seed", type=non_negative_int, default=0, help="seed of weights and batches (default: 0)")

    group = parser.add_argument_group("shape of a new model (a branch keeps the shape of its seed)")
    group.add_argument("--n_layer", type=positive_int, help="layers (default: 4)")
    group.add_argument("--n_head", type=positive_int, help="attention heads (default: 4)")
    group.add_argument("--n_embd", type=positive_int, help="width (default: 128)")
    group.add_argument("--d_ff", type=positive_int, help="width inside the feed-forward (default: 352)")
    group.add_argument("--tie_weights", action="store_true", help="use the token embeddings as output head")

    group = training.add_run_options(parser)
    group.add_argument("--grad_accum", type=positive_int, default=1, help="micro-batches in a step (default: 1)")
    group.add_argument("--compile", action="store_true", help="compile the model with torch.compile")
    return parser.parse_args(argv)


def new_model(args, spec):
    """A model with new weights, in the shape that the options give. Raises BadInput for a shape that cannot work."""
    shape = {name: getattr(args, name) for name in ("block_size", *SHAPE) if getattr(args, name)}
    config = GPTConfig(vocab_size=spec["vocab_size"], **shape)
    if config.n_embd % (2 * config.n_head):
        raise BadInput(f"--n_embd {config.n_embd} must be --n_head {config.n_head} times an even number (for RoPE)")
    try:
        return GPT(config, torch.Generator().manual_seed(args.seed))
    except (MemoryError, RuntimeError):  # torch raises either
        raise BadInput("there is too little memory for this model; lower --n_layer, --n_embd or --d_ff") from None


def branch(args, checkpoint):
    """The seed's model, to be trained on a domain of its own (3.1). Its file is not changed. Raises BadInput."""
    if checkpoint["experts"]:
        raise BadInput(f"--init {args.init} is an MoE; train it with finetune_router.py")
    for name in SHAPE:
        if getattr(args, name):
            raise BadInput(f"--{name}: a branch keeps the shape of its seed, {args.init}; leave the option out")
    model = build_model(checkpoint, share=True)  # ranks on one machine share the memory of the file
    model.config.block_size = args.block_size or model.config.block_size
    return model


def main(argv=None):
    args = parse(argv)
    device, rank, n_ranks = join_ranks(args.device)
    training.check_batch_size(args.batch_size, args.grad_accum, n_ranks)
    precision = autocast(args.dtype, device)

    # the model, a branch of a seed or a new one; spec is its tokenizer, and ledger says how it was made, at what cost
    domains = load_domains(args.data_dir)
    if args.init is not None:
        checkpoint = load_checkpoint(args.init)
        spec, ledger = checkpoint["spec"], checkpoint["ledger"]
        model = branch(args, checkpoint)
    else:
        first_domain = next(iter(domains.values()))
        spec, ledger = first_domain.meta["spec"], []
        model = new_model(args, spec)

    # the data
    check_tokenizer(domains, spec, args.init or args.data_dir)
    T = model.config.block_size
    texts, windows = read_texts(domains, args.data, T, args.eval_windows)
    n_earlier_runs = training.count_runs(ledger, args.data)  # so that a second run on the same mixture reads new text

    # the optimizer; load_progress fills it and the model if a run was interrupted
    check_save_path(args.out, [args.init] if args.init else [])
    forward = wrap(model.train(), device, args.shard)  # the same model, inside DDP or FSDP2 on several GPUs
    if args.compile:
        forward = torch.compile(forward)
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
        for xs, ys in zip(x.chunk(args.grad_accum), y.chunk(args.grad_accum), strict=True):
            with precision:
                _, nll, _ = forward(xs, ys, recompute=args.recompute)
            (nll / args.grad_accum).backward()
        training.clip_gradients(optimizer)
        optimizer.step()
        optimizer.zero_grad()

        done = step + 1
        if done % eval_every == 0 or done == args.steps:
            # nll is that of the last micro-batch
            losses = training.validate(model, windows, len(x) // args.grad_accum, device, precision)
            log.append({"step": done, "tokens": done * args.batch_size * T, "lr": rate, "train_loss": nll.item(),
                        "val_loss": losses, "seconds": time.perf_counter() - began})
            tqdm.write(f"{args.out}: step {done} of {args.steps}, validation loss {training.format_numbers(losses)}")
        if done % args.save_every == 0:
            save_progress(args.out, model, optimizer, settings, done, time.perf_counter() - began, log)

    n_tokens = args.steps * args.batch_size * T
    entry = new_entry("train", args.out, ledger[-1:], tokens=n_tokens, flops=n_tokens * model.flops_per_token(),
                      seconds=(time.perf_counter() - began) * n_ranks, ranks=n_ranks, settings=settings)
    save_trained(args.out, model, spec=spec, experts=[], ledger=[*ledger, entry], log=log)


if __name__ == "__main__":
    run(main)
