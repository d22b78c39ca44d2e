"""Stage 2 of Branch-Train-MiX, mix (section 3.2): several dense checkpoints become one mixture-of-experts checkpoint.

    python mix.py out/seed.pt out/math.pt out/code.pt out/wiki.pt --out out/btx_mixed.pt --top_k 2

The feed-forwards become the experts of each layer, in the order of the files. Routers are new. All else is averaged.
With --average the feed-forwards are averaged, too. The result is dense: a baseline that shows what the experts add.
N copies of one file give the initial model of sparse upcycling (Komatsuzaki et al. 2023).
"""
import dataclasses

import torch

from cli import BadInput, make_parser, non_negative_int, number_from, positive_int, run
from data.loader import check_tokenizer, load_domains
from model import FIXED, GPT, ROUTERS, GPTConfig, is_feed_forward, is_router, new_router
from support.checkpoint import check_branches, check_save_path, load_checkpoint, model_names, save_checkpoint
from support.ledger import join_ledgers, new_entry
from support.router_start import compare_models, start_from_text


def parse(argv):
    """Read the options of this stage. Raises BadInput for options that do not go together."""
    parser = make_parser(__doc__)
    parser.add_argument("models", nargs="+", help="branches of one seed, and the seed itself as a generalist")
    parser.add_argument("--out", required=True, help="checkpoint to write")
    parser.add_argument("--routing", choices=ROUTERS, default="topk", help="router (section 3.3; default: topk)")
    parser.add_argument("--top_k", type=positive_int, help="experts that compute each token (default: 2)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--split", type=positive_int, default=1, metavar="C", help="cut a feed-forward into C experts")
    how.add_argument("--blend", action="store_true", help="make each expert from equal parts of all feed-forwards")
    how.add_argument("--average", action="store_true", help="average the feed-forwards, too; the result is dense")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="seed of the new routers (default: 0)")
    group = parser.add_argument_group("routers that start from text (not in the paper)")
    group.add_argument("--router_data", metavar="DOMAINS", help="a domain for each model, as in general,math,code; "
                       "without --ridge, each router row starts as its layer's mean input on that text")
    group.add_argument("--ridge", action="store_true", help="with --router_data: compute the rows by ridge regression")
    group.add_argument("--sharpness", type=number_from(1, float), metavar="S", help="with --ridge: multiply rows by S "
                       "(default: in each layer, the S that best predicts the domain of held-out text)")
    group.add_argument("--data_dir", default="data/bin", help="folder of these domains (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.top_k and args.routing in FIXED:
        raise BadInput(f"--top_k: --routing {args.routing} fixes the number of experts; leave --top_k out")
    if args.ridge and args.router_data is None:
        raise BadInput("--ridge: also name the domains that the routers tell apart, with --router_data")
    if args.sharpness is not None and not args.ridge:
        raise BadInput("--sharpness multiplies the rows of --ridge; add --ridge, or leave --sharpness out")
    if args.router_data is not None:
        args.router_data = args.router_data.split(",")
        if args.blend:
            raise BadInput("--router_data cannot be used with --blend, whose experts have parts of all domains")
        if not len(set(args.models)) == len(args.models) == len(args.router_data) == len(set(args.router_data)):
            raise BadInput("--router_data: name a different domain for each model, and no model twice")
    if args.average and (args.routing != "topk" or args.top_k or args.router_data is not None):
        raise BadInput("--routing, --top_k and --router_data are for an MoE; leave them out, or leave out --average")
    return args


def average(tensors):
    """The mean of N tensors of one shape, in float32."""
    return sum(t.float() for t in tensors) / len(tensors)


def d_ff_axis(name):
    """The axis of a feed-forward's matrix that is d_ff wide: w_gate and w_up are (d_ff, D), w_down is (D, d_ff)."""
    return 1 if name.endswith("w_down") else 0


def split(name, tensors, C):
    """Cut each of N matrices along d_ff into C experts (3.3). Returns (N*C, *shape), float32.

    FF(x) is the sum of its chunks' outputs, but the gates of its C chunks sum to at most 1. With gates of 1/C they give
    FF(x)/C, so w_down is multiplied by C. The paper does not say how it scales the chunks.
    """
    chunks = [chunk for t in tensors for chunk in t.float().chunk(C, dim=d_ff_axis(name))]
    if name.endswith("w_down"):
        chunks = [C * chunk for chunk in chunks]
    return torch.stack(chunks)


def blend(name, tensors):
    """Cut each of N matrices along d_ff into N chunks; expert n consists of the n-th chunk of each matrix (3.3).

    If all N gates are 1/N, the layer computes the same as without blending. Returns (N, *shape), float32.
    """
    axis = d_ff_axis(name)
    chunks = [t.float().chunk(len(tensors), axis) for t in tensors]
    return torch.stack([torch.cat(parts, axis) for parts in zip(*chunks, strict=True)])


def rule_for(name, feed_forwards="stacked"):
    """How a tensor is made, by its name (3.2): "new", "averaged", or, for a feed-forward's, `feed_forwards`."""
    if is_router(name):
        return "new"
    if is_feed_forward(name):
        return feed_forwards
    return "averaged"


def mix(states, config, generator, feed_forwards="stacked"):
    """The state dict, in float32, of the mixed model (3.2), whose GPTConfig is `config`.

    states: state dicts of dense models. feed_forwards: "stacked", "averaged", "split" or "blended".
    """
    with torch.device("meta"):  # only its names are needed, so no weights are drawn
        names = GPT(config).state_dict().keys()
    mixed = {}
    for name in names:
        rule = rule_for(name, feed_forwards)
        if rule == "new":
            mixed[name] = new_router(config.n_expert, config.n_embd, generator)  # (N, D)
            continue
        tensors = [state[name] for state in states]
        if rule == "averaged":
            mixed[name] = average(tensors)
        elif rule == "stacked":
            mixed[name] = torch.stack([t.float() for t in tensors])  # (N, *shape)
        elif rule == "split":
            mixed[name] = split(name, tensors, C=config.n_expert // len(states))
        elif rule == "blended":
            mixed[name] = blend(name, tensors)
    return mixed


def plan(args, config):
    """The names of the experts, what becomes of the feed-forwards, and the mixed model's GPTConfig. Raises BadInput.

    config: the GPTConfig of the dense models.
    """
    names = model_names(args.models)
    if args.average:
        feed_forwards, experts = "averaged", []
    elif args.blend:  # each expert has one chunk of every model
        feed_forwards, experts = "blended", [f"blend.{n + 1}" for n in range(len(names))]
    elif args.split > 1:
        feed_forwards, experts = "split", [f"{name}.{c + 1}" for name in names for c in range(args.split)]
    else:
        feed_forwards, experts = "stacked", names
    n_chunks = len(names) if args.blend else args.split  # of each feed-forward
    if config.d_ff % n_chunks:
        raise BadInput(f"--split, --blend: d_ff {config.d_ff} cannot be cut into {n_chunks} equal parts")
    config = dataclasses.replace(config, d_ff=config.d_ff // args.split, n_expert=len(experts), routing=args.routing,
                                 top_k=args.top_k or 2)
    if experts and config.routing not in FIXED and not 2 <= config.top_k <= len(experts):
        raise BadInput(f"--top_k {config.top_k}: choose from 2 to {len(experts)}, the number of experts; with 1, the "
                       "gate would always be 1, and the router would learn nothing; for one expert per token, use "
                       "--routing switch or sample")
    return experts, feed_forwards, config


def main(argv=None):
    args = parse(argv)
    checkpoints = [load_checkpoint(path) for path in args.models]
    check_branches(args.models, checkpoints)
    first = checkpoints[0]

    experts, feed_forwards, config = plan(args, GPTConfig(**first["config"]))
    check_save_path(args.out, args.models)

    # the weights
    states = [checkpoint["state"] for checkpoint in checkpoints]
    mixed = mix(states, config, torch.Generator().manual_seed(args.seed), feed_forwards)
    settings = dict(vars(args))
    if args.router_data:
        domains = load_domains(args.data_dir, args.router_data)
        check_tokenizer(domains, first["spec"], args.models[0])
        mixed = start_from_text(mixed, config, [*domains.values()], args.split, args.ridge, args.sharpness)
        compare_models(args.models, checkpoints, domains)
        settings["digests"] = {name: domain.meta["files"]["train.bin"] for name, domain in domains.items()}
    for name, tensor in mixed.items():
        if name.startswith("blocks.0.") or "blocks." not in name:  # all layers have the same tensors
            all_layers = name.replace("blocks.0.", "blocks.*.")
            print(f"{rule_for(name, feed_forwards):<10}{all_layers:<32}{tuple(tensor.shape)}")

    ledgers = [checkpoint["ledger"] for checkpoint in checkpoints]
    entry = new_entry("average" if args.average else "mix", args.out, [ledger[-1] for ledger in ledgers],
                      settings=settings, config=vars(config), experts=experts)
    save_checkpoint(args.out, {"state": mixed, "config": vars(config), "spec": first["spec"], "experts": experts,
                               "ledger": [*join_ledgers(ledgers), entry], "log": []})
    print(f"wrote {args.out}")


if __name__ == "__main__":
    run(main)
