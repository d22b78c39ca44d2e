"""Run the checks of some stages on the submission in the current folder. The grader starts this as another process.

    python -m course.run FIRST_SEED STAGE ...

Writes {check: {seed: results or error}} of each stage to the file STAGE.pt. There are two seeds.
"""
import sys

import torch

from course.check import attempt_stage
from data.common import replacing

if __name__ == "__main__":
    seed, *stages = [int(word) for word in sys.argv[1:]]
    for stage in stages:
        with replacing(f"{stage}.pt") as part:
            torch.save(attempt_stage(stage, (seed, seed + 1)), part)
