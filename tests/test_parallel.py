"""Two ranks train as one does with the same global batch, whole or sharded."""
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import train_expert
from model import GPT, GPTConfig
from support import checkpoint as ckpt
from support import devices
from support.settings import BadInput

pytestmark = pytest.mark.long
RUNS = {"dense": {"init": "seed"}, "moe": {"init": "btx_mixed", "alpha": 0.1},
        "accumulated": {"init": "seed", "grad_accum": 2},
        "thrifty": {"init": "btx_mixed", "alpha": 0.1, "recompute": True, "loss_chunk": 7}}
ROOT = Path(__file__).parent.parent
WORKER = ROOT / "tests" / "two_ranks.py"


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """Checkpoints NAME_RANKS_HOW.pt of 4 steps; those called resumed began on two sharded ranks, and ended on one, or on two."""
    folder = tmp_path_factory.mktemp("ranks")

    def settings(name, label, **more):
        changes = {"data_dir": str(tiny / "data"), "steps": 4, "batch_size": 8, "lr": 0.01, "save_every": 2, "block_size": 16}
        init = str(tiny / f"{RUNS[name]['init']}.pt")
        return changes | RUNS[name] | {"init": init, "out": f"{folder}/{name}_{label}.pt"} | more
    one = [settings(name, "1") for name in ("dense", "moe")]
    two = [settings(name, f"2_{how}", shard=how == "shard") for name in RUNS for how in ("ddp", "shard")]
    two += [settings("moe", "resumed_1", stop_after=3, shard=True), settings("moe", "resumed_2", stop_after=3, shard=True),
            settings("moe", "resumed_2", resume=True, shard=True)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(WORKER), json.dumps(two)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for command in (launch, [sys.executable, str(WORKER), json.dumps([*one, settings("moe", "resumed_1", resume=True)])]):
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100)
        assert done.returncode == 0, done.stderr[-12000:]
    return folder


def difference(a, b):
    assert a.keys() == b.keys() and all(a[name].dtype == torch.float64 for name in a)
    return max((a[name] - b[name]).abs().max().item() for name in a)


@pytest.mark.parametrize("name", ["dense", "moe"])
@pytest.mark.parametrize("how", ["2_ddp", "2_shard"])
def test_two_ranks_equal_one(trained, name, how):
    """Weights after four steps, the balancing loss of the whole batch among what they learn from."""
    one, two = (ckpt.load(trained / f"{name}_{label}.pt") for label in ("1", how))
    assert difference(one["model"], two["model"]) < 1e-10
    assert one["lineage"][-1]["tokens"] == two["lineage"][-1]["tokens"]
    for a, b in zip(one["log"], two["log"], strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"]) and a["val_loss"] == pytest.approx(b["val_loss"])  # float32
        assert a.get("balance", 0) == pytest.approx(b.get("balance", 0))


@pytest.mark.parametrize("how", ["2_ddp", "2_shard"])
@pytest.mark.parametrize("name,same_as", [("accumulated", "dense"), ("thrifty", "moe")])
def test_micro_batches_and_what_saves_memory_change_nothing_with_ranks_either(trained, name, same_as, how):
    a, b = (ckpt.load(trained / f"{label}.pt")["model"] for label in (f"{name}_{how}", f"{same_as}_1"))
    assert difference(a, b) < 1e-10


@pytest.mark.parametrize("label", ["resumed_1", "resumed_2"])
def test_a_run_on_two_sharded_ranks_goes_on_with_one_or_two(trained, label):
    a, b = (ckpt.load(trained / f"moe_{label}.pt")["model"] for label in ("1", label))
    assert difference(a, b) < 1e-10


def test_gradients_are_averaged_once_a_step_not_once_a_micro_batch(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/one", rank=0, world_size=1)
    try:
        forward = torch.nn.parallel.DistributedDataParallel(GPT(GPTConfig(n_layer=1, n_embd=16, n_head=2, d_ff=16)))
        calls = []

        def hook(state, bucket):
            calls.append(bucket.index())
            future = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future
        forward.register_comm_hook(None, hook)
        settings, x = train_expert.TrainSettings(batch_size=4, grad_accum=4), torch.zeros(4, 8, dtype=torch.int64)
        train_expert.training_step(forward, train_expert.make_optimizer(forward.module, settings), x, x, settings,
                                   devices.autocast("float32", torch.device("cpu")))
        assert sorted(calls) == sorted({*calls})
    finally:
        dist.destroy_process_group()


ALONE = {"file": "--steps 9 --out {tmp}/file/a.pt --data_dir {tiny}/data",  # the first rank's output lies in a file
         "nowhere": "--steps 9999 --out {tmp}/a.pt --data_dir $(test $RANK = 0 && echo {tiny}/data || echo nowhere)",
         "cannot be written": "--steps 2 --out {tmp}/a.pt --data_dir {tiny}/data"}  # where files cannot grow, at the end


@pytest.mark.parametrize("word", ALONE)
def test_what_one_rank_refuses_is_said_and_ends_both(word, tiny, tmp_path):
    (tmp_path / "file").touch()
    script = (f"ulimit -f {8 if word == 'cannot be written' else 'unlimited'}; exec {sys.executable} train_expert.py --init "
              f"{tiny}/seed.pt --data math --device cpu {ALONE[word].format(tmp=tmp_path, tiny=tiny)}")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "--no-python"]
    done = subprocess.run([*launch, "bash", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})
    lines = [line for line in done.stderr.splitlines() if line.startswith("train_expert.py: ") and "another rank" not in line]
    assert done.returncode and len(lines) == 1 and word in lines[0]
    assert "RuntimeError" not in done.stderr


def running(word):
    """The numbers of the processes with this word in their command line."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [int(file.parent.name)] if word in file.read_text() else []
        except OSError:
            pass  # it ended just now
    return set(found) - {os.getpid()}


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="processes are found as Linux shows them")
def test_ranks_end_with_torchrun(tiny, tmp_path):
    run = {"init": f"{tiny}/seed.pt", "data_dir": str(tiny / "data"), "steps": 10**6, "save_every": 5, "batch_size": 2,
           "out": f"{tmp_path}/a.pt"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(WORKER), json.dumps([run])]
    torchrun = subprocess.Popen(launch, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    while not (tmp_path / "a.state").exists():
        assert torchrun.poll() is None
        time.sleep(0.1)
    assert len(running(str(tmp_path))) == 3
    torchrun.kill()
    torchrun.wait()
    deadline = time.time() + 20
    while running(str(tmp_path)) and time.time() < deadline:
        time.sleep(0.1)
    assert not running(str(tmp_path))


@pytest.mark.parametrize("change", [{"WORLD_SIZE": ""}, {"RANK": "x"}, {"RANK": "3"}, {"MASTER_PORT": "99999"}])
def test_half_of_torchruns_environment(change, monkeypatch):
    whole = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in (whole | change).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match="torchrun"):
        devices.n_ranks()
