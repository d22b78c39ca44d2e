"""Stage 2 of Branch-Train-MiX, mix (3.2): several dense checkpoints become one mixture-of-experts checkpoint.

    python mix.py out/seed.pt out/math.pt out/code.pt out/wiki.pt --out out/btx_mixed.pt --top_k 2

The feed-forwards become the experts of each layer, in the order of the files; everything else is averaged; routers are new.
With --soup everything is averaged, and the result is dense: the baseline that shows what the experts are for.
"""
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import checkpoint as ckpt
from model import GPT, GPTConfig
from settings import BadInput, option, parse, run


@dataclass
class Settings:
    models: list = option([], "dense checkpoints of one architecture; the seed may be one (the 'generalist' expert)",
                         positional=True)
    out: str = option("", "checkpoint to write")
    top_k: int = option(GPTConfig.top_k, "experts that each token will use", low=1)
    routing: str = option(GPTConfig.routing, "routing method (3.3)", choices=("topk", "soft"))
    soup: bool = option(False, "average the feed-forwards too, which gives a dense model")
    seed: int = option(0, "seed of the new routers", low=0)


def average(tensors):
    """The mean of tensors of one shape, taken in float32."""
    return torch.stack([t.float() for t in tensors]).mean(0)


def stack(tensors):
    """One expert each: (N, *shape), float32."""
    return torch.stack([t.float() for t in tensors])


def rule_for(name, soup=False):
    """Which of the three rules a tensor of the mixed model falls under, by its name."""
    if name.endswith(".ff.router"):
        return "new"
    if ".ff." in name and not soup:
        return "stacked"
    return "averaged"


def mix(states, config, generator, soup=False):
    """The state dict of the mixed model and the rule that made each tensor.

    states: state dicts of N dense models; config: the mixed model's. Every tensor of the mixed model is made by exactly
    one rule, and every tensor of the dense models is used exactly once; anything else raises ValueError.
    """
    model = GPT(config, generator)  # draws the routers; every other tensor is replaced below
    mixed, rules, unused = model.state_dict(), {}, set(states[0])
    for name, new in mixed.items():
        rules[name] = rule_for(name, soup)
        if rules[name] == "new":
            continue
        if name not in unused:
            raise ValueError(f"{name} is not in the dense models, or is used twice")
        unused.remove(name)
        made = {"stacked": stack, "averaged": average}[rules[name]]([state[name] for state in states])
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
    return [name if name not in names[:i] else f"{name}_{names[:i + 1].count(name)}" for i, name in enumerate(names)]


def main(argv=None):
    settings = parse(Settings, argv)
    ckpt.check_name(settings.out)
    if len(settings.models) < 1:
        raise BadInput("name the dense checkpoints to mix, as in: mix.py out/seed.pt out/math.pt --out out/btx_mixed.pt")
    if settings.routing == "topk" and settings.top_k == 1 < len(settings.models) and not settings.soup:
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
    try:
        config = GPTConfig(**first["config"]) if settings.soup else GPTConfig(
            **first["config"] | {"n_expert": len(parents), "top_k": settings.top_k, "routing": settings.routing})
    except ValueError as error:
        raise BadInput(f"--{error}") from None
    ckpt.prepare_output(settings.out)
    generator = torch.Generator().manual_seed(settings.seed)
    state, rules = mix([parent["model"] for parent in parents], config, generator, settings.soup)
    print_rules(rules, state, config.n_layer)
    experts = [] if settings.soup else distinct([Path(path).stem for path in settings.models])
    lineage = ckpt.join_lineages(parent["lineage"] for parent in parents)
    entry = ckpt.ledger_entry("soup" if settings.soup else "mix", settings.out, [p["lineage"][-1]["id"] for p in parents],
                              experts=experts, top_k=config.top_k, seed=settings.seed)
    ckpt.save(settings.out, {"model": state, "config": asdict(config), "tokenizer": first["tokenizer"],
                             "experts": experts, "lineage": lineage + [entry]})
    print(f"wrote {settings.out}")


if __name__ == "__main__":
    run(main)
