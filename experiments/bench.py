"""How fast is it? Every number but tokens per second is a ratio of two things timed in turn, in one run, on this machine.

    python -m experiments.bench                        # all of it; `make bench` also sets the Makefile's environment
    python -m experiments.bench step hf_step --n_embd 512 --device cuda --fast --compile
    python -m experiments.bench profile --n_embd 512   # where the time of a training step goes

Prints a table and writes JSON. All that starts with hf_ compares with transformers' Llama and Mixtral of the same weights, whose
logits are checked first; a ratio over 1 says that they take longer.
"""
import copy
import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from io import StringIO
from itertools import count
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F

import mix
from data import tokenizer
from data.loader import files_in, get_batch, read_domain, text_of
from evaluate import machine
from experiments.paired import table
from hf import their_names
from model import GPT, GPTConfig
from support import checkpoint as ckpt
from support import fast, ledger
from support.devices import autocast, peak_flops, pick_device, send
from support.files import check_other, output, reading, write_text, write_whole
from support.settings import BadInput, option, parse, run
from train_expert import TrainSettings, make_optimizer, training_step


@dataclass
class Settings:
    what: list = option([], "any of step, readable, forward, experts, generate, loader, branches, mix, hf_step, hf_generate, "
                            "profile; nothing: all but profile", positional=True)
    n_embd: int = option(128, "width; feed-forwards are 11/4 as wide", low=1)
    n_layer: int = option(4, "layers", low=1)
    n_head: int = option(4, "attention heads", low=1)
    n_expert: int = option(4, "experts", low=1)
    top_k: int = option(2, "experts for a token", low=1)
    vocab_size: int = option(1024, "vocabulary size", low=1)
    block_size: int = option(128, "tokens in a sequence", low=2)
    batch_size: int = option(8, "sequences in a training step", low=1)
    new_tokens: int = option(128, "tokens to generate", low=1)
    repeats: int = option(7, "timings of each side; medians are reported", low=1)
    data_dir: str = option("data/bin", "folder written by data.prepare, for loader and branches")
    fast: bool = option(False, "our models with support/fast.py in training")
    compile: bool = option(False, "torch.compile our models in training")
    device: str = option("auto", "auto, cpu, cuda ...")
    dtype: str = option("auto", "of the matrix products in training, on both sides", choices=("auto", "float32", "bfloat16"))
    out: str = option("out/bench.json", "file to write")


def in_turn(sides, repeats, device, warm=2):
    """Seconds that each of several functions takes, called in turn: {name: function} -> {name: median}."""
    def seconds(call):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start
    for call in [*sides.values()] * warm:
        call()  # the first calls allocate, and compile
    times = [{name: seconds(call) for name, call in sides.items()} for _ in range(repeats)]
    return {name: median(t[name] for t in times) for name in sides}


# ---- models -----------------------------------------------------------------------------------------------------------


