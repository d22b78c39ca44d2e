"""What a GPU needs of the code, tested without one; and, where there is one, that it computes what the CPU does."""
import json
import subprocess
import sys

import pytest
import torch
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import tests.tiny
import train_expert
from experiments import gpu
from experiments.gpu import PATHS
from model import GPT, GPTConfig
from support import checkpoint as ckpt
from support import devices, fast, settings

MEMORY = [{}, {"recompute": True}, {"loss_chunk": 24}]
SMALL = dict(vocab_size=64, block_size=16, n_layer=2, n_head=2, n_embd=32, d_ff=32)


@pytest.fixture
def dynamo():
    """Nothing compiled before, and nothing left for the tests after."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def new(path, device="cpu"):
    """A model as --fast trains it."""
    with torch.device(device):
        return fast.install(GPT(GPTConfig(**SMALL | PATHS[path]))).train()


def trained(model, forward=None, steps=1, dtype=torch.float32, fresh=None, device="cpu", **memory):
    """Steps of the training loop, each on another batch, at another rate and temperature. Returns the last loss.
    fresh: what makes a batch, random rows by default."""
    settings = train_expert.TrainSettings(batch_size=3, **memory)
    settings.alpha = 0.01
    optimizer = train_expert.make_optimizer(model, settings)
    for step in range(steps):
        x = fresh() if fresh else torch.randint(0, 64, (3, 16), generator=torch.Generator().manual_seed(step)).to(device)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (step + 1)
        noise = train_expert.router_noise(model.config, step / steps, (0, 1, step, 0), torch.device(device))
        autocast = torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16)
        nll, _ = train_expert.training_step(model if forward is None else forward, optimizer, x, x, settings, autocast, noise)
    return nll


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("path", PATHS)
def test_a_step_waits_for_no_number(path, memory, monkeypatch):
    """Fake tensors have shapes and dtypes and no numbers: whatever would wait for a GPU to know one raises an error.

    In bfloat16; our own product of slices, for other dtypes and shapes, waits behind its fake.
    """
    monkeypatch.delattr(fast, "grouped_product")
    monkeypatch.setattr(train_expert, "gumbel", lambda config, n, tau, generator: [
        (torch.empty(n, config.n_expert), tau) for _ in range(config.n_layer)])  # a generator cannot be fake
    with FakeTensorMode():
        nll = trained(new(path), dtype=torch.bfloat16, fresh=lambda: torch.empty(3, 16, dtype=torch.int64), **memory)
        with pytest.raises(Exception, match="local_scalar"):
            bool(nll)
    assert nll.shape == ()


@pytest.mark.parametrize("memory", [pytest.param(m, marks=[pytest.mark.long] * bool(m)) for m in MEMORY])
@pytest.mark.parametrize("path", PATHS)
def test_the_compiler_makes_one_graph_and_keeps_it(path, memory, dynamo):
    """No break and no second compilation in fifty steps; this backend needs no compiler."""
    model = new(path)
    trained(model, torch.compile(model, backend="aot_eager", fullgraph=True), steps=50, **memory)
    assert counters["stats"]["unique_graphs"] == 1, counters


class Count(TorchDispatchMode):
    """Counts operators: each is a kernel on a GPU, or a few; views are free."""

    def __init__(self):
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n += not func.is_view
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("path,most", [("dense", 420), ("topk", 510), ("switch", 540), ("soft", 510), ("sample", 520)])
def test_a_step_takes_no_more_operators_than_now(path, most):
    """A small model's step on a GPU takes as long as its kernels take to start. Versions of torch differ by a few."""
    with Count() as count:
        trained(new(path))
    assert count.n <= 1.05 * most


