"""Stage 2 of Branch-Train-MiX, mix (3.2): several dense checkpoints become one mixture-of-experts checkpoint.

    python mix.py out/seed.pt out/math.pt out/code.pt out/wiki.pt --out out/btx_mixed.pt --top_k 2

The feed-forwards become the experts of each layer, in the order of the files. All else is averaged. Routers are new.
With --soup the feed-forwards are averaged, too. The result is dense: a baseline that shows what the experts are for.
N copies of one file make the start of sparse upcycling (Komatsuzaki et al. 2023).
The first file may be an MoE. It keeps its experts and its routers' rows, and the other files become further experts.
"""
from pathlib import Path

import torch
from torch.nn.functional import normalize

from data.common import BadInput, make_parser, non_negative_int, positive_int, run
from data.loader import check_tokenizer, first_windows, load_domains
from model import GPT, ROUTERS, GPTConfig, new_router, rope_angles
from support import checkpoint, ledger


def parse(argv):
    """The options of this stage."""
    parser = make_parser(__doc__)
    parser.add_argument("models", nargs="+", help="branches of one seed, and the seed itself as generalist")
    parser.add_argument("--out", required=True, help="checkpoint to write")
    parser.add_argument("--routing", choices=tuple(ROUTERS), help="router (3.3) (default: topk)")
    parser.add_argument("--top_k", type=positive_int, help="experts that topk computes for each token (default: 2)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--split", type=positive_int, default=1, metavar="C", help="cut each feed-forward into C (3.3)")
    how.add_argument("--blend", action="store_true", help="make each expert of equal parts of all feed-forwards (3.3)")
    how.add_argument("--soup", action="store_true", help="average the feed-forwards, too: a dense model")
    parser.add_argument("--router_data", metavar="DOMAINS",
                        help="a domain for each model, as in general,math,code,wiki: a router row starts as the mean "
                             "input of its layer on that text, instead of random")
    parser.add_argument("--ridge", action="store_true",
                        help="with --router_data: a router starts as the ridge regression that tells the texts apart")
    parser.add_argument("--data_dir", default="data/bin", help="prepared data of --router_data (default: %(default)s)")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of the new routers (default: %(default)s)")
    return parser.parse_args(argv)


def average(tensors):
    """The mean of N tensors of one shape, in float32."""
    return sum(t.float() for t in tensors) / len(tensors)


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


def d_ff_axis(name):
    """The axis of a feed-forward's matrix that is d_ff wide: w_gate and w_up are (d_ff, D), w_down is (D, d_ff)."""
    return 1 if name.endswith("w_down") else 0


def rule_for(name, feed_forwards="stacked"):
    """The rule for a tensor of the mixed model, by its name: "new", "averaged", or what the feed-forwards become."""
    if name.endswith(".ff.router"):
        return "new"
    if ".ff." in name:
        return feed_forwards
    return "averaged"


