"""Files: read only where they are what they seem, written whole or not at all, and by one run at a time."""
import fcntl
import hashlib
import json
import math
import os
import re
import stat
from contextlib import contextmanager, suppress
from pathlib import Path

from support.settings import BadInput, is_panic

LIMIT = 2 * 10**7  # bytes of JSON that are read
TEMPORARY = re.compile(r"(?s)\.(.+\.(part|lock)|new)")  # see part_of, locked and data.prepare


def has(value, types):
    """Whether a value is a dictionary with these keys, of these types."""
    return isinstance(value, dict) and all(isinstance(value.get(key), kind) and (type(value[key]) is not bool or kind is bool)
                                           for key, kind in types.items())


@contextmanager
def reading(path, verb="read"):
    """Whatever goes wrong inside becomes one line that names the file, as BadInput; with BTX_TRACE=1 the whole trace."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, BadInput) or os.environ.get("BTX_TRACE") or not (isinstance(error, Exception) or is_panic(error)):
            raise
        what = str(getattr(error, "strerror", None) or error).partition("\n")[0][:100]
        raise BadInput(f"{path}: cannot be {verb} ({what or type(error).__name__})") from None


def check_lasting(path):
    """Raise BadInput if a path is one of those that runs remove, or lies in a folder of such a name."""
    if any(TEMPORARY.fullmatch(part) for part in Path(os.path.realpath(path)).parts):
        raise BadInput(f"{path}: a name of temporary files, which are removed; choose another name")


def open_input(path):
    """Open a file to read its bytes. Raises BadInput if it is no regular file, which may never end, or one that a run removes."""
    with reading(path):
        check_lasting(path)
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise BadInput(f"{path}: not a file; name one, or a folder's file")
        return file


def read_json(path, text=None):
    """The value in a JSON file, or in `text` out of that file. Raises BadInput."""
    def number(digits):  # JSON's own, and Python's NaN and Infinity
        if not math.isfinite(float(digits)):
            raise ValueError(f"{digits[:20]} is no number")
        return float(digits)
    with reading(path):
        if text is None:
            with open_input(path) as file:
                text = file.read(LIMIT + 1)
        if len(text) > LIMIT:
            raise ValueError(f"more than {LIMIT:,} bytes of JSON")
        text = text if isinstance(text, str) else text.decode()  # json.loads would take UTF-16, too
        value = json.loads(text, parse_constant=number, parse_float=number)
        if depth(value) > 20:  # or it could be read, and not written again
            raise ValueError("its JSON is nested too deeply")
        return value


def depth(value):
    """How deep lists and dictionaries lie in each other in a plain value: 0 for a number, 2 for {"a": [1]}."""
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth, inner), default=0) if isinstance(value, (dict, list)) else 0


def digest(content):
    """A short hash of a file's bytes; content: the bytes, or a hashlib.sha256 that was given them."""
    return (content if hasattr(content, "hexdigest") else hashlib.sha256(content)).hexdigest()[:16]


def check_other(out, inputs):
    """Raise BadInput if `out`, which is to be written, is one of the inputs, which would be lost."""
    out = os.path.realpath(out)  # also where a folder that is not there yet is on the way
    for path in inputs:
        if os.path.exists(path) and os.path.exists(out) and os.path.samefile(path, out):  # also by another case, or a link
            raise BadInput(f"{out} is an input, too, and would be lost; choose another name")


def prepare_output(path, probe=True):
    """Create the folder that `path` lies in and make sure a file can be written there, or replaced. Raises BadInput if not.

    probe: by trying, which destroys what another run is just writing there.
    """
    path = Path(path)
    try:
        if path.exists():
            if not path.is_file():
                raise BadInput(f"{path}: this is a folder, or no file to write to; choose another name")
            os.close(os.open(path, os.O_WRONLY))  # what may not be written may seldom be replaced
        check_lasting(path)
        if any(folder.name == ".." and not folder.exists() for folder in path.parents):  # it would be made and removed again
            raise BadInput(f"{path}: a folder before .. is not there; write the path without ..")
        path.parent.mkdir(parents=True, exist_ok=True)
        if probe:  # permission bits say little, to root or about a full disk
            open_part(path).close()
            part_of(path).unlink()
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror}); choose another name") from None


@contextmanager
def locked(path):
    """Hold a lock for `path`: the operating system's, so a killed process leaves none behind, though it may leave the empty file.

    Raises BadInput if another process holds it.
    """
    lock, file = path.with_name(f".{path.name}.lock"), None
    try:
        file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(file).st_nlink:  # the other run ended just now, and took the file with it
            raise BlockingIOError
    except OSError as error:
        if file is not None:
            os.close(file)
        if isinstance(error, BlockingIOError):
            raise BadInput(f"{path}: another run is writing it; wait for its end, or choose another name") from None
        raise BadInput(f"{lock}: cannot be locked ({error.strerror}); delete it, or choose another name") from None
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(file)


def state_of(out):
    """The file in which a run that writes the checkpoint `out` saves its state; it is there until the run is done."""
    return Path(out).with_suffix(".state")


@contextmanager
def output(path, probe=True, resume=False):
    """prepare_output for `path` and, if it is a checkpoint, for its state, with a lock held. Leaves no new empty folder.

    Raises BadInput, also if an interrupted run left its state and this one is not to `resume` it.
    """
    path = Path(path)
    state = [state_of(path)] if path.suffix == ".pt" else []
    new = [folder for folder in path.parents if not folder.exists()]
    try:
        prepare_output(path, probe=False)
        with locked(path):
            for name in [path, *state]:  # removes what a killed run left
                prepare_output(name, probe)
            if state and os.path.lexists(state[0]) and not resume:
                raise BadInput(f"{state[0]} was left by an interrupted run; --resume, delete it, or choose another name")
            yield
    finally:
        for folder in new:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def part_of(path):
    """The temporary file beside `path` that becomes it when it is whole."""
    return Path(path).with_name(f".{Path(path).name}.part")


def open_part(path):
    """Open that file anew, to write bytes: what a killed run left, or a link of somebody's, goes first."""
    part_of(path).unlink(missing_ok=True)
    return open(part_of(path), "xb")


def write_whole(path, write):
    """Call write(file) on a temporary file beside `path` and rename it: under its own name a file is always whole.

    Raises BadInput if the disk does not let us; if write raises an error, nothing is renamed.
    """
    path = Path(path)
    part = part_of(path)
    try:
        with open_part(path) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        part.unlink(missing_ok=True)


def write_text(path, text):
    """Write a text as write_whole does."""
    write_whole(path, lambda file: file.write(text.encode("utf-8", "replace")))
