"""The students' part of this repository: the same files, without what students write. `make handout` writes it.

A body is replaced by `raise NotImplementedError("stage 1: ff_moe")`. Of a docstring remain its first paragraph and the
lines that describe arguments.
"""
import ast
import json
import re
import shutil
import zipfile
from cli import digest
from pathlib import Path

ROOT = Path(__file__).parent.parent
GIVEN = ROOT / "course" / "given.zip"  # the handout as it was given; only a handout has this file
ASSIGNMENT = json.loads((ROOT / "course" / "assignment.json").read_text())
WRITTEN = ASSIGNMENT["written"]  # what students write, and in which stage: {file: {function: stage}}
DIGESTS = "course/digests.json"  # in a handout: {function: the digest of the reference's body}


def read(patterns):
    """The files of this repository that match a pattern: {name: bytes}."""
    paths = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    return {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in paths}


def write(folder, files):
    """Write {name: bytes} into a folder."""
    for name, content in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


# ---- what students write
def find_functions(tree):
    """{name: its statement} of a module's functions, of methods as Class.name, and of the loop in `main`."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{f.name}": f for f in node.body if isinstance(f, ast.FunctionDef)}
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
            for part in node.body:
                if node.name == "main" and isinstance(part, ast.For):
                    found["the loop"] = part
    return found


def split_file(name, content):
    """The given lines of a file, and {function: its body} of what students write. Layout and comments do not count."""
    tree, bodies = ast.parse(content), {}
    for piece, statement in find_functions(tree).items():
        if piece in WRITTEN[name]:
            code = [part for part in statement.body if not isinstance(getattr(part, "value", None), ast.Constant)]
            bodies[piece] = ast.unparse(ast.Module(code, []))  # without docstring
            statement.body = [ast.Pass()]
    return [line for line in ast.unparse(tree).expandtabs(4).splitlines() if line], bodies


def find_marks(bodies, reference):
    """What an instructor should look at in {function: its body}, as lines. reference: see DIGESTS."""
    equal = [name for name, body in bodies.items() if digest(body.encode()) == reference[name]]
    marks = [f"equal to the reference: {', '.join(equal)}"] if equal else []
    for name, body in bodies.items():
        words = sorted({*re.findall(r"\w+", body)}.intersection(ASSIGNMENT["suspect"]))
        if words:
            marks.append(f"{name} uses {', '.join(words)}")
    return marks


def blank_functions(text, stages):
    """A source text without the bodies of the functions in `stages`, {name: stage}, and with shorter docstrings."""
    blanked = text
    for name, function in find_functions(ast.parse(text)).items():
        if name in stages and name != "the loop":
            source = "\n".join(text.splitlines()[function.lineno - 1:function.end_lineno])
            head = re.match(r'(?s).*?""".*?"""', source)[0]
            head = re.sub(r'(?s)\n\n(?! *\w+(, \w+)*: ).*?(?=\n\n|\n *"""|""")', "", head)
            body = f'raise NotImplementedError("stage {stages[name]}: {name}")'
            if name == "load_balancing_loss":  # stage 3 shows what happens without it
                body = f"return 0 * routing[0].probs.sum()  # stage 4: {name}"
            blanked = blanked.replace(source, f"{head}\n{' ' * (function.col_offset + 4)}{body}")
    return blanked


# ---- the handout
def files():
    """The files of the handout, {name: bytes}, but for its checkpoints."""
    if GIVEN.exists():
        with zipfile.ZipFile(GIVEN) as archive:
            return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    found = {name: content.decode() for name, content in read(ASSIGNMENT["handout"]).items()}
    found |= {name: (ROOT / path).read_text() for name, path in ASSIGNMENT["pages"].items()}
    digests = {}
    for name, stages in WRITTEN.items():
        digests |= {piece: digest(body.encode()) for piece, body in split_file(name, found[name])[1].items()}
        found[name] = blank_functions(found[name], stages)
    step, blank = r"(?s)for xs, ys in zip\(.*?optimizer.zero_grad\(\)", 'raise NotImplementedError("stage 3: the loop")'
    found["finetune_router.py"] = re.sub(step, blank, found["finetune_router.py"])
    article = r"(?s)# ---- the article results.*?(?=# ---- everything else)"  # it shows the page
    found["Makefile"] = re.sub(article, "", found["Makefile"])
    fast = blank_functions(found["support/fast.py"], {"ff_moe": 1})
    found["support/fast.py"] = fast.replace("stage 1: ff_moe", "--fast is not part of the assignment")
    # live.html holds the solution, in JavaScript
    found["page/live.py"] = 'def write_page(*args):\n    return "No live.html: it is not part of a handout."\n'
    found[DIGESTS] = json.dumps(digests, indent=1)
    return {name: text.encode() for name, text in found.items()}


def write_handout(out):
    """Write the handout to a folder, with course/given.zip, which keeps it as it was given, and with checkpoints."""
    write(out, files())
    shutil.move(shutil.make_archive(f"{out}_given", "zip", out), Path(out, "course", "given.zip"))
    write(out, read(["data/start/*.pt"]))
