"""What tests/test_parallel.py starts under torchrun: train a model in float64 and write its weights.

    torchrun --nproc_per_node=2 tests/two_ranks.py DATA OUT INIT... with several runs, described on the command line as JSON
"""
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
import checkpoint as ckpt
import parallel
import train_expert
from finetune_router import Settings


def main():
    with parallel.ranks(torch.device("cpu")) as device:
        for changes in json.loads(sys.argv[1]):
            stop_after = changes.pop("stop_after", None)
            settings = Settings(device="cpu", dtype="float32", eval_windows=1, **changes)
            header = ckpt.load(settings.init)
            model = ckpt.build(header).double()
            real = train_expert.get_batch

            def get_batch(*args, real=real, stop_after=stop_after, **rest):
                if args[5] == stop_after:
                    raise InterruptedError
                return real(*args, **rest)
            train_expert.get_batch = get_batch
            try:
                train_expert.train(model, settings, {"math": 0.5, "general": 0.5}, device, header, "test", alpha=settings.alpha)
            except InterruptedError:
                pass
            train_expert.get_batch = real


main()
