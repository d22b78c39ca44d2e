"""Read own text, from files, folders and patterns of files, plain or .jsonl; and own tasks."""
import json
import os
from glob import glob
from pathlib import Path

from cli import BadInput
from data.task import Task


def find_files(path):
    """The set of files that a path means: a file, all files below a folder, or a pattern such as texts/**/*.txt."""
    path = os.path.expanduser(path)
    pattern = f"{path}/**" if os.path.isdir(path) else path
    # the path itself, too: it may have a [ or a * in its name
    names = [name for name in [path, *glob(pattern, recursive=True)] if "__pycache__" not in name]
    files = {Path(name).resolve() for name in names if os.path.isfile(name)}
    if not files:
        raise BadInput(f"--text: there is no file {path}")
    return files


def read_documents(files, field):
    """Yield the documents of files as texts. A file is one document, or each line of .jsonl. Raises BadInput."""
    for path in files:
        try:
            with path.open(encoding="utf-8", newline="") as file:
                if path.suffix.lower() == ".jsonl":
                    for line in file:
                        text = json.loads(line)[field]
                        if not isinstance(text, str):
                            raise TypeError
                        yield text
                else:
                    yield file.read()
        except (KeyError, TypeError, json.JSONDecodeError):
            raise BadInput(f"{path}: no text under {field!r} in {line[:50]!r}; name another --field") from None
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{path}: no text in UTF-8 ({error}); convert it, or name other files") from None


def read_tasks(path):
    """The tasks in a file of lines {"prompt": ..., "answer": ...}. Answers have their leading space, as in " Paris".

    Raises BadInput.
    """
    try:
        lines = Path(path).expanduser().read_bytes().splitlines()
    except OSError as error:
        raise BadInput(f"--own_tasks: {path} cannot be read ({error.strerror})") from None
    tasks = []
    for n, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:  # not JSON, or not UTF-8
            row = None
        match row:
            case {"prompt": str(prompt), "answer": str(answer)} if answer:
                tasks.append(Task(prompt, answer))
            case _:
                raise BadInput(f'{path}, line {n}: should be {{"prompt": "TEXT", "answer": "TEXT"}}, in UTF-8')
    return tasks


def read_beginning(files, field, n):
    """The first n characters of some files."""
    beginning = ""
    for text in read_documents(files, field):
        beginning += text
        if len(beginning) >= n:
            break
    return beginning[:n]
