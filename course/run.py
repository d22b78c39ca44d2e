"""Run the checks of one stage on the submission in the current folder; the grader's child process, which knows no right answer.

    python -m course.run STAGE OUT SEED,SEED... [NAME.SEED to leave out ...]

What check NAME gave goes to OUT/NAME.SEED.pt, or its error to OUT/NAME.SEED.error; before that, OUT/NAME.SEED.begun is there.
"""
import importlib
import sys
from pathlib import Path

from course import checks
from course.check import modules, where


def main(stage, out, seeds, *done):
    for check, _ in checks.CHECKS[int(stage)]:
        for seed in seeds.split(","):
            place = f"{out}/{check.__name__}.{seed}"
            if Path(place).name in done:
                continue
            Path(f"{place}.begun").touch()
            try:
                write = importlib.import_module("support.checkpoint").write  # it imports the submission's model, which may fail
                write(f"{place}.pt", {"model": checks.compute(check, modules(), int(seed))})
            except Exception as error:  # whatever a submission may do
                Path(f"{place}.error").write_text(where(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
