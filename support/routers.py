"""Mixing beyond the paper: routers that start from data, and an MoE that gets further experts.

    python mix.py seed.pt math.pt --router_data general,math --out mixed.pt           # router rows from text
    python mix.py btx.pt later.pt --out more_mixed.pt                                 # btx.pt keeps its experts
"""
from functools import partial

import torch
from torch.nn.functional import cross_entropy, normalize

from cli import BadInput
from data.loader import check_tokenizer, first_windows, load_domains
from model import GPT, rope_angles

N_WINDOWS = 16  # sequences of each domain that a router starts from


def check_options(args, first):
    """Raise BadInput for options of mix.py that do not go together. first: the first of the mixed checkpoints."""
    if args.top_k and args.routing != "topk":
        raise BadInput(f"--top_k: --routing {args.routing} fixes the number of experts; leave --top_k out")
    if args.ridge and not args.router_data:
        raise BadInput("--ridge: name the text to tell apart with --router_data")
    if (first["experts"] or args.soup) and (args.routing != "topk" or args.top_k or args.router_data):
        raise BadInput("--routing, --top_k, --router_data are for a new MoE, not for a soup or an MoE that grows")
    if first["experts"] and (args.soup or args.blend or args.split > 1):
        raise BadInput(f"{args.models[0]} is an MoE; models are added to it as they are, without options")


def unmix(state):
    """The state dict of an MoE as N dense ones: each has one expert, and all that is shared."""
    states = []
    for i in range(len(state["blocks.0.ff.router"])):
        expert = {name: t[i] for name, t in state.items() if ".ff.w_" in name}
        states.append({**state, **expert})
    return states


def keep_rows(mixed, state):
    """Give the first experts of the state dict `mixed` the router rows that they had in the MoE `state`."""
    for name, rows in state.items():
        if name.endswith(".ff.router"):
            mixed[name][:len(rows)] = rows


def hidden_router(inputs):
    """A router (N, D) whose row i is the mean input of expert i's domain. inputs: (n, T, D) for each expert.

    What the rows have in common would add the same to all logits, so it is subtracted. Then each row is scaled to
    length 1. The idea is that of mergekit's hidden_avg gates.
    """
    means = torch.stack([x.mean((0, 1)) for x in inputs])  # (N, D)
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


SHARPNESSES = [2 ** (j / 2) for j in range(17)]  # from 1 to 256


def sharpest(W, inputs):
    """The s of SHARPNESSES for which SoftMax(s W x) gives the right experts the highest likelihood. W: (N, D).

    As at commit 49d7f1a. inputs: for each expert (M_i, D), from text that W was not fitted to.
    """
    logits = torch.cat(inputs) @ W.T  # (M, N)
    right = torch.cat([torch.full((len(x),), i) for i, x in enumerate(inputs)])  # (M,)
    losses = [cross_entropy(s * logits, right) for s in SHARPNESSES]
    return SHARPNESSES[torch.stack(losses).argmin()]


def sharp_router(inputs, sharpness=None):
    """A router by ridge regression, times `sharpness`, by default the `sharpest`. inputs: (n, T, D) for each expert.

    The rows are fitted to three quarters of the n windows. The rest, at least one, decides the sharpness.
    """
    n_fit = len(inputs[0]) - max(1, len(inputs[0]) // 4)
    W = ridge_router([x[:n_fit].flatten(0, 1) for x in inputs])  # (N, D)
    if sharpness is None:
        sharpness = sharpest(W, [x[n_fit:].flatten(0, 1) for x in inputs])
        print(f"a layer's rows are {sharpness:.1f} times as long as ridge regression's")
    return sharpness * W


@torch.no_grad()
def start_routers(model, windows, new_rows):
    """Set the routers of the MoE `model` from the inputs of their layers, first layer to last.

    windows: for each expert the text to read, (n, T) int64; new_rows: hidden_router or sharp_router.
    """
    streams = [model.embed(idx) for idx in windows]  # an (n, T, D) for each expert
    angles = rope_angles(model.config, 0, windows[0].shape[1], windows[0].device)
    for block in model.blocks:
        streams = [x + block.attn(block.attn_norm(x), angles) for x in streams]
        block.ff.router.copy_(new_rows([block.ff_norm(x) for x in streams]))
        streams = [x + block.ff(block.ff_norm(x))[0] for x in streams]


def start_from_text(args, first, config, state):
    """The mixed model's state dict with routers that start from the text of --router_data. Raises BadInput.

    first: the first of the mixed checkpoints. Returns also the digests of the text.
    """
    names = args.router_data.split(",")
    if args.blend or len(names) != len(args.models):
        raise BadInput("--router_data must name a domain for each model, and does not go with --blend")
    domains = load_domains(args.data_dir, names)
    check_tokenizer(domains, first["spec"], args.models[0])
    windows = []
    for name in names:
        idx = first_windows(domains[name].train, config.block_size, N_WINDOWS)[:, :-1]  # (n, T)
        windows += [idx] * args.split  # the chunks of one expert read the same
    model = GPT(config).eval()
    model.load_state_dict(state)
    start_routers(model, windows, partial(sharp_router, sharpness=args.sharpness) if args.ridge else hidden_router)
    return model.state_dict(), {name: domain.meta["files"]["train.bin"] for name, domain in domains.items()}
