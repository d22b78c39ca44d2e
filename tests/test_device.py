"""On a pretend device, which torch takes for a GPU, every script does what it does on the CPU, without needless waits.

The device computes on the CPU. But as on a GPU an operation cannot mix tensors of two devices, and some operations
make the program wait. A process cannot lose the device again, so the test starts this file as a script:

    python tests/test_device.py 'train_expert --out ...' 'evaluate ...'  # waits.json: {command: [waits of each step]}
"""
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

from model import ROUTERS
from support import checkpoint, training
from support.distributed import pick_device

make_backend = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
# what waits on a GPU, since the size of the result depends on numbers; so does an index of truth values
WAITING = {"nonzero", "_local_scalar_dense", "bincount", "masked_select", "_unique2", "unique_dim"}
INDEXING = {"index", "index_put", "index_put_"}
waits = []  # for each training step a list of the operations that waited


class Pretend(torch.Tensor):
    """A tensor of the pretend device. Its numbers are a tensor of the CPU."""
    __torch_function__ = torch._C._disabled_torch_function_impl

    def __new__(cls, numbers):
        self = cls._make_wrapper_subclass(cls, numbers.shape, numbers.stride(), dtype=numbers.dtype, device="pretend:0")
        self.numbers = numbers
        return self

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return compute(op, *args, **kwargs or {})


class Generator(torch.Generator):
    """Random numbers of the pretend device; torch's own for the CPU."""
    device = "pretend"

    def __new__(cls, device):
        return super().__new__(torch._C.Generator if str(device) == "cpu" else cls)


def compute(op, *args, **kwargs):
    """Do one operation of torch on the numbers. Raises RuntimeError if it mixes devices."""
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    on_cpu = [t for t in tensors if not isinstance(t, Pretend)]
    to_cpu = kwargs.get("device") == torch.device("cpu")
    name = op.__name__.split(".")[0]  # without the overload, as in nonzero.default
    if name == "copy_":
        is_async = args[2:] == (True,) and args[1].is_contiguous() and args[1].is_shared()
        must_wait = on_cpu and not is_async
    elif len(on_cpu) < len(tensors) and any(t.dim() for t in on_cpu):  # a single number may be on the CPU
        raise RuntimeError(f"{op} mixes tensors of the pretend device and of the CPU")
    else:
        is_masked = name in INDEXING and any(t.dtype == torch.bool for t in tensors[1:])
        must_wait = to_cpu or is_masked or name in WAITING
    if must_wait:
        waits[-1].append(name)

    def enter(x):
        if isinstance(x, torch.device):
            return torch.device("cpu")
        return x.numbers if isinstance(x, Pretend) else x

    def leave(x):
        if id(x) in given:  # an operation in place returns what it was given
            return given[id(x)]
        return Pretend(x) if isinstance(x, torch.Tensor) and not to_cpu else x

    given = {id(enter(t)): t for t in tensors}
    return tree_map(leave, op(*tree_map(enter, args), **tree_map(enter, kwargs)))


def run(command):
    """Call a script in this process."""
    script, *options = command.split()
    import_module(script).main(options)


def test_auto_leaves_the_gpu_of_a_mac_alone(monkeypatch):
    for backend in (torch.accelerator, torch.backends.mps):
        monkeypatch.setattr(backend, "is_available", lambda: True)
    assert pick_device("auto").type == "cpu"


@pytest.mark.long
@pytest.mark.skipif(make_backend is None, reason="this version of torch cannot pretend")
def test_pretend_device_equals_the_cpu_and_only_the_readable_loop_waits(tiny, tmp_path, monkeypatch, capsys):
    dense = f"{tiny}/seed.pt {tiny}/math.pt {tiny}/code.pt"
    recipe = f"--steps 4 --eval_every 4 --eval_windows 2 --data math,code --data_dir {tiny}/data"
    runs = {"dense": (f"train_expert --init {tiny}/seed.pt --out dense.pt --grad_accum 2 --save_every 3 {recipe}", 0)}
    for method in ROUTERS:
        run(f"mix {dense} --routing {method} --out {tmp_path}/{method}.pt")
        finetune = f"finetune_router --init {tmp_path}/{method}.pt {recipe} --out {method}"
        runs[method] = (f"{finetune}.pt", 2 * 3)  # 2 layers of 3 experts
        runs[f"{method}_fast"] = (f"{finetune}_fast.pt --fast --grad_accum 2", 0)
    commands = [command for command, _ in runs.values()]
    commands.append(f"evaluate {dense} topk.pt sample.pt --btm seed,math,code --btm_methods bayes:1,tfidf:2 --tasks 3 "
                    f"--windows 4 --no_figures --data_dir {tiny}/data --out .")
    commands.append("sample soft.pt --experts --tokens 40 --temperature 1")

    for folder in ("cpu", "pretend"):
        Path(tmp_path, folder).mkdir()
    monkeypatch.chdir(tmp_path / "cpu")
    for command in commands:
        run(f"{command} --device cpu")
    monkeypatch.chdir(tmp_path / "pretend")
    done = subprocess.run([sys.executable, __file__, *commands], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]

    waits = json.loads(Path("waits.json").read_text())
    for name, (command, n_waits) in runs.items():
        assert waits[command] == [["nonzero"] * n_waits] * 2, name
        pretend, cpu = (checkpoint.load_checkpoint(f"{tmp_path}/{folder}/{name}.pt") for folder in ("pretend", "cpu"))
        assert_close(pretend["state"], cpu["state"], rtol=0, atol=1e-5)
        assert pretend["ledger"][-1]["settings"]["device"] == "pretend"  # --device auto found it
    pretend, cpu = (json.loads(Path(f"{tmp_path}/{folder}/results.json").read_text()) for folder in ("pretend", "cpu"))
    for name, scores in cpu["models"].items():
        for measure in ("accuracy", "answer_loss", "loss"):
            assert_close(pretend["models"][name][measure], scores[measure], rtol=0, atol=1e-5)
    assert_close(pretend["routing"]["topk"]["share"], cpu["routing"]["topk"]["share"], rtol=0, atol=1e-5)
    assert done.stdout.splitlines()[-2:] == capsys.readouterr().out.splitlines()[-2:]  # what sample.py wrote


if __name__ == "__main__":
    backend = backend_registration._DummyBackendModule()
    backend.get_amp_supported_dtype = lambda: [torch.bfloat16]
    make_backend("pretend", backend)
    every_op, copies = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    every_op.fallback(compute, "PrivateUse1")
    copies.impl("_copy_from", lambda old, new, *options: compute(torch.Tensor.copy_, new, old, *options), "PrivateUse1")
    torch.Generator, torch.inference_mode = Generator, torch.no_grad
    torch.Tensor.pin_memory = torch.Tensor.share_memory_  # shared memory stands for pinned memory
    Path.unlink = lambda path, missing_ok: None  # so that the progress of a finished run stays
    set_learning_rate = training.set_learning_rate

    def begin_step(*arguments):
        waits.append([])
        return set_learning_rate(*arguments)

    training.set_learning_rate = begin_step
    waits_of = {}
    for command in sys.argv[1:]:
        waits[:] = [[]]
        run(command)
        waits_of[command] = waits[1:3]  # the first two steps; in the third a run may save, and the last validates
        if "--save_every" in command:
            run(command)  # goes on from its third step
    Path("waits.json").write_text(json.dumps(waits_of))
