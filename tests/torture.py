"""Kill runs at random moments, start them again, and see whether anything is lost; `make torture` does more of it than the tests.

    python tests/torture.py kill FOLDER 30   # SIGKILL each stage 30 times, also while it saves; the weights must not differ
    python tests/torture.py soak FOLDER 500  # go on 500 times with a run of ten steps; no memory or file is left over

FOLDER is as tests/tiny.py makes it, and made if it does not exist. Runs are forked from this process,
which has imported everything and trains nothing: a start takes no time, and a killed run is a real process.
"""
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch._dynamo  # noqa: F401  the optimizer would import it in each fork anew

sys.path.insert(0, str(Path(__file__).parent.parent))
import finetune_router
import mix
import train_expert
from support import checkpoint as ckpt
from support import settings
from tests.tiny import last_counts


def start(main, arguments):
    """Fork a process that calls main(arguments) as the script would; returns its number."""
    process = os.fork()
    if process == 0:
        torch.set_num_threads(1)
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        code = 1
        try:
            settings.run(lambda: main(arguments))
            code = 0
        except SystemExit as exit:
            code = exit.code
        finally:
            os._exit(code)
    return process


def finish(process):
    """Wait for a process; its exit code, or minus the signal that killed it, and the most memory it had, in KiB."""
    _, status, used = os.wait4(process, 0)
    return os.waitstatus_to_exitcode(status), used.ru_maxrss


def stages(folder):
    """Each stage's main and arguments, without --out."""
    train = ["--data", "math=0.5,general=0.5", "--data_dir", f"{folder}/data", "--steps", "6", "--batch_size", "2",
             "--save_every", "1", "--eval_windows", "1", "--eval_every", "3", "--dtype", "float32", "--device", "cpu", "--resume"]
    return {"train": (train_expert.main, ["--init", f"{folder}/seed.pt", *train]),
            "finetune": (finetune_router.main, ["--init", f"{folder}/btx_mixed.pt", *train]),
            "sample": (finetune_router.main, ["--init", f"{folder}/sample_mixed.pt", *train]),
            "mix": (mix.main, [f"{folder}/seed.pt", f"{folder}/math.pt"])}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a | b)


def kill(folder, kills):
    """Returns how often each stage was killed; raises AssertionError if a file was broken or the weights differ at the end."""
    rng, counts = random.Random(0), {}
    for name, (main, arguments) in stages(folder).items():
        out = folder / f"{name}_kill" / "model.pt"
        begin = time.perf_counter()
        assert finish(start(main, [*arguments, "--out", str(out)]))[0] == 0
        duration = time.perf_counter() - begin
        want, files = ckpt.load(out)["model"], sorted(p.name for p in out.parent.iterdir())
        counts[name], code, step, state = 0, 0, 0, out.with_suffix(".state")
        while True:
            if out.exists():  # whole again: from the start
                assert same(ckpt.load(out)["model"], want), f"{name}: other weights"
                left = {p.name for p in out.parent.iterdir()} - set(files)  # killed when all was done but the tidying up
                assert not left or code and left <= {".model.pt.lock", "model.state"}, f"{name}: left over: {left}"
                if counts[name] >= kills:
                    break
                for file in out.parent.iterdir():
                    file.unlink()
                step = 0
            process = start(main, [*arguments, "--out", str(out)])
            if counts[name] < kills:
                time.sleep(rng.uniform(0, duration))
                os.kill(process, signal.SIGKILL)
            code, _ = finish(process)
            assert code in (0, -signal.SIGKILL), f"{name}: exit code {code}"
            counts[name] += code != 0
            if state.exists() and not out.exists():  # whole, and never of an earlier step than before
                before, step = step, ckpt.read(state)["step"]
                assert step >= before, f"{name}: back from step {before} to {step}"
    return counts


def step_of(state):
    """The step that a state file is of; 0 if there is none, or it is written or taken away just now."""
    if not state.exists():  # asked first: it may come while we look
        return 0
    try:
        return ckpt.read(state)["step"]
    except settings.BadInput:
        if state.exists():
            raise
        return 0


def soak(folder, times):
    """Stop a run of ten steps after each, and go on, `times` times. Returns how many runs came to their end, and the most memory
    of a late process over that of an early one. Raises AssertionError for other weights, or if something is left over."""
    main, arguments = stages(folder)["train"]
    out = folder / "soak" / "model.pt"
    arguments = last_counts([*arguments, "--steps", "10", "--save_every", "1", "--out", str(out)])
    assert finish(start(main, arguments))[0] == 0
    want, files, ended, memory = ckpt.load(out)["model"], sorted(p.name for p in out.parent.iterdir()), 1, []
    out.unlink()
    state = out.with_suffix(".state")
    for i in range(times):
        process = start(main, arguments)
        step = step_of(state)
        while not out.exists() and step_of(state) == step:
            time.sleep(0.001)
        os.kill(process, signal.SIGTERM)
        code, used = finish(process)
        memory.append(used)
        ended_just_now = code == -signal.SIGTERM and out.exists()  # too late to stop it, too early for its exit
        assert code in (0, 128 + signal.SIGTERM) or ended_just_now, f"resume {i}: exit code {code}"
        if out.exists():
            assert same(ckpt.load(out)["model"], want), f"resume {i}: other weights"
            assert sorted(p.name for p in out.parent.iterdir()) == files, f"resume {i}: something is left over"
            out.unlink()
            ended += 1
    tenth = max(1, times // 10)
    return {"ended": ended, "memory": max(memory[-tenth:]) / max(memory[:tenth])}


if __name__ == "__main__":
    if not Path(sys.argv[2]).exists():
        subprocess.run([sys.executable, Path(__file__).parent / "tiny.py", sys.argv[2]], check=True, stdout=subprocess.DEVNULL)
    print(json.dumps({"kill": kill, "soak": soak}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))))