@pytest.mark.long
def test_the_check_of_a_gpu_finds_nothing_wrong_with_a_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **mode: model)  # a minute of g++
    monkeypatch.setattr(devices, "check_compiler", lambda device: None)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 32, "d_ff": 64, "block_size": 32, "batch_size": 2, "probe": 2, "large_embd": 64,
             "large_layer": 2, "large_block": 32, "large_batch": 2, "seed_steps": 100}
    gpu.main(["--device", "cpu", "--out", str(tmp_path / "gpu.json"), *(w for k, v in sizes.items() for w in (f"--{k}", str(v)))])
    found = json.loads((tmp_path / "gpu.json").read_text())
    for name, value in found.items():
        if name.startswith("parity"):
            assert value < {"float64": 1e-12, "float32": 1e-5, "bfloat16": 0.1}[name.split(", ")[-1]], name
        assert not name.startswith(("generation", "determinism")) or value is True
        assert not name.startswith("waits") or value == "none"
    assert not [name for name in found if name.endswith("failed")]
    assert all(any(goal in name for name in found) for goal in gpu.GOALS if "MFU" not in goal)
    assert found["compilers: ms for a dense step, reduce-overhead"] > 0
    assert found["recipe: minutes"] > 0 and found["moe over iso_dense, compiled"] > 0


@pytest.mark.long
def test_a_thousandth_of_the_recipe_for_a_gpu(tmp_path):
    """PRESET=gpu, its shapes and domains, from the data to BTX in a few steps on a CPU."""
    sizes = {"PRESET": "gpu", "INTO": tmp_path / "out", "DATA": tmp_path / "data", "PY": sys.executable, "S": 3, "B": 2, "F": 2,
             "PREPARE": "--level 2 --train_tokens 4000 --val_tokens 1000 --tasks 2",
             "ALL": "--device cpu --fast --batch_size 2 --eval_windows 1 --eval_every 9"}
    skip = ["-o", ".venv/ready"] * (not (tests.tiny.ROOT / ".venv" / "ready").exists())
    out = tmp_path / "out" / "seed0" / "btx.pt"
    subprocess.run(["make", *skip, *(f"{key}={value}" for key, value in sizes.items()), out], cwd=tests.tiny.ROOT, check=True,
                   capture_output=True)
    assert ckpt.load(out)["config"]["n_expert"] == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("path", PATHS)
def test_a_gpu_computes_what_the_cpu_does(path):
    """The readable model and --fast, in float64: loss and gradients; in bfloat16 a step that never waits."""
    idx = torch.randint(0, 64, (3, 16), generator=torch.Generator().manual_seed(0))
    found = []
    for device, make in (("cpu", lambda m: m), ("cuda", lambda m: m), ("cuda", fast.install)):
        model = make(GPT(GPTConfig(**SMALL | PATHS[path]), torch.Generator().manual_seed(0)).double().to(device)).eval()
        loss = model(idx.to(device), idx.to(device))[1]
        found.append([t.cpu() for t in (loss, *torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))
                      if t is not None])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b)
    if path != "dense" and not fast.native(torch.empty(0, device="cuda")):
        return
    model = new(path, "cuda")
    trained(model, device="cuda", dtype=torch.bfloat16)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trained(model, device="cuda", dtype=torch.bfloat16, fresh=lambda: torch.zeros(3, 16, dtype=torch.int64, device="cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_auto_says_so_if_a_gpu_goes_unused(monkeypatch, capsys):
    """As on a machine with an NVIDIA driver and a torch for CPUs."""
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices.torch.backends.mps, "is_available", lambda: False)
    for found, lines in (("/usr/bin/nvidia-smi", 1), (None, 0)):
        monkeypatch.setattr(devices.shutil, "which", lambda name, found=found: found)
        assert devices.pick_device("auto").type == "cpu"
        assert capsys.readouterr().err.count("GPU") == lines


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate"),
                                   RuntimeError("DefaultCPUAllocator: not enough memory")])
def test_too_little_memory(error, capsys):
    def main():
        raise error
    with pytest.raises(SystemExit) as exit:
        settings.run(main)
    assert exit.value.code == 2 and "--batch_size" in capsys.readouterr().err
