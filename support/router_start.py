"""Set the routers of a mixed model from text, which the paper does not do.

    python mix.py seed.pt math.pt --router_data general,math --out mixed.pt            # each row is a mean input
    python mix.py seed.pt math.pt --router_data general,math --ridge --out mixed.pt    # rows from ridge regression

Mean inputs are an idea of mergekit's "hidden_avg" gates. Ridge regression is DUME's (arXiv 2603.29765), which uses one
expert for each token, with a gate of 1. A softmax over k logits also depends on how long the rows are; see `sharpest`.
"""
from itertools import permutations

import torch
import torch.nn.functional as F

from cli import BadInput
from model import rope_angles
from support.checkpoint import build_model, check_finite, model_names
from support.report import markdown

N_WINDOWS = 16  # sequences of each domain from which a router is computed
N_COMPARED = 256  # tokens of each domain on which the models are compared: half a minute for four models of 135M
MOST_ORDERED = 8  # models whose orders are all tried: 40,320
SHARPNESSES = [2 ** (j / 2) for j in range(17)]  # from 1 to 256


def hidden_router(inputs):
    """A router (N, D) whose row i is the mean input of expert i's domain. inputs: (n, T, D) for each expert.

    The mean of the rows would add the same number to all logits, so it is subtracted. Then each row is scaled to
    length 1.
    """
    means = torch.stack([x.mean((0, 1)) for x in inputs])  # (N, D)
    return F.normalize(means - means.mean(0), dim=1)


def ridge_router(inputs, penalty=1.0):
    """A router by ridge regression from a layer's inputs to their domain's expert. inputs: (M_i, D) for each expert.

    The router W, (N, D), minimizes sum |W x - e_i|^2 + penalty |W|^2 over the inputs x of all experts i. e_i is 1 for
    expert i and 0 for the others.
    """
    X = torch.cat(inputs)  # (M, D)
    experts = torch.eye(len(inputs))
    targets = torch.cat([e_i.expand(len(x), -1) for e_i, x in zip(experts, inputs, strict=True)])  # (M, N)
    return torch.linalg.solve(X.T @ X + penalty * torch.eye(X.shape[1]), X.T @ targets).T


def sharpest(W, inputs):
    """The s of SHARPNESSES for which SoftMax(s W x) gives the right experts the highest likelihood. W: (N, D).

    Ridge regression fits logits of 0 and 1, whose softmax is nearly flat: with N = 4, the right expert gets 0.48, so
    the wrong ones count in every token. 1/s is a temperature by maximum likelihood (Guo et al. 2017). inputs: for each
    expert (M_i, D), from text that W was not fitted to; on the text of the fit, W looks better than it is.
    """
    logits = torch.cat(inputs) @ W.T  # (M, N)
    right = torch.cat([torch.full((len(x),), i) for i, x in enumerate(inputs)])  # (M,)
    losses = [F.cross_entropy(s * logits, right) for s in SHARPNESSES]
    return SHARPNESSES[torch.stack(losses).argmin()]


def sharp_router(inputs, sharpness=None):
    """A router by ridge regression, times `sharpness` (default: what `sharpest` finds). inputs: (n, T, D) per expert.

    The rows are fitted to three quarters of the n windows. The rest, at least one, decides the sharpness. Returns the
    router, (N, D), and its sharpness.
    """
    n_fit = len(inputs[0]) - max(1, len(inputs[0]) // 4)
    W = ridge_router([x[:n_fit].flatten(0, 1) for x in inputs])  # (N, D)
    if sharpness is None:
        sharpness = sharpest(W, [x[n_fit:].flatten(0, 1) for x in inputs])
    return sharpness * W, sharpness


@torch.no_grad()
def start_routers(model, windows, ridge, sharpness):
    """Set the routers of the MoE `model` from the inputs of their layers, from the first layer to the last.

    windows: for each expert the text to read, (n, T) int64. Returns the sharpness of each layer; [] without ridge.
    """
    streams = [model.embed(idx) for idx in windows]  # an (n, T, D) for each expert
    angles = rope_angles(model.config, 0, windows[0].shape[1], windows[0].device)
    chosen = []
    for block in model.blocks:
        streams = [x + block.attn(block.attn_norm(x), angles) for x in streams]
        inputs = [block.ff_norm(x) for x in streams]
        if ridge:
            rows, s = sharp_router(inputs, sharpness)
            chosen.append(s)
        else:
            rows = hidden_router(inputs)
        block.ff.router.copy_(rows)
        streams = [x + block.ff(h)[0] for x, h in zip(streams, inputs, strict=True)]
    return chosen


def start_from_text(state, config, domains, n_chunks, ridge=False, sharpness=None):
    """Compute a mixed model's routers from text, write them into its state dict and return it. Raises BadInput.

    domains: for each mixed model the Domain with its text; n_chunks: how many experts were made of each model; ridge:
    rows by ridge regression, times `sharpness`, not mean inputs. Prints how much text was read, and the sharpness.
    """
    if len({domain.meta["files"]["train.bin"] for domain in domains}) < len(domains):
        raise BadInput("--router_data: two domains have the same text, so no router could tell their experts apart")
    T = config.block_size
    shortest = min(domains, key=lambda domain: len(domain.train))
    n = min(N_WINDOWS, (len(shortest.train) - 1) // T)  # as many of each, so that no expert counts more than another
    if n < 2:  # one to fit the router to, and one that decides the sharpness
        raise BadInput(f"--router_data: {shortest.name!r} is shorter than two blocks of {T} tokens; prepare more text")
    texts = [domain.windows(domain.train, T, n)[:, :-1] for domain in domains]  # (n, T) each
    windows = [idx for idx in texts for _ in range(n_chunks)]
    model = build_model({"config": vars(config), "state": state}, share=True)
    chosen = start_routers(model, windows, ridge, sharpness)
    check_finite(model.state_dict(), "--sharpness: the routers' rows are not finite; choose a smaller number")
    print(f"routers start from {n} windows of {T} tokens of each domain")
    if ridge:
        print(f"sharpness of the layers: {min(chosen):.3g} to {max(chosen):.3g}")
    return model.state_dict()


@torch.no_grad()
def compare_models(paths, checkpoints, domains):
    """Print the loss of each dense model on a little text of each domain, and warn if their order seems to be wrong.

    It is wrong if another order of the domains has a lower sum of losses. A single loss does not tell: a branch that
    re-reads some English can be better at it than its seed. domains: {name: Domain}, in the order of the models; the
    text is that of training. With more than MOST_ORDERED models there is no warning.
    """
    T = min(checkpoints[0]["config"]["block_size"], N_COMPARED)
    texts = [domain.windows(domain.train, T, N_COMPARED // T) for domain in domains.values()]  # (n, T + 1) each
    losses = []
    for checkpoint in checkpoints:
        model = build_model(checkpoint, share=True)
        losses.append([model(text[:, :-1], text[:, 1:])[1].item() for text in texts])
    rows = [[name, *(f"{loss:.3f}" for loss in row)] for name, row in zip(model_names(paths), losses, strict=True)]
    print(markdown(["loss on the text of", *domains], rows))

    def total(order):
        return sum(row[i] for row, i in zip(losses, order, strict=True))

    given = range(len(losses))
    if len(losses) > MOST_ORDERED:
        return
    best = min(permutations(given), key=total)
    if total(best) < total(given):
        better = ",".join([*domains][i] for i in best)
        print(f"Warning: the order of the domains seems to be wrong. With --router_data {better} the losses of the "
              f"models on their domains sum to {total(best):.3f}, in your order to {total(given):.3f}.")
