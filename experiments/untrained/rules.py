"""Compare rules for the length of router rows on training seed 0, by the loss on held-out text. No task is read.

    python -m experiments.untrained.rules data/start --data_dir data/bin --router_data general,math,code,wiki
    python -m experiments.untrained.rules out/pretrained/seed0 --data_dir data/bin/pretrained \
        --router_data english,math,code,wiki --dtype bfloat16 --windows 12
"""
import torch
import torch.nn.functional as F

import mix
from cli import make_parser, positive_int, run
from data.loader import load_domains
from model import GPTConfig
from support import router_start
from support.checkpoint import build_model, load_checkpoint
from support.distributed import autocast

CPU = torch.device("cpu")


def softmax_router(inputs, penalty):
    """The router that minimizes the cross-entropy with the text's own expert, plus penalty |W|^2."""
    X = torch.cat(inputs)
    right = torch.cat([torch.full((len(x),), i) for i, x in enumerate(inputs)])
    W = torch.zeros(len(inputs), X.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([W], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(X @ W.T, right) + penalty * W.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return W.detach()


def best_softmax_router(inputs, held_out):
    """The best of three penalties on held-out text."""
    routers = [softmax_router(inputs, penalty) for penalty in (1e-5, 1e-4, 1e-3)]
    return min(routers, key=lambda W: whose_text(W, held_out))


def sharp_hidden_router(inputs, held_out):
    """Mean inputs as rows, as long as is most likely."""
    W = router_start.hidden_router([x[None] for x in inputs])
    return router_start.sharpest(W, held_out) * W


def whose_text(W, held_out):
    """The cross-entropy of SoftMax(W x) with the expert whose text x is."""
    right = torch.cat([torch.full((len(x),), i) for i, x in enumerate(held_out)])
    return F.cross_entropy(torch.cat(held_out) @ W.T, right).item()


RULES = {
    "ridge rows as they are": lambda fit, held_out: router_start.ridge_router(fit),
    "the same, 8 times as long": lambda fit, held_out: 8 * router_start.ridge_router(fit),
    "the same, 32 times as long": lambda fit, held_out: 32 * router_start.ridge_router(fit),
    "the same, as long as is most likely in each layer":
        lambda fit, held_out: router_start.sharpest(W := router_start.ridge_router(fit), held_out) * W,
    "softmax regression (LBFGS, the best of three penalties)": best_softmax_router,
    "mean inputs, as long as is most likely in each layer": sharp_hidden_router}


@torch.no_grad()
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("folder", help="with seed.pt, math.pt, code.pt and wiki.pt")
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--router_data", required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--windows", type=positive_int, default=64)
    args = parser.parse_args(argv)
    names = args.router_data.split(",")
    checkpoints = [load_checkpoint(f"{args.folder}/{name}.pt") for name in ("seed", "math", "code", "wiki")]
    config = GPTConfig(**checkpoints[0]["config"] | {"n_expert": 4})
    state = mix.mix([checkpoint["state"] for checkpoint in checkpoints], config, torch.Generator())
    model = build_model({"config": vars(config), "state": state})
    domains = load_domains(args.data_dir)
    domains.pop("switch")
    texts = [domains[name].windows(domains[name].train, config.block_size, 16)[:, :-1] for name in names]
    for rule, make_router in RULES.items():
        surprise = []  # whose text is it? in each layer

        def new_rows(inputs, make_router=make_router, surprise=surprise):
            with torch.autocast("cpu", enabled=False):
                fit, held_out = ([x[part].flatten(0, 1).float() for x in inputs] for part in (slice(12), slice(12, 16)))
                W = make_router(fit, held_out)
                surprise.append(whose_text(W, held_out))
            return W

        losses = []
        with autocast(args.dtype, CPU, keep_copies=True):
            router_start.start_routers(model, texts, new_rows)
            for domain in domains.values():
                if len(domain.val):
                    idx = domain.val_windows(config.block_size, args.windows)
                    n = config.block_size // 2
                    logits = torch.cat([model(chunk[:, :-1], n_last=n)[0].float() for chunk in idx.split(8)])
                    losses.append(F.cross_entropy(logits.flatten(0, 1), idx[:, -n:].flatten()).item())
        print(f"| {rule} | {sum(losses) / len(losses):.3f} | {sum(surprise) / len(surprise):.2f} |", flush=True)


if __name__ == "__main__":
    run(main)
