"""Shared by all scripts: options, errors that end a script with one line, and files that are either whole or absent."""
import argparse
import errno
import glob
import hashlib
import os
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path


class BadInput(Exception):
    """The user's input is wrong. The message names the file or the option, and says what to do."""


def run(main):
    """Call main(). An error that the user can correct ends with one line on stderr and exit code 2."""
    sys.stdout.reconfigure(errors="replace", line_buffering=True)  # for ASCII terminals, and files that are watched
    if os.environ.get("LOCAL_RANK", "0") != "0":  # torchrun: only the first of the ranks on this machine prints
        sys.stdout = sys.stderr = open(os.devnull, "w")
    try:
        main()
    except KeyboardInterrupt:
        refuse("interrupted", code=130)
    except BadInput as error:
        refuse(error)
    except OSError as error:
        refuse(f"{error.filename or 'a file, or the screen'}: {error.strerror or error}")
    except Exception as error:
        sys.stderr = sys.__stderr__  # perhaps only this rank fails
        is_full = isinstance(error, RuntimeError) and ("out of memory" in str(error) or "allocate" in str(error))
        if is_full or isinstance(error, MemoryError):  # on a CPU, torch raises RuntimeError
            refuse("the memory is full; mix fewer models, lower --batch_size, or train with --recompute")
        raise

    # torchrun: leave the other ranks
    torch = sys.modules.get("torch")  # not imported here: that takes a second
    if torch and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def refuse(message, code=2):
    """Print one line on stderr and end the process."""
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    sys.exit(code)


def make_parser(description):
    """An argparse parser that shows a script's docstring as it stands and answers a wrong option in one line."""
    return argparse.ArgumentParser(description=description, usage=argparse.SUPPRESS,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)


def number_from(least, kind=int):
    """A type for argparse: a finite number, at least `least`. Products of whole numbers must fit into 64 bits."""
    largest = 2**48 if kind is int else sys.float_info.max

    def read(text):
        number = kind(text)
        if not least <= number <= largest:  # this also refuses nan
            raise argparse.ArgumentTypeError(f"{text} should be a number from {least} to {largest:.2g}")
        return number
    read.__name__ = kind.__name__  # argparse prints it if the text is not a number
    return read


positive_int = number_from(1)
non_negative_int = number_from(0)
non_negative = number_from(0, float)


def digest(content):
    """A short hash of bytes, by which a file is recognized."""
    return hashlib.sha256(content).hexdigest()[:16]


def check_output(path):
    """Create the folder of a file that will be written later. Raises BadInput if the file cannot be written there."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
        with suppress(FileNotFoundError):
            path.open("r+").close()  # fails for a folder, and if the name is too long
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror or error}); choose another name") from None


@contextmanager
def replacing(path):
    """Yield a temporary path beside `path` that only this process uses. At the end it is renamed to `path`.

    Creates the folder. If anything fails, the old file stays. Raises BadInput if the path cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.name[:200]}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned_parts(path)
        yield part
        os.replace(part, path)
    except RuntimeError as error:  # torch raises it on a full disk
        raise BadInput(f"{path}: cannot be written (perhaps the disk is full: {error}); "
                       "make room, and run it again") from None
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "make room, and run it again" if is_full else "choose another name or disk"
        raise BadInput(f"{path}: cannot be written ({error.strerror or error}); {advice}") from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def remove_abandoned_parts(path):
    """Delete the temporary files of `replacing` that processes left when they were killed. They can be large."""
    for part in path.parent.glob(f".{glob.escape(path.name[:200])}.*.part"):
        pid = part.stem.rpartition(".")[2]
        if not pid.isdecimal():
            continue
        try:
            os.kill(int(pid), 0)  # sends nothing, but fails if there is no such process
        except (ProcessLookupError, OverflowError):
            part.unlink(missing_ok=True)
        except PermissionError:
            pass  # the process of another user
