"""The students' part of this repository: its files without the code that students write. `make handout` writes it.

A function's body is replaced by `raise NotImplementedError("stage 1: ff_moe")`. Its docstring keeps the first paragraph
and the lines that describe arguments.
"""
import ast
import difflib
import json
import lzma
import re
import shutil
import zipfile
from pathlib import Path
from textwrap import dedent

from cli import digest

ROOT = Path(__file__).parent.parent
VERSIONS = ROOT / "course" / "versions.xz"  # of stage 6; a copy is only in a handout and an autograder
GIVEN = ROOT / "course" / "given.zip"  # the handout as it was given; only a handout has this file
ASSIGNMENT = json.loads((ROOT / "course" / "assignment.json").read_text())
WRITTEN = ASSIGNMENT["written"]  # the functions that students write, and their stages: {file: {function: stage}}
HANDED_IN = [*WRITTEN, "checks.py"]


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


def digest_body(statement):
    """A digest of a function's body, without comments, layout and texts that are not used."""
    code = [part for part in statement.body if not is_docstring(part)]
    return digest(ast.unparse(ast.Module(code, [])).encode())


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


def versions():
    """The right texts, {file: text}, and then versions of one function: [file, function, text, fault].

    They come from mistakes.json. A fault is the function and the first line of its docstring, or "" if the version is
    right. A handout has two thirds of the wrong ones, compressed, so that nobody reads them by chance.
    """
    if VERSIONS.exists():
        return json.loads(lzma.decompress(VERSIONS.read_bytes()))
    right = {file: (ROOT / file).read_text() for file in ("model.py", "mix.py")}
    docstrings, sources = {}, {file: {} for file in right}  # of each function
    for file, text in right.items():
        lines = text.splitlines(keepends=True)
        for name, node in find_functions(ast.parse(text)).items():
            if isinstance(node, ast.FunctionDef):
                docstrings[name] = ast.get_docstring(node) or ""
                sources[file][name] = "".join(lines[node.lineno - 1:node.end_lineno])
    found = []
    for place, mistakes in json.loads((ROOT / "course" / "mistakes.json").read_text()).items():
        file = place.split(", ")[1]
        for code, others in mistakes.items():
            for name, source in sources.get(file, {}).items():
                if code not in source:
                    continue
                for other, verdict in (others | {code: "right"}).items():
                    fault = f"{name}: {docstrings[name].partition(chr(10))[0]}" if verdict == "wrong" else ""
                    version = [file, name, dedent(source.replace(code, other)), fault]
                    if verdict != "passes" and version not in found:
                        found.append(version)
    return [right, *found]


def write_handout(out, versions):
    """Write the handout to a folder, with checkpoints, versions for stage 6, and course/given.zip, a copy of its files.
    """
    write(out, files())
    shutil.move(shutil.make_archive(f"{out}_given", "zip", out), Path(out, "course", "given.zip"))
    write(out, {"course/versions.xz": lzma.compress(json.dumps(versions).encode())})
    shutil.copytree(ROOT / "data" / "start", Path(out, "data", "start"))
