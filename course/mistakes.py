"""The plausible mistakes of mistakes.txt: the checks recognise them, and the course's tests use them."""
import importlib.util
import inspect
import json
from pathlib import Path
from typing import NamedTuple

from cli import replacing
from course import check, test_stages
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
            found.append(Mistake(stage, file, right, value))
        elif key == "hint":
            found[-1] = found[-1]._replace(hint=value)
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


def install(mistake, folder):
    """Let the checks of this process see a module, or a Makefile, with a mistake in it."""
    path = Path(folder, mistake.file)
    path.write_text(change(mistake))
    if mistake.file == "Makefile":
        test_stages.MAKEFILE = path
        return
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    setattr(test_stages, path.stem, module)


def with_mistake(name, mistake, seed):
    """A check that looks at the reference with a mistake in it; it spoils the process in which it is called."""
    def changed(tmp_path, monkeypatch):
        test_stages.SEED = seed
        if mistake:
            install(mistake, tmp_path)
        test, fixtures = getattr(test_stages, name), {"tmp_path": tmp_path, "monkeypatch": monkeypatch}
        test(**{fixture: fixtures[fixture] for fixture in inspect.signature(test).parameters})

    return changed


def messages(mistake=None, stages=range(1, 7), seed=0):
    """What the checks of some stages say of the reference with a mistake in it: {check: message}; {} if it is right."""
    found = {}
    for name in check.POINTS:
        if int(name[10]) in stages:
            passed, message = check.in_child(with_mistake(name, mistake, seed), 60)
            if not passed:
                found[name] = message
    return found


def main():
    """Write hints.json: for each message of a check the hint of the mistake that gives it. `make hints` does it."""
    hints = {}
    for mistake in MISTAKES:
        for message in messages(mistake, [mistake.stage]).values() if mistake.hint else ():
            hints.setdefault(message, mistake.hint)
    with replacing(ROOT / "course" / "hints.json") as part:
        part.write_text(json.dumps(hints, indent=0, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