def new(s, device, **changes):
    """A random model of the shape asked for; changes: fields of GPTConfig."""
    shape = {name: getattr(s, name) for name in ("n_embd", "n_layer", "n_head", "vocab_size", "block_size")}
    try:
        config = GPTConfig(**{**shape, "d_ff": 11 * s.n_embd // 4, "top_k": s.top_k} | changes)
    except ValueError as error:
        raise BadInput(f"--{error}") from None
    return GPT(config, torch.Generator().manual_seed(0)).to(device)


def equal_flops(s, device):
    """Our MoE, and the dense model whose feed-forward is as wide as all experts of one token together."""
    moe = new(s, device, n_expert=s.n_expert)
    return {"moe": moe, "iso_dense": new(s, device, d_ff=s.top_k * moe.config.d_ff)}


def hf_twin(model):
    """transformers' Llama, or Mixtral for an MoE of topk routing, with the weights of `model`. Raises BadInput without it."""
    try:
        import transformers
    except ImportError:
        raise BadInput("hf_*: transformers is not installed; pip install -r requirements-dev.txt") from None
    c, ours = model.config, model.state_dict()
    shape = dict(vocab_size=c.vocab_size, hidden_size=c.n_embd, intermediate_size=c.d_ff, num_hidden_layers=c.n_layer,
                 num_attention_heads=c.n_head, num_key_value_heads=c.n_kv_head, rms_norm_eps=c.norm_eps, rope_theta=c.rope_theta,
                 tie_word_embeddings=False, max_position_embeddings=8 * c.block_size)
    state = {theirs: t for name, p in ours.items()
             for theirs, t in zip(their_names(name, c), p.unbind() if p.ndim == 3 else [p], strict=True)}
    if not c.n_expert:
        twin = transformers.LlamaForCausalLM(transformers.LlamaConfig(attention_bias=False, **shape))
    else:
        twin = transformers.MixtralForCausalLM(
            transformers.MixtralConfig(num_local_experts=c.n_expert, num_experts_per_tok=c.top_k, **shape))
        for layer in range(c.n_layer):
            ff = model.blocks[layer].ff.state_dict()
            for prefix in ("mlp", "block_sparse_moe"):
                state[f"model.layers.{layer}.{prefix}.gate.weight"] = ff["router"]
                state[f"model.layers.{layer}.{prefix}.experts.gate_up_proj"] = torch.cat([ff["w_gate"], ff["w_up"]], dim=1)
                state[f"model.layers.{layer}.{prefix}.experts.down_proj"] = ff["w_down"]
    twin = twin.to(device=model.embed.weight.device, dtype=model.embed.weight.dtype)
    twin.load_state_dict({name: state[name] for name in twin.state_dict()})
    return twin.eval()


def hf_pair(s, device, **changes):
    """One of our models and its twin, whose logits agree, both in evaluation mode."""
    ours = new(s, device, **changes).eval()
    theirs, idx = hf_twin(ours), random_tokens(s, device, 2)
    with torch.inference_mode():
        difference = (ours(idx)[0] - theirs(idx).logits).abs().max().item()
    if not difference < 1e-2:
        raise BadInput(f"hf_*: the logits of transformers' model differ by {difference}; its version may be too new or too old")
    return ours, theirs


def random_tokens(s, device, batch_size, seed=0):
    tokens = torch.randint(0, s.vocab_size, (batch_size, s.block_size), generator=torch.Generator().manual_seed(seed))
    return send(tokens, device)


def trainer(s, device, model, forward=None):
    """A function that takes one training step of the real loop, each on another batch: slices of the same sizes again and again
    would spare an MoE work. forward: what to call instead of the model."""
    settings = TrainSettings(lr=1e-5)
    settings.alpha = 0.01 if isinstance(model, GPT) else 0.0
    optimizer = make_optimizer(model.train(), settings)
    if s.fast and isinstance(model, GPT):
        fast.install(model)
    forward = forward or model
    forward, seeds = torch.compile(forward) if s.compile else forward, count()

    def take():
        idx = random_tokens(s, device, s.batch_size, next(seeds))
        return training_step(forward, optimizer, idx, idx, settings, autocast(s.dtype, device))
    return take


def hf_forward(model):
    """transformers' model, called like ours."""
    def forward(idx, targets, **_):
        logits = model(idx, use_cache=False).logits
        return logits, F.cross_entropy(logits.float().flatten(0, 1), targets.flatten()), []
    return forward


# ---- what is timed: each returns {name of a ratio: value} ---------------------------------------------------------------


def step(s, device):
    """Training: our MoE against our dense model of equal active FLOPs (d_ff * top_k); also the plain dense model.

    Medians over models built anew: where in memory they happen to lie makes a tenth.
    """
    builds = []
    for _ in range(3):
        models = equal_flops(s, device) | {"dense": new(s, device)}
        builds.append(in_turn({name: trainer(s, device, m) for name, m in models.items()}, s.repeats, device))
    t = {name: median(build[name] for build in builds) for name in models}
    tokens = s.batch_size * s.block_size
    speed = {f"{name}_tokens_per_second": tokens / t[name] for name in t}
    if peak_flops(device):
        speed["dense_mfu"] = models["dense"].flops_per_token() * tokens / t["dense"] / peak_flops(device)
    return {"moe_over_iso_dense": median(build["moe"] / build["iso_dense"] for build in builds), **speed}


def readable(s, device):
    """Training: the MoE as model.py has it against the same with support/fast.py."""
    models = {fast: new(s, device, n_expert=s.n_expert) for fast in (False, True)}
    t = in_turn({fast: trainer(replace(s, fast=fast), device, model) for fast, model in models.items()}, s.repeats, device)
    return {"readable_over_fast": t[False] / t[True]}


def forward(s, device):
    """Forward pass alone, MoE against the dense model of equal active FLOPs."""
    idx = random_tokens(s, device, s.batch_size)
    models = equal_flops(s, device)
    with torch.inference_mode():
        t = in_turn({name: lambda m=m: m(idx) for name, m in models.items()}, s.repeats, device)
    return {"moe_forward_over_iso_dense": t["moe"] / t["iso_dense"]}


def experts(s, device):
    """Training: 16 experts against 4, two for each token."""
    t = in_turn({n: trainer(s, device, new(s, device, n_expert=n, top_k=2)) for n in (16, 4)}, s.repeats, device)
    return {"experts16_over_4": t[16] / t[4]}


def generate(s, device):
    """Generation: our MoE against our plain dense model."""
    prompt = random_tokens(s, device, 1)[:, :8]
    models = {"moe": new(s, device, n_expert=s.n_expert).eval(), "dense": new(s, device).eval()}
    t = in_turn({name: lambda m=m: m.generate(prompt, s.new_tokens) for name, m in models.items()}, s.repeats, device)
    return {"moe_generate_over_dense": t["moe"] / t["dense"], "generate_tokens_per_second": s.new_tokens / t["moe"]}


def hf_step(s, device):
    """Training: transformers' Mixtral against our MoE, its Llama against our dense model; with compile, ours compiled too."""
    ratios, plain = {}, replace(s, compile=False)
    for name, changes in (("moe", {"n_expert": s.n_expert}), ("dense", {})):
        ours, theirs = hf_pair(s, device, **changes)
        sides = {"ours": trainer(plain, device, ours), "theirs": trainer(plain, device, theirs, hf_forward(theirs))}
        if s.compile:
            sides["ours_compiled"] = trainer(s, device, copy.deepcopy(ours))
        t = in_turn(sides, s.repeats, device)
        ratios |= {f"hf_{name}_over_{side}": t["theirs"] / t[side] for side in sides if side != "theirs"}
    return ratios


def hf_generate(s, device):
    """Generation with a cache: transformers' Mixtral against our MoE, for 1 and for 16 sequences."""
    ours, theirs = hf_pair(replace(s, block_size=s.new_tokens + 8), device, n_expert=s.n_expert)
    theirs.generation_config.eos_token_id = theirs.generation_config.pad_token_id = None
    ratios = {}
    for n in (1, 16):
        prompt = random_tokens(s, device, n)[:, :8]
        theirs_go_on = partial(theirs.generate, prompt, max_new_tokens=s.new_tokens, min_new_tokens=s.new_tokens, do_sample=False,
                               attention_mask=torch.ones_like(prompt))
        t = in_turn({"ours": partial(ours.generate, prompt, s.new_tokens), "theirs": theirs_go_on}, s.repeats, device)
        ratios[str(n)] = t["theirs"] / t["ours"]
    return {"hf_generate_over_ours": ratios}


def loader(s, device):
    """Making the next batch, against a training step."""
    tokens = {"general": text_of({"general": read_domain(s.data_dir, "general")}, "general", "train", s.block_size)}
    steps = count()
    take = trainer(s, device, new(s, device))
    t = in_turn({"load": lambda: get_batch(tokens, {"general": 1.0}, s.block_size, s.batch_size, 0, next(steps)), "step": take},
                10 * s.repeats, device)
    return {"loader_over_step": t["load"] / t["step"]}


def branches(s, device):
    """Three branches at the same time by the Makefile's own rule, `make -j3`, against one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        seed, files = f"{folder}/seed.pt", [f"{folder}/{name}.pt" for name in ("math", "code", "wiki")]
        quiet = dict(cwd=Path(__file__).parent.parent, check=True, capture_output=True)
        data = Path(s.data_dir).resolve()
        first = ["train_expert.py", "--data", "general", "--data_dir", data, "--steps", "1", "--out", seed]
        subprocess.run([sys.executable, *first], **quiet)

        def make(*more):
            for file in files:
                Path(file).unlink(missing_ok=True)
            subprocess.run(["make", "-o", seed, f"OUT={folder}", f"DATA={data}", f"PY={sys.executable}",
                            "B=150", *more, *files], **quiet)
        t = in_turn({"parallel": lambda: make("-j3"), "serial": make}, 3, device, warm=0)
    return {"parallel_over_serial": t["parallel"] / t["serial"]}


def mixing(s, device):
    """mix.py on four checkpoints against copying the same files."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{name}.pt" for name in ("seed", "math", "code", "wiki")]
        model = new(replace(s, n_embd=512, n_layer=8, n_head=8, vocab_size=tokenizer.N_RANKS + 1), torch.device("cpu"))
        about = tokenizer.describe(tokenizer.load())
        for path in paths:
            ckpt.save(path, ckpt.pack(model.state_dict(), model.config, about, [], [ledger.entry("train", "seed", [])]))

        def copy_all():
            for path in paths:
                write_whole(f"{path}.copy", lambda file, path=path: shutil.copyfileobj(open(path, "rb"), file, 2**20))

        def mix_all():
            with redirect_stdout(StringIO()):
                mix.main([*paths, "--out", f"{folder}/mixed.pt"])
        t = in_turn({"mix": mix_all, "copy": copy_all}, s.repeats, device)
    return {"mix_over_copy": t["mix"] / t["copy"]}


def profile(s, device):
    """Where the time of a training step of the MoE goes: prints torch's table of operations."""
    take = trainer(s, device, new(s, device, n_expert=s.n_expert))
    take()
    with torch.profiler.profile() as seen:
        for _ in range(5):
            take()
    print(seen.key_averages().table(sort_by=f"self_{device.type}_time_total", row_limit=25, max_name_column_width=40))
    return {}


def everything(s, device):
    """What `make bench` measures: in training both a small and a wide model, and the small one with more tokens in a step."""
    shapes = {"128": {"n_embd": 128, "n_head": 4}, "512": {"n_embd": 512, "n_head": 16}}
    shapes["128, 4x tokens"] = {**shapes["128"], "batch_size": 4 * s.batch_size}
    ratios = {}
    for part in (step, readable, experts, hf_step, forward, generate, loader, branches, mixing, hf_generate):
        by_shape = part in (step, readable, experts, hf_step)
        found = {name: part(replace(s, **shape), device) for name, shape in shapes.items()} if by_shape else part(s, device)
        if by_shape:
            found = {key: {name: result[key] for name, result in found.items()} for key in found["128"]}
        print(found, flush=True)
        ratios |= found
    return ratios


def shown(results):
    """Each number as in the tables: {"moe_over_iso_dense, 128": "1.10", ...}."""
    flat = {name: value for name, value in results.items() if not isinstance(value, dict)}
    for name in results.keys() - flat.keys() - {"machine"}:
        flat |= {f"{name}, {key}": value for key, value in results[name].items()}
    return {name: f"{value:.2f}" if value < 100 else f"{value:,.0f}" for name, value in flat.items()}


PARTS = {"step": step, "readable": readable, "forward": forward, "experts": experts, "generate": generate, "loader": loader,
         "branches": branches, "mix": mixing, "hf_step": hf_step, "hf_generate": hf_generate, "profile": profile}


def main(argv=None):
    s = parse(Settings, argv)
    for name in s.what:
        if name not in PARTS:
            raise BadInput(f"{name}: not one of {', '.join(PARTS)}")
    device = pick_device(s.device)
    for changes in ({}, {"n_expert": s.n_expert}):
        new(s, torch.device("meta"), **changes)  # is it a shape at all?
    check_other(s.out, files_in(s.data_dir))
    results = {}
    with output(s.out):
        for name, part in [(name, PARTS[name]) for name in s.what] or [("bench", everything)]:
            with reading(name, "measured"):
                results |= part(s, device)
        print(table(["ratio", "measured"], [list(row) for row in sorted(shown(results).items())]))
        results["machine"] = machine() | {"threads": torch.get_num_threads(), "settings": vars(s)}
        if s.what != ["profile"]:
            write_text(s.out, json.dumps(results, indent=1))


if __name__ == "__main__":
    run(main)
