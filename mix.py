"""Stage 2 of Branch-Train-MiX, mix (3.2): several dense checkpoints become one mixture-of-experts checkpoint.

    python mix.py out/seed.pt out/math.pt out/code.pt out/wiki.pt --out out/btx_mixed.pt --top_k 2

The feed-forwards become the experts of each layer, in the order of the files. All else is averaged. Routers are new.
With --soup the feed-forwards are averaged, too. The result is dense: a baseline that shows what the experts are for.
N copies of one file make the start of sparse upcycling (Komatsuzaki et al. 2023).
The first file may be an MoE; it then gets the others as further experts (not in the paper).
"""
from pathlib import Path

import torch

from cli import BadInput, make_parser, non_negative_int, positive_int, run
from model import GPT, ROUTERS, GPTConfig, new_router
from support.checkpoint import check_branches, check_save_path, load_checkpoint, save_checkpoint
from support.ledger import join_ledgers, new_entry
from support.routers import check_options, keep_rows, start_from_text, unmix


def parse(argv):
    """The options of this stage."""
    parser = make_parser(__doc__)
    parser.add_argument("models", nargs="+", help="branches of one seed, and the seed itself as generalist")
    parser.add_argument("--out", required=True, help="checkpoint to write")
    parser.add_argument("--routing", choices=tuple(ROUTERS), default="topk", help="router (3.3) (default: topk)")
    parser.add_argument("--top_k", type=positive_int, help="experts that topk computes for each token (default: 2)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--split", type=positive_int, default=1, metavar="C", help="cut each feed-forward into C (3.3)")
    how.add_argument("--blend", action="store_true", help="make each expert of equal parts of all feed-forwards (3.3)")
    how.add_argument("--soup", action="store_true", help="average the feed-forwards, too: a dense model")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of the new routers (default: 0)")
    group = parser.add_argument_group("routers that start from text (not in the paper)")
    group.add_argument("--router_data", metavar="DOMAINS", help="a domain for each model, as in general,math,code: "
                       "router rows start as the mean inputs of their layers on that text, not at random")
    group.add_argument("--ridge", action="store_true", help="with --router_data: compute the rows by ridge regression")
    group.add_argument("--sharpness", type=float, help="with --ridge: times its rows (default: the likeliest)")
    group.add_argument("--data_dir", default="data/bin", help="prepared data of --router_data (default: %(default)s)")
    return parser.parse_args(argv)


def average(tensors):
    """The mean of N tensors of one shape, in float32."""
    return sum(t.float() for t in tensors) / len(tensors)


def d_ff_axis(name):
    """The axis of a feed-forward's matrix that is d_ff wide: w_gate and w_up are (d_ff, D), w_down is (D, d_ff)."""
    return 1 if name.endswith("w_down") else 0


def split(name, tensors, C):
    """Cut each of N matrices along d_ff into C experts (3.3). Returns (N*C, *shape), float32.

    FF(x) is the sum of its chunks' outputs, but the gates of its C chunks sum to 1 at most: with gates of 1/C they give
    FF(x)/C. So w_down is multiplied by C. The paper does not say how it scales.
    """
    chunks = [chunk for t in tensors for chunk in t.float().chunk(C, dim=d_ff_axis(name))]
    if name.endswith("w_down"):
        chunks = [C * chunk for chunk in chunks]
    return torch.stack(chunks)


def blend(name, tensors):
    """Cut each of N matrices along d_ff into N chunks; expert n is made of everybody's n-th chunk (3.3).

    With all N experts at gate 1/N the layer gives the same as unblended. Returns (N, *shape), float32.
    """
    axis = d_ff_axis(name)
    chunks = [t.float().chunk(len(tensors), axis) for t in tensors]
    return torch.stack([torch.cat(parts, axis) for parts in zip(*chunks, strict=True)])


def rule_for(name):
    """The rule for a tensor of the mixed model, by its name: "new", "expert" or "averaged" (3.2)."""
    if name.endswith(".ff.router"):
        return "new"
    if ".ff." in name:
        return "expert"
    return "averaged"


