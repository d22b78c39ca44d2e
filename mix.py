"""Stage 2 of Branch-Train-MiX, mix (3.2): several dense checkpoints become one mixture-of-experts checkpoint.

    python mix.py out/seed.pt out/math.pt out/code.pt out/wiki.pt --out out/btx_mixed.pt --top_k 2

The feed-forwards become the experts of each layer, in the order of the files; everything else is averaged; routers are new.
With --soup everything is averaged, and the result is dense: the baseline that shows what the experts are for.
N copies of one file make the start of sparse upcycling (Komatsuzaki et al. 2023).

The first file may be an MoE that mix.py or finetune_router.py wrote: it keeps its experts and its routers' rows, and the others
become further experts. Tensors are read, mixed and written one after another, so models larger than the memory can be mixed
(with random routers).
"""
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from data import tokenizer
from data.loader import check_tokenizer, files_in, first_windows, read_domains, text_of
from model import ROUTER_STD, ROUTERS, GPTConfig, rope_angles
from support import checkpoint as ckpt
from support import ledger
from support.files import check_other, output
from support.settings import BadInput, option, parse, run


@dataclass
class Settings:
    models: list = option([], "dense checkpoints of one architecture, the seed one of them (the 'generalist' expert); or an MoE "
                         "and what to add to it; the first's block size is the mixture's", positional=True)
    out: str = option("", "checkpoint to write")
    top_k: int = option(0, f"experts that each token will use, with --routing topk; 0: the default, {GPTConfig.top_k}", low=0)
    routing: str = option("", f"routing method (3.3); {GPTConfig.routing} if not given", choices=tuple(ROUTERS))
    split: int = option(1, "cut each feed-forward into N experts (3.3)", low=1)
    blend: bool = option(False, "make each expert of equal parts of all feed-forwards (3.3)")
    router_data: str = option("", "a domain for each model, in order, as in general,math,code,wiki: each router row points to "
                              "the mean input of its layer on that text, instead of being random")
    data_dir: str = option("data/bin", "for --router_data: folder written by data.prepare")
    soup: bool = option(False, "average the feed-forwards too, which gives a dense model")
    seed: int = option(0, "seed of the new routers", low=0)
    save_dtype: str = option("float32", "dtype of the weights in the checkpoint; averages are taken in float32",
                             choices=("float32", "bfloat16"))


def stack(tensors):
    """One expert each: (N, *shape), float32."""
    return torch.stack([t.float() for t in tensors])


def average(tensors):
    """The mean of tensors of one shape, taken in float32."""
    mean = torch.zeros(tensors[0].shape, dtype=torch.float32)
    for t in tensors:
        mean += t  # in place, since a tensor may be large
    return mean.div_(len(tensors))


def width_axis(name):
    """The axis of a feed-forward's matrix, (d_ff, D) or (D, d_ff), along which it can be cut into narrower ones."""
    return 1 if name.endswith("w_down") else 0


def split(name, tensors, n_chunks):
    """Experts of d_ff / n_chunks: the chunks of the first feed-forward, those of the second, and so on (3.3).

    FF(x) is the sum of its chunks', but gates sum to 1. So w_down is multiplied by n_chunks: all chunks of one FF at equal
    gates then give FF(x). The paper does not say what it does. (N*n_chunks, *shape), float32.
    """
    chunks = [c for t in tensors for c in t.float().chunk(n_chunks, width_axis(name))]
    return torch.stack(chunks) * (n_chunks if name.endswith("w_down") else 1)


def blend(name, tensors):
    """Expert n is made of the n-th of N chunks of every feed-forward (3.3), so all experts hold a part of every domain.

    At equal gates the layer gives the same as unblended. (N, *shape), float32.
    """
    axis = width_axis(name)
    chunks = [t.float().chunk(len(tensors), axis) for t in tensors]
    return torch.stack([torch.cat(parts, axis) for parts in zip(*chunks, strict=True)])


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
    if name.endswith(".ff.router"):
        return "new"
    return feed_forwards if ".ff." in name else "averaged"


def contribution(header, tensor, name):
    """The tensors that one checkpoint contributes to the tensor `name` of the mixed model. tensor: its reader, see
    checkpoint.opened.

    A dense model contributes one, and none to a router. An MoE of N experts counts as N models: its experts one by one, its
    averaged tensors N times, and its routers' rows.
    """
    rule, N = rule_for(name), header["config"]["n_expert"]
    if not N:
        return [] if rule == "new" else [tensor("model", name)]
    return [tensor("model", name)] * N if rule == "averaged" else list(tensor("model", name))


