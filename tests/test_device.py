"""Tensors are made on the device of their inputs, and a Mac's GPU is taken only where it is asked for."""
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model import ROUTERS, gumbel, load_balancing_loss
from support import fast
from support.btm import BTM, METHODS
from support.distributed import pick_device
from support.generation import generate
from tests.test_model import new_model, random_tokens

TOKENS = random_tokens()


def test_auto_leaves_the_gpu_of_a_mac_alone(monkeypatch):
    for backend in (torch.accelerator, torch.backends.mps):
        monkeypatch.setattr(backend, "is_available", lambda: True)
    assert pick_device("auto").type == "cpu"


class Waits(TorchDispatchMode):
    """List the operations whose result has a size or a value that the program must wait for, if a GPU computes it."""
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        name = op.overloadpacket.__name__
        is_mask = name.startswith("index") and any(getattr(x, "dtype", None) == torch.bool for x in tree_leaves(args))
        if is_mask or name in ("nonzero", "bincount", "masked_select", "_unique2", "_local_scalar_dense"):
            self.names.append(name)
        return op(*args, **kwargs or {})


# A tensor that is made without device= comes on torch's default device. Here that is meta, and the inputs are on the
# CPU: to compute with both is an error, as it would be with a GPU and the CPU.


@pytest.mark.parametrize("is_fast", [False, True], ids=["readable", "fast"])
@pytest.mark.parametrize("method", ROUTERS)
def test_a_training_step_and_generation_make_no_tensor_elsewhere(method, is_fast):
    model = new_model(n_expert=4, routing=method).float().train()
    if is_fast:
        fast.install(model)
    generator = torch.Generator()
    with torch.device("meta"), Waits() as waits:
        noise = gumbel(model.config, TOKENS.numel(), 0.7, generator) if method == "sample" else None
        _, nll, routing = model(TOKENS, TOKENS, noise=noise, recompute=True)
        (nll + load_balancing_loss(routing)).backward()
    # the readable loop waits once for each of 4 experts in 2 layers, and again as it recomputes
    assert waits.names == ["nonzero"] * (0 if is_fast else 4 * 2 * 2)
    with torch.device("meta"):
        generate(model.eval(), TOKENS, 20, end=3, temperature=1.0, generator=generator)


@pytest.mark.parametrize("method", METHODS)
def test_branch_train_merge_makes_no_tensor_elsewhere(method):
    merged = BTM([new_model(seed).float() for seed in range(2)], method, 1, [TOKENS] * 2, eot=3)
    with torch.device("meta"):
        generate(merged, TOKENS, 4)