def mix(states, config, generator, feed_forwards="stacked"):
    """The state dict, in float32, of the mixed model (3.2), whose GPTConfig is `config`.

    states: state dicts of dense models. feed_forwards: what they become, stacked, averaged, split or blended.
    """
    with torch.device("meta"):  # for its names; no numbers are drawn
        names = GPT(config).state_dict().keys()
    mixed = {}
    for name in names:
        rule = rule_for(name)
        if rule == "new":
            mixed[name] = new_router(config.n_expert, config.n_embd, generator)  # (N, D)
            continue
        tensors = [state[name] for state in states]
        if rule == "averaged" or feed_forwards == "averaged":
            mixed[name] = average(tensors)
        elif feed_forwards == "stacked":
            mixed[name] = torch.stack([t.float() for t in tensors])  # (N, *shape)
        elif feed_forwards == "split":
            mixed[name] = split(name, tensors, C=config.n_expert // len(states))
        else:
            mixed[name] = blend(name, tensors)
    return mixed


def expert_names(args, first):
    """The experts' names: as their files are called; math.1, math.2 if split; blend.1, blend.2 if blended."""
    names = list(first["experts"])
    paths = args.models[1:] if names else args.models  # the experts of a first file that is an MoE keep their names
    for path in paths:
        name, n = Path(path).stem, 1
        while name in names:  # copies of one file: seed, seed_2, seed_3
            n += 1
            name = f"{Path(path).stem}_{n}"
        names.append(name)
    if args.blend:
        return [f"blend.{n + 1}" for n in range(len(names))]
    if args.split > 1:
        return [f"{name}.{c + 1}" for name in names for c in range(args.split)]
    return names


def main(argv=None):
    args = parse(argv)
    checkpoints = [load_checkpoint(path) for path in args.models]
    check_branches(args.models, checkpoints)
    first = checkpoints[0]
    check_options(args, first)

    # the mixed model's shape
    experts = expert_names(args, first)
    feed_forwards = "stacked"
    if args.soup:
        feed_forwards, experts = "averaged", []
    elif args.blend:
        feed_forwards = "blended"
    elif args.split > 1:
        feed_forwards = "split"
    config = GPTConfig(**first["config"])
    n_chunks = len(checkpoints) if args.blend else args.split
    if config.d_ff % n_chunks:
        raise BadInput(f"--split, --blend: d_ff {config.d_ff} cannot be cut into {n_chunks} equal parts")
    if not first["experts"]:  # an MoE keeps its routing when it gets further experts
        config.routing = args.routing
        config.top_k = args.top_k or 2
        config.d_ff = config.d_ff // args.split
    config.n_expert = len(experts)
    if experts and config.routing == "topk" and not 2 <= config.top_k <= len(experts):
        raise BadInput(f"--top_k {config.top_k}: choose from 2 to {len(experts)}, the number of experts; with 1 the "
                       "gate would always be 1, and the router would learn nothing")

    # its weights
    check_save_path(args.out, args.models)
    states = [checkpoint["state"] for checkpoint in checkpoints]
    if first["experts"]:
        states = [*unmix(first["state"]), *states[1:]]
    mixed = mix(states, config, torch.Generator().manual_seed(args.seed), feed_forwards)
    settings = vars(args)
    if first["experts"]:
        keep_rows(mixed, first["state"])
    if args.router_data:
        mixed, settings["digests"] = start_from_text(args, first, config, mixed)
    for name, tensor in mixed.items():
        rule = rule_for(name)
        if rule == "expert":
            rule = feed_forwards
        if name.startswith("blocks.0.") or "blocks." not in name:  # all layers have the same tensors
            print(f"{rule:<10}{name.replace('blocks.0.', 'blocks.*.'):<32}{tuple(tensor.shape)}")

    ledgers = [checkpoint["ledger"] for checkpoint in checkpoints]
    entry = new_entry("average" if args.soup else "mix", args.out, [ledger[-1]["id"] for ledger in ledgers],
                      settings=settings, config=vars(config), experts=experts)
    save_checkpoint(args.out, {"state": mixed, "config": vars(config), "spec": first["spec"], "experts": experts,
                               "ledger": [*join_ledgers(ledgers), entry], "log": []})
    print(f"wrote {args.out}")


if __name__ == "__main__":
    run(main)
