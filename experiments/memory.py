"""Count the GPU memory of a training step, on a CPU, by the sizes of the tensors that autograd saves: docs/one-gpu.md.

    python -m experiments.memory --batch_size 4      # for micro-batches of 4 sequences of 1,024 tokens

The sum is a little above the peak: when most activations are held, there are no gradients of weights yet.
"""
import torch

from cli import make_parser, positive_int, run
from model import GPT, Block, GPTConfig, rope_angles
from support.distributed import autocast

SHAPES = {
    "SmolLM2-135M": dict(vocab_size=49152, n_layer=30, n_embd=576, n_head=9, n_kv_head=3, d_ff=1536, tie_weights=True),
    "SmolLM2-360M": dict(vocab_size=49152, n_layer=32, n_embd=960, n_head=15, n_kv_head=5, d_ff=2560, tie_weights=True),
    "TinyLlama-1.1B": dict(vocab_size=32000, n_layer=22, n_embd=2048, n_head=32, n_kv_head=4, d_ff=5632)}


def saved_by_block(config, x):
    """The bytes that autograd saves, apart from weights, in the bfloat16 forward pass of a block on x, (B, T, D)."""
    block, storages = Block(config, layer=0), {}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()  # several tensors may share one

    with torch.autograd.graph.saved_tensors_hooks(keep, keep), autocast("bfloat16", x.device):
        block(x, rope_angles(config, 0, x.shape[1], x.device))
    for p in block.parameters():
        storages.pop(p.untyped_storage().data_ptr(), None)
    return sum(storage.nbytes() for storage in storages.values())


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--batch_size", type=positive_int, default=8, help="sequences in a micro-batch (default: 8)")
    B, T = parser.parse_args(argv).batch_size, 1024
    print("| GB | weights | activations | logits | sum | sum with `--recompute` |\n|---|---|---|---|---|---|")
    for name, shape in SHAPES.items():
        for kind, n_expert in (("branch", 0), ("mixture", 4)):
            config = GPTConfig(**shape, n_expert=n_expert)
            with torch.device("meta"):
                weights = 16 * GPT(config).num_params()
            x = torch.zeros(B, T, config.n_embd, requires_grad=True)
            block = saved_by_block(config, x)
            activations = config.n_layer * block
            recomputed = config.n_layer * 4 * x.numel() + block  # the inputs of all blocks, and one block at a time
            logits = B * T * config.vocab_size * (2 + 4 + 8)  # bfloat16; float32: their log-softmax, two gradients
            sizes = [weights, activations, logits, weights + activations + logits, weights + recomputed + logits]
            print(f"| {name}, {kind} |", " | ".join(f"{size / 1e9:.1f}" for size in sizes), "|")


if __name__ == "__main__":
    run(main)
