"""Evaluate Sample Top-1 (3.3) in two other ways than evaluate.py, which takes the likeliest expert, with a gate of 1.

    python -m experiments.sample_top1 out/seed0/btx_sample.pt --out out/seed0

drawn/results.json: experts are drawn, as in training. mean_gate/results.json: the gate is the mean gate of training.
"""
import torch

import evaluate
from cli import BadInput, make_parser, run
from model import gumbel
from support.checkpoint import build_model
from support.distributed import pick_device


class DrawingModel:
    """A Sample Top-1 model that draws its experts in every pass; called like a `GPT`."""

    def __init__(self, model, generator):
        self.model = model
        self.config = model.config
        self.generator = generator

    def __call__(self, idx, cache=None):
        tau = 1.0  # does not change which expert is drawn
        return self.model(idx, cache=cache, noise=gumbel(self.config, idx.numel(), tau, self.generator))


@torch.no_grad()
def apply_mean_gates(model, idx, generator):
    """Multiply each expert of a Sample Top-1 model by the mean gate that the noise of training gives in its layer.

    The gate of a drawn expert is below 1 in training and 1 in evaluation. This undoes the difference. idx: (B, T), the
    text on which the mean is taken.
    """
    tau = 0.5  # where training ends, see finetune_router.temperature
    model.train()
    _, _, routing = model(idx, noise=gumbel(model.config, idx.numel(), tau, generator))
    model.eval()
    for block, layer in zip(model.blocks[1:], routing[1:], strict=True):  # the first layer routes softly
        block.ff.w_down.mul_(layer.gates.mean())


@torch.inference_mode()
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("models", nargs=1, metavar="MODEL", help="checkpoint that was mixed with --routing sample")
    evaluate.add_options(parser)
    args = parser.parse_args(argv)
    device = pick_device(args.device)
    checkpoints, tokenizer, domains = evaluate.load_inputs(args)
    [(name, checkpoint)] = checkpoints.items()
    if not checkpoint["experts"] or checkpoint["config"]["routing"] != "sample":
        raise BadInput(f"{args.models[0]} does not route by Sample Top-1; mix it with --routing sample")
    tests = evaluate.choose_tests(args, checkpoints, domains)
    model = build_model(checkpoint, device)

    drawing = DrawingModel(model, torch.Generator(device).manual_seed(0))
    drawn = evaluate.evaluate_model(drawing, tokenizer, tests, args, device, drawn=True)
    read = torch.cat([windows[:8, :-1] for windows, _ in tests.values() if len(windows)]).to(device)
    apply_mean_gates(model, read, torch.Generator(device).manual_seed(0))
    gated = evaluate.evaluate_model(model, tokenizer, tests, args, device)

    for how, (scores, shares, _) in (("mean_gate", gated), ("drawn", drawn)):  # make waits for the last
        results = {name: {**scores, **evaluate.costs(model, checkpoint["ledger"])}}
        loads = {name: {"experts": checkpoint["experts"], **shares}}
        evaluate.write_results(args.out / how / "results.json", results, loads, args, domains)


if __name__ == "__main__":
    run(main)
