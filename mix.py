"""Stage 2 of Branch-Train-MiX, mix (3.2): several dense checkpoints become one mixture-of-experts checkpoint.

    python mix.py out/seed.pt out/math.pt out/code.pt out/wiki.pt --out out/btx_mixed.pt --top_k 2

The feed-forwards become the experts of each layer, in the order of the files; everything else is averaged; routers are new.
With --soup everything is averaged, and the result is dense: the baseline that shows what the experts are for.
N copies of one file make the start of sparse upcycling (Komatsuzaki et al. 2023).
"""
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path

import torch

from data import tokenizer
from data.loader import check_tokenizer, first_windows, read_domains, text_of
from model import GPT, ROUTER_STD, ROUTERS, GPTConfig, rope_angles
from support import checkpoint as ckpt
from support.files import check_other, output
from support.settings import BadInput, option, parse, run


@dataclass
class Settings:
    models: list = option([], "dense checkpoints of one architecture; the seed may be one (the 'generalist' expert)",
                         positional=True)
    out: str = option("", "checkpoint to write")
    top_k: int = option(GPTConfig.top_k, "experts that each token will use, with --routing topk", low=1)
    routing: str = option(GPTConfig.routing, "routing method (3.3)", choices=tuple(ROUTERS))
    split: int = option(1, "cut each feed-forward into so many experts (3.3)", low=1)
    blend: bool = option(False, "make each expert of equal parts of all feed-forwards (3.3)")
    router_init: str = option("random", "hidden: each router row points to the mean input of its layer on its expert's domain",
                              choices=("random", "hidden"))
    router_data: str = option("", "for --router_init hidden: a domain for each model, in order, as in general,math,code,wiki")
    data_dir: str = option("data/bin", "for --router_init hidden: folder written by data.prepare")
    soup: bool = option(False, "average the feed-forwards too, which gives a dense model")
    seed: int = option(0, "seed of the new routers", low=0)
    save_dtype: str = option("float32", "of the weights in the checkpoint; averages are taken in float32",
                             choices=("float32", "bfloat16"))


def stack(tensors):
    """One expert each: (N, *shape), float32."""
    # BEGIN SOLUTION 4: stacked
    return torch.stack([t.float() for t in tensors])
    # END SOLUTION


def average(tensors):
    """The mean of tensors of one shape, taken in float32."""
    # BEGIN SOLUTION 4: averaged
    return stack(tensors).mean(0)
    # END SOLUTION


def width_axis(name):
    """The axis of a feed-forward's matrix, (d_ff, D) or (D, d_ff), along which it can be cut into narrower ones."""
    return 1 if name.endswith("w_down") else 0


def split(name, tensors, n_chunks):
    """Experts of d_ff / n_chunks: the chunks of the first feed-forward, those of the second, and so on (3.3).

    FF(x) is the sum of its chunks', but gates sum to 1. So w_down is multiplied by n_chunks: all chunks of one FF at equal
    gates then give FF(x). The paper does not say what it does. (N*n_chunks, *shape), float32.
    """
    # BEGIN SOLUTION 7: split
    chunks = [c for t in tensors for c in t.float().chunk(n_chunks, width_axis(name))]
    return torch.stack(chunks) * (n_chunks if name.endswith("w_down") else 1)
    # END SOLUTION


def blend(name, tensors):
    """Expert n is made of the n-th of N chunks of every feed-forward (3.3), so all experts hold a part of every domain.

    At equal gates the layer gives the same as unblended. (N, *shape), float32.
    """
    # BEGIN SOLUTION 7: blend
    axis = width_axis(name)
    chunks = [t.float().chunk(len(tensors), axis) for t in tensors]
    return torch.stack([torch.cat(parts, axis) for parts in zip(*chunks, strict=True)])
    # END SOLUTION


@torch.no_grad()
def hidden_routers(model, windows):
    """Set each router row of the MoE `model` from the mean input of its layer on one domain; layer by layer, first to last.

    windows: for each expert the text to read, (n, T) int64. The rows' common part, which adds the same to all logits, is
    subtracted, and each row scaled to length 1. The idea of mergekit's hidden gates; FlexOlmo starts from embeddings.
    """
    streams = [model.embed(idx) for idx in windows]  # an (n, T, D) for each expert
    angles = rope_angles(model.config, 0, windows[0].shape[1], windows[0].device)
    for block in model.blocks:
        after = [x + block.attn(block.attn_norm(x), angles) for x in streams]
        means = torch.stack([block.ff_norm(x).mean((0, 1)) for x in after])  # (N, D)
        block.ff.router.copy_(torch.nn.functional.normalize(means - means.mean(0), dim=1))
        streams = [x + block.ff(block.ff_norm(x))[0] for x in after]


