"""Choose the device of a model and the dtype of its matrix products."""
import torch

from cli import BadInput


def pick_device(name):
    """Return the torch.device for --device. Raises BadInput if this machine does not have it.

    auto chooses a GPU if there is one, but not a Mac's: torch gave wrong results there (docs/gpus-and-speed.md).
    """
    if name == "auto":
        name = "cpu"
        if torch.accelerator.is_available() and not torch.backends.mps.is_available():
            name = torch.accelerator.current_accelerator().type
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()  # the device meta fails here
    except (RuntimeError, AssertionError) as error:  # torch raises either, depending on the device
        reason = str(error).splitlines()[0][:80]
        raise BadInput(f"--device {name}: torch cannot use it here ({reason}); try auto or cpu") from None
    if device.type == "cuda":  # cuDNN plans attention again for each length of text, and that takes longest
        torch.backends.cuda.enable_cudnn_sdp(False)
    return device


def pick_dtype(name, device):
    """Name the dtype of matrix products for --dtype. auto is bfloat16 on a GPU that supports it, else float32."""
    if name != "auto":
        return name
    on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if on_gpu else "float32"


def autocast(dtype, device, keep_copies=False):
    """A context for products in --dtype; weights stay float32. keep_copies: keep converted weights for many passes."""
    is_bfloat16 = pick_dtype(dtype, device) == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=is_bfloat16, cache_enabled=keep_copies)
