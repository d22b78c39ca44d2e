"""What tests/test_parallel.py starts under torchrun: train a model in float64 and write its weights.

    torchrun --nproc_per_node=2 tests/two_ranks.py '[{"init": "seed.pt", "out": "a.pt", ...}]'  # one run after the other
"""
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
import train_expert
from finetune_router import Settings
from support import checkpoint as ckpt
from support import devices, settings


def main():
    device = torch.device("cpu")
    with devices.ranks(device):
        for changes in json.loads(sys.argv[1]):
            stop_after = changes.pop("stop_after", None)
            options = Settings(data="math=0.5,general=0.5", device="cpu", dtype="float32", eval_windows=1, **changes)
            header = ckpt.load(options.init)
            model = ckpt.build(header).double()
            real = train_expert.get_batch

            def get_batch(*args, real=real, stop_after=stop_after, **rest):
                if args[5] == stop_after:
                    raise InterruptedError
                return real(*args, **rest)
            train_expert.get_batch = get_batch
            try:
                train_expert.train(model, options, header, device, train_expert.check(options)[1])
            except InterruptedError:
                pass
            train_expert.get_batch = real


settings.run(main)