def rule_for(name, feed_forwards="stacked"):
    """Which rule a tensor of the mixed model falls under, by its name."""
    # BEGIN SOLUTION 4: the rule of each tensor
    if name.endswith(".ff.router"):
        return "new"
    return feed_forwards if ".ff." in name else "averaged"
    # END SOLUTION


def mix(states, config, generator, feed_forwards="stacked"):
    """The state dict of the mixed model and the rule that made each tensor.

    states: state dicts of N dense models; config: the mixed model's; feed_forwards: what becomes of these, "stacked",
    "averaged", "split" (into config.n_expert / N chunks) or "blended". Every tensor of the mixed model is made by exactly
    one rule, and every tensor of the dense models is used exactly once; anything else raises ValueError.
    """
    with torch.device("meta"):  # names and shapes alone
        mixed = GPT(config).state_dict()
    make = {"averaged": lambda name, tensors: average(tensors), "stacked": lambda name, tensors: stack(tensors),
            "split": partial(split, n_chunks=config.n_expert // len(states)), "blended": blend}
    rules, unused = {}, set(states[0])
    for name, new in mixed.items():
        rules[name] = rule_for(name, feed_forwards)
        if rules[name] == "new":
            mixed[name] = torch.empty(new.shape).normal_(0, ROUTER_STD, generator=generator)
            continue
        if name not in unused:
            raise ValueError(f"{name} is not in the dense models, or is used twice")
        unused.remove(name)
        made = make[rules[name]](name, [state[name] for state in states])
        if made.shape != new.shape:
            raise ValueError(f"{name} has the shape {tuple(made.shape)}, not {tuple(new.shape)}")
        mixed[name] = made
    if unused:
        raise ValueError(f"left over from the dense models: {', '.join(sorted(unused))}")
    return mixed, rules


def print_rules(rules, state, n_layer):
    """A line for each kind of tensor: its rule, and the shape it has in the mixed model."""
    print(f"{'rule':<10}{'tensor':<32}shape")
    for name, rule in rules.items():
        if name.startswith("blocks.") and not name.startswith("blocks.0."):
            continue
        shown = name.replace("blocks.0.", f"blocks.0-{n_layer - 1}." if n_layer > 1 else "blocks.0.")
        print(f"{rule:<10}{shown:<32}{tuple(state[name].shape)}")


def distinct(names):
    """The names, numbered from their second occurrence on.

    >>> distinct(["seed", "seed", "math"])
    ['seed', 'seed_2', 'math']
    """
    found = []
    for name in names:
        found.append(next(new for n in count(1) if (new := name if n == 1 else f"{name}_{n}") not in found))
    return found


def expert_names(settings):
    """The experts by the names of their files; chunks are numbered (math.1, math.2), blended experts are called by number."""
    names = distinct([Path(path).stem for path in settings.models])
    if settings.soup:
        return []
    if settings.blend:
        return [f"blend.{n + 1}" for n in range(len(names))]
    return [f"{name}.{c + 1}" for name in names for c in range(settings.split)] if settings.split > 1 else names


def cut_width(settings, d_ff):
    """d_ff of an expert. Raises BadInput if the feed-forwards cannot be cut so."""
    chunks = len(settings.models) if settings.blend else settings.split
    if d_ff % chunks:
        raise BadInput(f"--{'blend' if settings.blend else 'split'}: d_ff {d_ff} cannot be cut into {chunks} equal parts")
    return d_ff // settings.split


def router_windows(settings, header, n_windows=16):
    """The text behind each router row, a list of (n, T), and the files it is of with their digests; nothing for random routers.

    Raises BadInput.
    """
    if settings.router_init == "random":
        return [], {}
    domains = [domain for domain in settings.router_data.split(",") if domain]
    if settings.soup or settings.blend or len(domains) != len(settings.models) or len({*domains}) < len({*settings.models}):
        raise BadInput("--router_init hidden: --router_data must name one domain for each model, no two the same, and each model "
                       "be an expert (no --soup, no --blend)")
    data, T = read_domains(settings.data_dir, domains), header["config"]["block_size"]
    check_tokenizer(data, header["tokenizer"], settings.models[0])
    windows = [first_windows(text_of(data, name, "train", T), T, n_windows)[:, :-1] for name in domains]
    return ([w for w in windows for _ in range(settings.split)],
            {f"{name}/train.bin": data[name]["files"]["train.bin"] for name in domains})


def main(argv=None):
    settings = parse(Settings, argv)
    ckpt.check_name(settings.out)
    check_other("--out", settings.out, settings.models)
    if not settings.models:
        raise BadInput("name the dense checkpoints to mix, as in: mix.py out/seed.pt out/math.pt --out out/btx_mixed.pt")
    if settings.soup + settings.blend + (settings.split > 1) > 1:
        raise BadInput("--soup, --split and --blend exclude each other; choose one")
    if settings.routing != "topk" and settings.top_k != GPTConfig.top_k:
        raise BadInput(f"--top_k {settings.top_k} is for --routing topk; {settings.routing} fixes it")
    if settings.soup and (settings.routing != GPTConfig.routing or settings.top_k != GPTConfig.top_k):
        raise BadInput("--routing, --top_k: a soup is dense and routes nothing; leave them out")
    if settings.router_data and settings.router_init != "hidden":
        raise BadInput("--router_data is for --router_init hidden")
    if settings.routing == "topk" and settings.top_k == 1 < len(settings.models) * settings.split and not settings.soup:
        raise BadInput("--top_k 1: the softmax over one logit is always 1, so the router would learn nothing; use 2 or more")
    parents = [ckpt.load(path) for path in settings.models]
    first = parents[0]
    for path, parent in zip(settings.models, parents, strict=True):
        if parent["config"]["n_expert"]:
            raise BadInput(f"{path} is a mixture of experts already; mix.py takes dense checkpoints")
        for name, value in first["config"].items():
            if name != "block_size" and parent["config"][name] != value:  # RoPE: no weight depends on the block size
                raise BadInput(f"{path} has {name} = {parent['config'][name]}, {settings.models[0]} has {value}; "
                               "only models of one architecture can be mixed")
        if parent["tokenizer"]["fingerprint"] != first["tokenizer"]["fingerprint"]:
            raise BadInput(f"{path} has another tokenizer than {settings.models[0]}; their embeddings cannot be averaged")
    tokenizer.of(first["tokenizer"], settings.models[0])
    if not set.intersection(*({entry["id"] for entry in parent["lineage"]} for parent in parents)):
        raise BadInput(f"{', '.join(settings.models)} are no branches of one seed; averaged they would be noise")
    d_ff = cut_width(settings, first["config"]["d_ff"])
    experts, (windows, digests) = expert_names(settings), router_windows(settings, first)
    try:
        config = GPTConfig(**first["config"] | ({} if settings.soup else {
            "n_expert": len(experts), "d_ff": d_ff, "routing": settings.routing,
            "top_k": settings.top_k if settings.routing == "topk" else 1}))
    except ValueError as error:
        raise BadInput(f"--{error}") from None
    with output(settings.out):
        if ckpt.state_of(settings.out).exists():
            raise BadInput(f"{ckpt.state_of(settings.out)} is what an interrupted run left; delete it, or choose another --out")
        generator = torch.Generator().manual_seed(settings.seed)
        feed_forwards = ("averaged" if settings.soup else "split" if settings.split > 1 else "blended" if settings.blend
                         else "stacked")
        state, rules = mix([parent["model"] for parent in parents], config, generator, feed_forwards)
        if windows:
            mixed = ckpt.build({"config": asdict(config), "model": state})
            hidden_routers(mixed, windows)
            state = mixed.state_dict()
            rules |= {name: "hidden" for name, rule in rules.items() if rule == "new"}
        print_rules(rules, state, config.n_layer)
        lineage = ckpt.join_lineages(parent["lineage"] for parent in parents)
        entry = ckpt.ledger_entry("soup" if settings.soup else "mix", settings.out, [p["lineage"][-1]["id"] for p in parents],
                                  experts=experts, routing=config.routing, top_k=config.top_k, split=settings.split,
                                  blend=settings.blend, router_init=settings.router_init, seed=settings.seed,
                                  router_data=settings.router_data, data_digests=digests)
        ckpt.save(settings.out, ckpt.pack(state, config, first["tokenizer"], experts, lineage + [entry],
                                          dtype=settings.save_dtype))
        print(f"wrote {settings.out}")


if __name__ == "__main__":
    run(main)
