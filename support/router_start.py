"""Set the routers of a mixed model from text, which the paper does not do.

    python mix.py seed.pt math.pt --router_data general,math --out mixed.pt            # each row is a mean input
    python mix.py seed.pt math.pt --router_data general,math --ridge --out mixed.pt    # rows from ridge regression
"""
import torch
from torch.nn.functional import normalize

from cli import BadInput
from data.loader import check_tokenizer, first_windows, load_domains
from model import rope_angles
from support.checkpoint import build_model

N_WINDOWS = 16  # sequences of each domain from which a router is computed


def hidden_router(inputs):
    """A router (N, D) whose row i is the mean input of expert i's domain. inputs: (M_i, D) for each expert.

    The mean of the rows would add the same number to all logits, so it is subtracted. Then each row is scaled to
    length 1. The idea comes from mergekit's hidden_avg gates.
    """
    means = torch.stack([x.mean(0) for x in inputs])  # (N, D)
    return normalize(means - means.mean(0), dim=1)


def ridge_router(inputs, penalty=1.0):
    """A router by ridge regression from a layer's inputs to their domain's expert. inputs: (M_i, D) for each expert.

    The router W, (N, D), minimizes sum |W x - e_i|^2 + penalty |W|^2 over the inputs x of all experts i. e_i is 1 for
    expert i and 0 for the others. The idea comes from DUME (arXiv 2603.29765).
    """
    X = torch.cat(inputs)  # (M, D)
    experts = torch.eye(len(inputs))
    targets = torch.cat([e_i.expand(len(x), -1) for e_i, x in zip(experts, inputs, strict=True)])  # (M, N)
    return torch.linalg.solve(X.T @ X + penalty * torch.eye(X.shape[1]), X.T @ targets).T


@torch.no_grad()
def start_routers(model, windows, new_rows):
    """Set the routers of the MoE `model` from the inputs of their layers, from the first layer to the last.

    windows: for each expert the text to read, (n, T) int64; new_rows: hidden_router or ridge_router.
    """
    streams = [model.embed(idx) for idx in windows]  # an (n, T, D) for each expert
    angles = rope_angles(model.config, 0, windows[0].shape[1], windows[0].device)
    for block in model.blocks:
        streams = [x + block.attn(block.attn_norm(x), angles) for x in streams]
        block.ff.router.copy_(new_rows([block.ff_norm(x).flatten(0, 1) for x in streams]))
        streams = [x + block.ff(block.ff_norm(x))[0] for x in streams]


def start_from_text(args, first, config, state):
    """Set the mixed model's routers from the text of --router_data. Raises BadInput.

    first: the first of the mixed checkpoints. Returns the model's state dict and the digests of the text.
    """
    names = [name for name in args.router_data.split(",") if name]
    if args.blend:
        raise BadInput("--router_data cannot be used with --blend, whose experts have parts of all domains")
    if len(names) != len(args.models):
        raise BadInput(f"--router_data names {len(names)} domains for {len(args.models)} models; name one for each")
    domains = load_domains(args.data_dir, names)
    check_tokenizer(domains, first["spec"], args.models[0])
    windows = []
    for name in names:
        domain = domains[name]
        idx = first_windows(domain.train, config.block_size, N_WINDOWS, domain.is_own)[:, :-1]  # (n, T)
        windows += [idx] * args.split  # the chunks of one expert read the same text
    model = build_model({"config": vars(config), "state": state}, share=True)
    start_routers(model, windows, ridge_router if args.ridge else hidden_router)
    return model.state_dict(), {name: domain.meta["files"]["train.bin"] for name, domain in domains.items()}
