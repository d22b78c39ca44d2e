"""The students' part of this repository: its files without the code that students write. `make handout` writes it.

A function's body is replaced by `raise NotImplementedError("stage 1: ff_moe")`. Its docstring keeps the first paragraph
and the lines that describe arguments.
"""
import ast
import difflib
import json
import re
import shutil
import zipfile
from pathlib import Path

from cli import digest

ROOT = Path(__file__).parent.parent
GIVEN = ROOT / "course" / "given.zip"  # the handout as it was given; only a handout has this file
ASSIGNMENT = json.loads((ROOT / "course" / "assignment.json").read_text())
WRITTEN = ASSIGNMENT["written"]  # the functions that students write, and their stages: {file: {function: stage}}


def write(folder, files):
    """Write {name: bytes} into a folder."""
    for name, content in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


# ---- what students write
def find_functions(tree, prefix=""):
    """{name: statement} for functions, for classes and their methods (MoE.forward), and for loops (main.loop)."""
    found = {}
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.For)):
            name = prefix + getattr(node, "name", "loop")
            found |= {name: node} | find_functions(node, f"{name}.")
    return found


def is_docstring(statement):
    """Whether a statement is a text that is not used."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def split_file(name, content):
    """A file's given lines, and {function: body} for what students write, both without comments and layout."""
    tree, bodies = ast.parse(content), {}
    for piece, statement in find_functions(tree).items():
        if piece in WRITTEN[name]:
            code = [part for part in statement.body if not is_docstring(part)]
            bodies[piece] = ast.unparse(ast.Module(code, []))
            statement.body = [ast.Pass()]
    return [line for line in ast.unparse(tree).expandtabs(4).splitlines() if line], bodies


def compare(given, files):
    """Two lists of lines: the diff of all code outside the bodies, and what an instructor should look at, as marks."""
    reference, diff, marks = json.loads(given["course/digests.json"]), [], []
    for name in WRITTEN:
        before, _ = split_file(name, given[name])
        after, bodies = split_file(name, files[name])
        diff += difflib.unified_diff(before, after, f"given {name}", f"submitted {name}", n=0, lineterm="")
        for piece, body in bodies.items():
            if digest(body.encode()) == reference.get(piece):
                marks.append(f"{piece} equals the reference")
            words = {*re.findall(ASSIGNMENT["suspect"], body)}
            for node in ast.walk(ast.parse(body)):
                if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
                    words.add(f"{ast.unparse(node)} =")
            if words:
                marks.append(f"{piece} uses {', '.join(sorted(words))}")
    return diff, marks


def blank_functions(text, stages):
    """A source text without the bodies of the functions in `stages`, {name: stage}, and with their docstrings cut."""
    lines = text.splitlines()
    for name, function in reversed(find_functions(ast.parse(text)).items()):  # so that line numbers stay right
        if name in stages and name != "main.loop":
            summary, *others = ast.get_docstring(function, clean=False).split("\n\n")
            kept = [summary] + [part for part in others if re.match(r" *\w+(, \w+)*: ", part)]
            body = f'raise NotImplementedError("stage {stages[name]}: {name}")'
            indent = " " * (function.col_offset + 4)
            docstring = '"""' + "\n\n".join(kept) + '"""'
            lines[function.body[0].lineno - 1:function.end_lineno] = [indent + docstring, indent + body]
    return "\n".join(lines) + "\n"


# ---- the handout
def files():
    """The files of the handout, {name: bytes}, except for its checkpoints."""
    if GIVEN.exists():
        with zipfile.ZipFile(GIVEN) as archive:
            return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    found = {}
    for pattern in ASSIGNMENT["handout"]:
        found |= {path.relative_to(ROOT).as_posix(): path.read_text() for path in ROOT.glob(pattern)}
    found |= {name: (ROOT / path).read_text() for name, path in ASSIGNMENT["pages"].items()}
    digests = {}
    for name, stages in WRITTEN.items():
        _, bodies = split_file(name, found[name])
        digests |= {piece: digest(body.encode()) for piece, body in bodies.items() if piece in ASSIGNMENT["long"]}
        found[name] = blank_functions(found[name], stages)
    for name, pattern, text in ASSIGNMENT["replaced"]:  # the training step, and what shows a solution elsewhere
        found[name] = re.sub(pattern, text, found[name], flags=re.DOTALL)
    found["course/digests.json"] = json.dumps(digests, indent=1)
    return {name: text.encode() for name, text in found.items()}


def write_handout(out):
    """Write the handout to a folder, with checkpoints and course/given.zip, a copy of its files as they were given."""
    write(out, files())
    shutil.move(shutil.make_archive(f"{out}_given", "zip", out), Path(out, "course", "given.zip"))
    shutil.copytree(ROOT / "data" / "start", Path(out, "data", "start"))