def mix(weights, config, generator, feed_forwards="stacked"):
    """Yield (name, tensor) for each tensor of the mixed model, whose GPTConfig is `config`.

    weights: name -> a list, that tensor of each of the N dense models, or the rows that a router begins with, often none.
    feed_forwards: what becomes of these, "stacked", "averaged", "split" (into config.n_expert / N chunks) or "blended". Raises
    ValueError if they make another shape than config's.
    """
    for name, like in ckpt.shapes(config).items():
        tensors, rule = weights(name), rule_for(name, feed_forwards)
        if rule == "new":
            made = torch.empty(like.shape).normal_(0, ROUTER_STD, generator=generator)
            for i, row in enumerate(tensors):
                made[i] = row
        elif rule == "averaged":
            made = average(tensors)
        elif rule == "stacked":
            made = stack(tensors)
        else:
            made = blend(name, tensors) if rule == "blended" else split(name, tensors, config.n_expert // len(tensors))
        if made.shape != like.shape:
            raise ValueError(f"{name} has the shape {tuple(made.shape)}, not {tuple(like.shape)}")
        yield name, made


def print_rules(config, feed_forwards, routers):
    """A line for each kind of tensor: its rule, and the shape it has in the mixed model."""
    print(f"{'rule':<10}{'tensor':<32}shape")
    for name, like in ckpt.shapes(replace(config, n_layer=1)).items():
        rule = rule_for(name, feed_forwards).replace("new", routers)
        shown = name.replace("blocks.0.", f"blocks.0-{config.n_layer - 1}." if config.n_layer > 1 else "blocks.0.")
        print(f"{rule:<10}{shown:<32}{tuple(like.shape)}")


def distinct(names):
    """The names, numbered from their second occurrence on.

    >>> distinct(["seed", "seed", "math"])
    ['seed', 'seed_2', 'math']
    """
    found = []
    for name in names:
        numbered = (name, *(f"{name}_{n}" for n in range(2, len(names) + 1)))
        found.append(next(new for new in numbered if new not in found))
    return found


def mixed_config(settings, first):
    """The mixed model's GPTConfig and its experts' names, from the first model's header and the files' names. Raises BadInput.

    An MoE's experts come first; chunks are numbered (math.1, math.2), blended experts, too.
    """
    chunks = len(settings.models) if settings.blend else settings.split
    if first["config"]["d_ff"] % chunks:
        raise BadInput(f"--{'blend' if settings.blend else 'split'}: d_ff {first['config']['d_ff']} cannot be cut into {chunks} "
                       "equal parts")
    before = first["experts"]
    names = distinct([*before, *(Path(path).stem for path in settings.models[bool(before):])])
    if settings.soup:
        names = []
    elif settings.blend:
        names = [f"blend.{n + 1}" for n in range(len(names))]
    elif settings.split > 1:
        names = [f"{name}.{c + 1}" for name in names for c in range(settings.split)]
    moe = {"n_expert": len(names), "d_ff": first["config"]["d_ff"] // settings.split}
    if not before:
        routing = settings.routing or GPTConfig.routing
        moe |= {"routing": routing, "top_k": (settings.top_k or GPTConfig.top_k) if routing == "topk" else 1}
    try:
        config = GPTConfig(**first["config"] | moe)
    except ValueError as error:
        raise BadInput(f"--{error}") from None
    if config.routing == "topk" and config.top_k == 1 < config.n_expert:
        raise BadInput("--top_k 1: the softmax over one logit is always 1, so the router would learn nothing; use 2 or more")
    return config, names


def router_windows(settings, header, n_windows=16):
    """The text behind each router row, a list of (n, T), and the files it is of with their digests; nothing for random routers.

    Raises BadInput.
    """
    if not settings.router_data:
        return [], {}
    domains = settings.router_data.split(",")
    if (settings.soup or settings.blend or len(domains) != len(settings.models)
            or len({*domains}) < len({*zip(domains, settings.models, strict=True)})):
        raise BadInput("--router_data must name one domain for each model, no two the same, and each model be an expert "
                       "(no --soup, no --blend)")
    data, T = read_domains(settings.data_dir, domains), header["config"]["block_size"]
    check_tokenizer(data, header["tokenizer"], settings.models[0])
    windows = [first_windows(text_of(data, name, "train", T), T, n_windows)[:, :-1] for name in domains]
    return ([w for w in windows for _ in range(settings.split)],
            {f"{name}/train.bin": data[name]["files"]["train.bin"] for name in domains})


def check_options(settings):
    """Raise BadInput for options that contradict each other."""
    ckpt.check_name(settings.out, "--out ")
    check_other(settings.out, [*settings.models, *files_in(settings.data_dir)])
    if not settings.models:
        raise BadInput("name the dense checkpoints to mix, as in: mix.py out/seed.pt out/math.pt --out out/btx_mixed.pt")
    if settings.soup + settings.blend + (settings.split > 1) > 1:
        raise BadInput("--soup, --split and --blend exclude each other; choose one")
    if settings.routing not in ("", "topk") and settings.top_k:
        raise BadInput(f"--top_k {settings.top_k} is for --routing topk; {settings.routing} fixes it")
    if settings.soup and (settings.routing or settings.top_k):
        raise BadInput("--routing, --top_k: a soup is dense and routes nothing; leave them out")


def check_models(settings, headers):
    """Raise BadInput unless the models of these headers can be mixed: branches of one seed, of one architecture."""
    first, moe = headers[0], {"n_expert", "top_k", "routing"}
    for path, header in zip(settings.models, headers, strict=True):
        if header["experts"] and header is not first:
            raise BadInput(f"{path} is a mixture of experts already; only the first may be one, to which the others are added")
        for name, value in first["config"].items():
            if name not in {"block_size", *moe} and header["config"][name] != value:  # RoPE: no weight depends on block_size
                raise BadInput(f"{path} has {name} = {header['config'][name]}, {settings.models[0]} has {value}; "
                               "only models of one architecture can be mixed")
        if header["tokenizer"]["fingerprint"] != first["tokenizer"]["fingerprint"]:
            raise BadInput(f"{path} has another tokenizer than {settings.models[0]}; their embeddings cannot be averaged")
    for path, header in zip(settings.models, headers, strict=True):
        tokenizer.of(header["tokenizer"], path)
    if not set.intersection(*({entry["id"] for entry in header["lineage"]} for header in headers)):
        raise BadInput(f"{', '.join(settings.models)} are no branches of one seed; averaged they would be noise")
    new = [name for name in ("soup", "blend", "split", "routing", "top_k", "router_data")
           if getattr(settings, name) != getattr(Settings, name)]
    if first["experts"] and new:
        raise BadInput(f"{settings.models[0]} is a mixture of experts already, and stays as it is; leave out --{new[0]}")
    if first["experts"] and len(headers) == 1:
        raise BadInput(f"{settings.models[0]} is a mixture of experts already; name dense models to add to it")


def main(argv=None):
    settings = parse(Settings, argv)
    check_options(settings)
    with ExitStack() as files:
        headers, readers = zip(*(files.enter_context(ckpt.open_checkpoint(path)) for path in settings.models), strict=True)
        check_models(settings, headers)
        (config, experts), (windows, digests) = mixed_config(settings, headers[0]), router_windows(settings, headers[0])
        feed_forwards = ("averaged" if settings.soup else "split" if settings.split > 1 else "blended" if settings.blend
                         else "stacked")
        files.enter_context(output(settings.out))
        print_rules(config, feed_forwards, "hidden" if windows else "kept, new" if headers[0]["experts"] else "new")
        tensors = mix(lambda name: [t for model in zip(headers, readers, strict=True) for t in contribution(*model, name)],
                      config, torch.Generator().manual_seed(settings.seed), feed_forwards)
        if windows:
            mixed = ckpt.build({"config": asdict(config), "model": dict(tensors)})
            hidden_routers(mixed, windows)
            tensors = mixed.state_dict().items()
        entry = ledger.entry("soup" if settings.soup else "mix", settings.out, [h["lineage"][-1]["id"] for h in headers],
                             config=asdict(config), experts=experts, settings=asdict(settings) | digests)
        lineage = ledger.join(header["lineage"] for header in headers)
        mixed = ckpt.pack(ckpt.shapes(config), config, headers[0]["tokenizer"], experts, [*lineage, entry],
                          dtype=settings.save_dtype)
        ckpt.save(settings.out, mixed, (t for _, t in tensors))
    print(f"wrote {settings.out}")


if __name__ == "__main__":
    run(main)
