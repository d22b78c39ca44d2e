"""The plausible mistakes of mistakes.txt: the checks recognise them, and the course's tests use them."""
import importlib.util
import inspect
import io
import json
import os
import tempfile
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest

from cli import digest, replacing
from course import test_stages
from course.handout import ROOT


class Mistake(NamedTuple):
    """Write `wrong` for `right` in `file`, and stage `stage` is wrong. A check that sees this prints `hint`."""
    stage: int
    file: str
    right: str
    wrong: str
    hint: str = ""


def read_catalogue(path):
    """The mistakes of a file, and what else is right, in its order; the first lines of the file describe its form."""
    found, fine = [], []
    for line in path.read_text().splitlines():
        key, _, value = line.replace("\\n", "\n").partition(": ")
        if line.startswith("stage "):
            stage, file = int(line[6]), line[9:]
        elif key == "right":
            right = value
        elif key == "wrong":
            wrong = value
        elif key == "hint":
            found.append(Mistake(stage, file, right, wrong, value))
        elif key == "fine":
            fine.append(Mistake(stage, file, right, value))
    return found, fine


MISTAKES, FINE = read_catalogue(Path(__file__).with_suffix(".txt"))


def change(mistake):
    """The text of the reference's file with one mistake in it."""
    source = (ROOT / mistake.file).read_text()
    if source.count(mistake.right) != 1:
        raise ValueError(f"{mistake.file} has {mistake.right!r} {source.count(mistake.right)} times")
    return source.replace(mistake.right, mistake.wrong)


def install(mistake, patches, folder):
    """Let the checks see a module, or a Makefile, with a mistake in it, until `patches` are undone."""
    path = Path(folder, mistake.file)
    path.write_text(change(mistake))
    if mistake.file == "Makefile":
        patches.enter_context(mock.patch.object(test_stages, "MAKEFILE", path))
        return
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    patches.enter_context(mock.patch.object(test_stages, path.stem, module))


def messages(mistake=None, stages=range(1, 7), seed=0):
    """What the checks of some stages say of the reference with a mistake in it: {check: message}; {} if it is right."""
    found = {}
    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(test_stages, "HINTS", Path("none")))
        patches.enter_context(mock.patch.dict(os.environ, {"CHECK_SEED": str(seed)}))
        patches.enter_context(redirect_stdout(io.StringIO()))
        patches.enter_context(redirect_stderr(io.StringIO()))
        if mistake:
            install(mistake, patches, patches.enter_context(tempfile.TemporaryDirectory()))
        for name, check in vars(test_stages).items():
            if not name.startswith("test_stage") or int(name[10]) not in stages:
                continue
            with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
                fixtures = {"tmp_path": Path(folder), "monkeypatch": monkeypatch}
                try:
                    check(**{name: fixtures[name] for name in inspect.signature(check).parameters})
                except pytest.fail.Exception as failure:
                    found[name] = str(failure).rstrip()
                except Exception as error:
                    found[name] = repr(error)
    return found


def main():
    """Write hints.json: for each message of a check the mistake that gives it. `make hints` does it."""
    hints = {}
    for mistake in MISTAKES:
        for message in messages(mistake, [mistake.stage]).values():
            found = hints.setdefault(message, [])
            if mistake.hint not in found:
                found.append(mistake.hint)
    sealed = {}
    for message, found in hints.items():
        sealed[digest(message.encode())] = test_stages.cipher(message, "\n  or: ".join(found).encode()).hex()
    with replacing(test_stages.HINTS) as part:
        part.write_text(json.dumps(sealed, indent=0))


if __name__ == "__main__":
    main()
