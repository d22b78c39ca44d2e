"""Count the GPU memory of a training step, on a CPU, by the sizes of the tensors that autograd saves: docs/one-gpu.md.

    python -m experiments.memory --batch_size 4      # for micro-batches of 4 sequences of 1,024 tokens

Activations grow by the same amount with each layer and each sequence, so one and two of both are enough to count. The
sum is a little above the peak: when most activations are held, there are no gradients of weights yet.
"""
from cli import make_parser, positive_int, run

import torch

from model import GPT, GPTConfig
from support.distributed import autocast

SHAPES = {
    "SmolLM2-135M": dict(vocab_size=49152, n_layer=30, n_embd=576, n_head=9, n_kv_head=3, d_ff=1536, tie_weights=True),
    "SmolLM2-360M": dict(vocab_size=49152, n_layer=32, n_embd=960, n_head=15, n_kv_head=5, d_ff=2560, tie_weights=True),
    "TinyLlama-1.1B": dict(vocab_size=32000, n_layer=22, n_embd=2048, n_head=32, n_kv_head=4, d_ff=5632)}


def saved_bytes(config, idx):
    """The bytes that autograd saves for the backward pass on idx, (B, T), in bfloat16, without the weights."""
    model = GPT(config, torch.Generator().manual_seed(0))
    storages = {}  # by address: tensors that share a storage take its memory once

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()

    # nothing is unpacked, as there is no backward pass
    with torch.autograd.graph.saved_tensors_hooks(keep, keep), autocast("bfloat16", idx.device):
        model(idx, idx)
    for p in model.parameters():
        storages.pop(p.untyped_storage().data_ptr(), None)
    return sum(storage.nbytes() for storage in storages.values())


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--batch_size", type=positive_int, default=8, help="sequences in a micro-batch (default: 8)")
    B, T = parser.parse_args(argv).batch_size, 1024
    print("| GB | weights | activations | logits | sum | sum with `--recompute` |\n|---|---|---|---|---|---|")
    for name, shape in SHAPES.items():
        for kind, n_expert in (("branch", 0), ("mixture", 4)):
            with torch.device("meta"):
                weights = 16 * GPT(GPTConfig(**shape, n_expert=n_expert)).num_params()
            saved = []  # by models of one layer and of two, with a vocabulary of 2, since the logits are counted apart
            for n_layer in (1, 2):
                config = GPTConfig(**shape | {"n_layer": n_layer, "vocab_size": 2}, n_expert=n_expert)
                one, two = (saved_bytes(config, torch.zeros(n, T, dtype=torch.int64)) for n in (1, 2))
                saved.append(one + (B - 1) * (two - one))
            activations = saved[0] + (shape["n_layer"] - 1) * (saved[1] - saved[0])
            recomputed = saved[0] + shape["n_layer"] * B * T * 4 * shape["n_embd"]  # a block, and the inputs of all
            logits = B * T * shape["vocab_size"] * (2 + 4 + 8)  # bfloat16; float32: their log-softmax, two gradients
            sizes = [weights, activations, logits, weights + activations + logits, weights + recomputed + logits]
            print(f"| {name}, {kind} |", " | ".join(f"{size / 1e9:.1f}" for size in sizes), "|")


if __name__ == "__main__":
    run(main)
