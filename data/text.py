"""Read the user's own text from files, folders and patterns of files, plain or .jsonl, and the user's own tasks."""
import json
import os
from glob import escape, glob
from pathlib import Path

from cli import BadInput
from data.task import Task


def find_files(path):
    """The set of files that a path names: a file, all files below a folder, or a pattern such as texts/**/*.txt."""
    path = os.path.expanduser(path)
    pattern = f"{escape(path)}/**" if os.path.isdir(path) else path
    # the path itself is added, since a file name may contain [ or *
    names = [name for name in [path, *glob(pattern, recursive=True)] if "__pycache__" not in name]
    files = {Path(name).resolve() for name in names if os.path.isfile(name)}
    if not files:
        raise BadInput(f"--text: there is no file {path}")
    return files


def read_rows(option, path, *fields):
    """Yield the texts in these fields for each line of a .jsonl file. Raises a BadInput that names `option`."""
    with path.open("rb") as file:
        for n, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                texts = [row[field] for field in fields]
                "".join(texts).encode()  # fails for half of a surrogate pair, and for anything but text
            except (KeyError, TypeError, ValueError, RecursionError):
                raise BadInput(f"{path}, line {n}: it should be JSON in UTF-8, with text under "
                               f"{' and '.join(map(repr, fields))} (see {option})") from None
            yield texts


def read_documents(files, field):
    """Yield the documents in files: a file is one document, but of .jsonl each line is one. Raises BadInput."""
    for path in files:
        if path.suffix.lower() == ".jsonl":
            for [text] in read_rows("--field", path, field):
                yield text
            continue
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                yield file.read()
        except UnicodeDecodeError as error:
            raise BadInput(f"{path}: not text in UTF-8 ({error}); convert it, or name other files") from None


def read_tasks(path):
    """Read the tasks of a file. Each line is like {"prompt": "Paris is in", "answer": " France"}. Raises BadInput."""
    rows = read_rows("--own_tasks", Path(path).expanduser(), "prompt", "answer")
    tasks = [Task(prompt, answer) for prompt, answer in rows]
    if not tasks or not all(task.answer for task in tasks):
        raise BadInput(f"--own_tasks: {path} has no tasks, or an empty answer; write one task on each line")
    return tasks