def mix(models, config, generator, feed_forwards="stacked"):
    """The state dict, in float32, of the mixed model (3.2), whose GPTConfig is `config`.

    models: state dicts of dense models. feed_forwards: what they become, "stacked", "averaged", "split" or "blended".
    """
    with torch.device("meta"):  # for its names; no numbers are drawn
        names = GPT(config).state_dict().keys()
    mixed = {}
    for name in names:
        tensors = [model[name] for model in models if name in model]
        rule = rule_for(name, feed_forwards)
        if rule == "new":
            mixed[name] = new_router(config.n_expert, config.n_embd, generator)  # (N, D)
            for i, row in enumerate(tensors):  # the experts of an MoE keep their rows, see unmix
                mixed[name][i] = row
        elif rule == "averaged":
            mixed[name] = average(tensors)
        elif rule == "stacked":
            mixed[name] = torch.stack([t.float() for t in tensors])  # (N, *shape)
        elif rule == "split":
            mixed[name] = split(name, tensors, config.n_expert // len(tensors))
        else:
            mixed[name] = blend(name, tensors)
    return mixed


def unmix(model):
    """The state dict of an MoE as N dense ones: each has one expert, its router row, and all that is shared."""
    models = []
    for i in range(len(model["blocks.0.ff.router"])):
        own = {name: t[i] for name, t in model.items() if ".ff." in name}
        models.append({**model, **own})
    return models


def hidden_router(inputs):
    """A router (N, D) whose row i is the mean input of expert i's domain. inputs: (M_i, D) for each expert.

    What the rows have in common would add the same to all logits, so it is subtracted. Then each row is scaled to
    length 1. The idea is that of mergekit's hidden_avg gates.
    """
    means = torch.stack([x.mean(0) for x in inputs])  # (N, D)
    return normalize(means - means.mean(0), dim=1)


def ridge_router(inputs, penalty=1.0):
    """Ridge regression from a layer's inputs to the expert of their domain. inputs: (M_i, D) for each expert.

    The router W, (N, D), minimises sum |W x - e_i|^2 + penalty |W|^2 over the inputs x of all experts i. e_i is 1 for
    expert i and 0 for the others. The idea is that of DUME (arXiv 2603.29765).
    """
    X = torch.cat(inputs)  # (M, D)
    experts = torch.eye(len(inputs))
    targets = torch.cat([e_i.expand(len(x), -1) for e_i, x in zip(experts, inputs, strict=True)])  # (M, N)
    return torch.linalg.solve(X.T @ X + penalty * torch.eye(X.shape[1]), X.T @ targets).T


@torch.no_grad()
def start_routers(model, windows, new_rows):
    """Set the routers of the MoE `model` from the inputs of their layers, first layer to last.

    windows: for each expert the text to read, (n, T) int64; new_rows: hidden_router or ridge_router.
    """
    streams = [model.embed(idx) for idx in windows]  # an (n, T, D) for each expert
    angles = rope_angles(model.config, 0, windows[0].shape[1], windows[0].device)
    for block in model.blocks:
        streams = [x + block.attn(block.attn_norm(x), angles) for x in streams]
        block.ff.router.copy_(new_rows([block.ff_norm(x).flatten(0, 1) for x in streams]))
        streams = [x + block.ff(block.ff_norm(x))[0] for x in streams]


def expert_names(args, first):
    """The experts' names: as their files are called; math.1, math.2 if split; blend.1, blend.2 if blended."""
    names = list(first["experts"])
    paths = args.models
    if names:  # the first file is an MoE, whose experts keep their names
        paths = paths[1:]
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


def router_texts(args, first, domains):
    """For --router_data the text behind each router row, (n, T) int64 for each expert. Raises BadInput."""
    names = args.router_data.split(",")
    if args.blend or len(names) != len(args.models):
        raise BadInput("--router_data must name a domain for each model, and does not go with --blend")
    check_tokenizer(domains, first["tokenizer"], args.models[0])
    T = first["config"]["block_size"]
    windows = [first_windows(domains[name].train, T, 16)[:, :-1] for name in names]  # (16, T) each
    return [text for text in windows for _ in range(args.split)]  # the chunks of one expert read the same


def main(argv=None):
    args = parse(argv)
    models = [checkpoint.load(path) for path in args.models]
    checkpoint.check_branches(args.models, models)
    first = models[0]
    if args.ridge and not args.router_data:
        raise BadInput("--ridge: name the text to tell apart with --router_data")
    if (first["experts"] or args.soup) and (args.routing or args.top_k or args.router_data):
        raise BadInput("--routing, --top_k, --router_data are for a new mixture, not for a soup or an MoE that grows")
    if first["experts"] and (args.soup or args.blend or args.split > 1):
        raise BadInput(f"{args.models[0]} is a mixture of experts; models are added to it as they are, without options")
    experts = expert_names(args, first)
    feed_forwards = "stacked"
    if args.soup:
        feed_forwards, experts = "averaged", []
    elif args.blend:
        feed_forwards = "blended"
    elif args.split > 1:
        feed_forwards = "split"

    # the mixed model's shape
    n_chunks = len(models) if args.blend else args.split
    if first["config"]["d_ff"] % n_chunks:
        raise BadInput(f"--split, --blend: d_ff {first['config']['d_ff']} cannot be cut into {n_chunks} equal parts")
    config = dict(first["config"], n_expert=len(experts))
    if not first["experts"]:  # an MoE keeps its routing when experts are added to it
        config["routing"] = args.routing or "topk"
        config["top_k"] = (args.top_k or 2) if config["routing"] == "topk" else 1
        config["d_ff"] = config["d_ff"] // args.split
    if experts and config["routing"] == "topk" and not 2 <= config["top_k"] <= len(experts):
        raise BadInput(f"--top_k {config['top_k']}: choose from 2 to {len(experts)}, the number of experts; with 1 the "
                       "gate would always be 1, and the router would learn nothing")
    config = GPTConfig(**config)

    # its weights
    checkpoint.check_out(args.out, args.models)
    dense = []
    for model in models:
        dense += unmix(model["model"]) if model["experts"] else [model["model"]]
    mixed = mix(dense, config, torch.Generator().manual_seed(args.seed), feed_forwards)
    settings = vars(args)
    if args.router_data:
        domains = load_domains(args.data_dir, args.router_data.split(","))
        settings["digests"] = {name: domain.meta["files"]["train.bin"] for name, domain in domains.items()}
        gpt = GPT(config).eval()
        gpt.load_state_dict(mixed)
        start_routers(gpt, router_texts(args, first, domains), ridge_router if args.ridge else hidden_router)
        mixed = gpt.state_dict()
    for name, tensor in mixed.items():
        if name.startswith("blocks.") and not name.startswith("blocks.0."):
            continue  # all layers have the same tensors
        shown = name.replace("blocks.0.", "blocks.*.")
        print(f"{rule_for(name, feed_forwards):<10}{shown:<32}{tuple(tensor.shape)}")

    entry = ledger.entry("soup" if args.soup else "mix", args.out, [model["lineage"][-1]["id"] for model in models],
                         settings=settings, config=vars(config), experts=experts)
    lineage = ledger.join(model["lineage"] for model in models)
    checkpoint.save(args.out, {"model": mixed, "config": vars(config), "tokenizer": first["tokenizer"],
                               "experts": experts, "lineage": [*lineage, entry], "log": []})
    print(f"wrote {args.out}")


if __name__ == "__main__":
    run(main)
