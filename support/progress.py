"""The progress of an interrupted run, and its result. All ranks call these functions; with --shard each has a part.

A run saves its progress in NAME.progress, beside the checkpoint NAME.pt, with the optimizer's state and the settings of
the run. The same command resumes it. The file is deleted when the run is done.
"""
from pathlib import Path

from cli import BadInput
from support.checkpoint import check_finite, load_file, save_checkpoint
from support.device import pick_dtype
from support.ranks import is_first_rank

KEYS = {"state", "optimizer", "step", "seconds", "log", "settings"}


def run_settings(args, model, ledger, domains, device):
    """Collect everything that a run's result depends on, as plain values. It must match when the run is resumed.

    The ledger stores it, too. Options that do not affect the result are left out. So is the number of GPUs: a run may
    be resumed on another number, though each GPU balances its own tokens and draws its own noise.
    """
    settings = {name: value for name, value in vars(args).items() if name not in ("recompute", "save_every", "shard")}
    digests = {}
    for name in args.data:  # another domain of the folder may be prepared, or prepared again, while the run rests
        for file in ("train.bin", "val.bin"):
            digests[f"{name}/{file}"] = domains[name].meta["files"][file]
    return settings | {"config": vars(model.config), "device": device.type, "dtype": pick_dtype(args.dtype, device),
                       "digests": digests, "init_ledger": [entry["id"] for entry in ledger]}


def progress_path(out):
    """The file in which a run that writes the checkpoint `out` saves its progress."""
    return Path(out).with_suffix(".progress")


def check_weights(model):
    """Raise BadInput if a weight is not finite. The last good file then stays."""
    check_finite(model.state_dict(), "the weights are not finite any more, and are not saved; lower --lr, "
                 "or --alpha in finetuning")


def save_progress(out, model, optimizer, settings, step, seconds, log):
    """Write NAME.progress after `step` steps. The same command resumes from it, on any number of ranks."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict  # this import takes a second
    check_weights(model)
    on_first_rank = StateDictOptions(full_state_dict=True, cpu_offload=True)  # gathers whole tensors in its memory
    state, optimizer_state = get_state_dict(model, optimizer, options=on_first_rank)
    if is_first_rank():
        save_checkpoint(progress_path(out), {"state": state, "optimizer": optimizer_state, "step": step,
                                             "seconds": seconds, "log": log, "settings": settings})


def load_progress(out, model, optimizer, settings):
    """Resume a run. Returns (step, seconds, log), or zeros without one. Raises BadInput if settings differ."""
    path = progress_path(out)
    if not path.exists():
        return 0, 0.0, []
    progress = load_file(path, KEYS, "delete it to start over")
    for name, value in settings.items():
        before = progress["settings"].get(name)
        if before == value:
            continue
        if name == "digests":
            changed = [file for file in before.keys() | value.keys() if before.get(file) != value.get(file)]
            raise BadInput(f"{path} is of a run on other data: {', '.join(sorted(changed))}; delete it to start over")
        raise BadInput(f"{path} is of a run with {name} = {before}, now it is {value}; "
                       "use the old value again, or delete the file to start over")
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict
    set_state_dict(model, optimizer, model_state_dict=progress["state"], optim_state_dict=progress["optimizer"],
                   options=StateDictOptions(full_state_dict=True))  # each rank takes its part
    print(f"{out}: resumes from step {progress['step']}")
    return progress["step"], progress["seconds"], progress["log"]


def save_trained(out, model, **fields):
    """Write the checkpoint of a finished run and delete its progress. fields: everything in it but state and config."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict  # takes a second
    check_weights(model)
    on_first_rank = StateDictOptions(full_state_dict=True, cpu_offload=True)  # gathers whole tensors in its memory
    state = get_model_state_dict(model, options=on_first_rank)
    if is_first_rank():
        save_checkpoint(out, {"state": state, "config": vars(model.config), **fields})
        progress_path(out).unlink(missing_ok=True)
        print(f"wrote {out}")
