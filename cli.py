"""Shared by all scripts: options, errors that end a script with one line, and files that are whole or not there."""
import argparse
import hashlib
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist


class BadInput(Exception):
    """Something the user gave is wrong. The message names the file or the option and says what to do."""


def run(main):
    """Call main(). BadInput becomes one line on stderr and exit code 2, as argparse has it for a wrong option."""
    name = Path(sys.argv[0]).name
    try:
        main()
    except BadInput as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)
    except torch.OutOfMemoryError:
        print(f"{name}: the GPU's memory is full; a smaller --batch_size takes less, and in training also "
              "--grad_accum 2 and --recompute", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(130)
    if dist.is_initialized():  # one of several ranks
        dist.destroy_process_group()


def make_parser(description):
    """An argparse parser that shows a script's docstring as it stands and answers a wrong option in one line."""
    return argparse.ArgumentParser(description=description, usage=argparse.SUPPRESS,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)


def number_from(least, kind=int):
    """A type for argparse: a finite number, not below `least`."""
    def read(text):
        number = kind(text)
        if not least <= number < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not a number from {least} up")
        return number
    read.__name__ = kind.__name__  # argparse says it of a text that is no number
    return read


positive_int = number_from(1)
non_negative_int = number_from(0)
non_negative = number_from(0, float)


def check_output(path):
    """Create the folder of a file that is to be written later. Raises BadInput if the file cannot be written there."""
    folder = Path(path).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{path}: its folder cannot be made ({error.strerror}); choose another name") from None
    if Path(path).is_dir() or not os.access(folder, os.W_OK):
        raise BadInput(f"{path}: cannot be written; choose another name")


@contextmanager
def replacing(path):
    """Yield a temporary path beside `path`. At the end it is renamed to `path`.

    If anything fails, the old file stays. Creates the folder. Raises BadInput if the path cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror}); choose another name") from None
    finally:
        part.unlink(missing_ok=True)


def digest(content):
    """A short hash of bytes."""
    return hashlib.sha256(content).hexdigest()[:16]
