"""The students' part of this repository: the same files, without what students write.

    python -m course.handout --out out/handout      # `make handout` does it, and makes a zip of it

A body is replaced by `raise NotImplementedError("stage 1: ff_moe")`. Of a docstring remain its first paragraph and the
lines that describe arguments.
"""
import ast
import difflib
import re
import shutil
import zipfile
from pathlib import Path

from cli import BadInput, make_parser, run

ROOT = Path(__file__).parent.parent
GIVEN = ROOT / "course" / "given.zip"  # the handout as it was given; only a handout has this file
WRITTEN = {  # what students write, and in which stage
    "model.py": {"route_topk": 1, "ff_moe": 1, "MoE.forward": 1, "expert_load": 3, "load_balancing_loss": 4,
                 "route_switch": 5, "route_sample": 5},
    "mix.py": {"average": 2, "rule_for": 2, "mix": 2, "split": 6, "blend": 6},
    "finetune_router.py": {"temperature": 5, "the loop": 3}}
KEPT = (".gitignore", "Makefile", "requirements.txt", "pyproject.toml", "LICENSE", "docs/glossary.md",
        "cli.py", "model.py", "mix.py", "train_expert.py", "finetune_router.py", "evaluate.py", "sample.py",
        "data/*.py", "data/btx.tiktoken", "support/*.py", "support/report.template",
        "course/__init__.py", "course/handout.py", "course/stages.py", "course/check.py", "course/sandbox.sh",
        "course/grade.py", "course/check.mk", "course/experiment.sh", "course/table.py", "course/layer.svg")
PAGES = {"README.md": "course/ASSIGNMENT.md"} | {name: f"course/{name}" for name in
                                                 ("AGENTS.md", "EXPERIMENT.md", "ACCOUNTING.md")}
# live.html holds the solution, in JavaScript
NO_LIVE = 'def write_page(*args):\n    return "No live.html: it is not part of a handout."\n'


def read(patterns):
    """The files of this repository that match a pattern: {name: bytes}."""
    paths = sorted({path for pattern in patterns for path in ROOT.glob(pattern)})
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
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{f.name}": f for f in node.body if isinstance(f, ast.FunctionDef)}
    if "main" in found:
        found |= {"the loop": part for part in found["main"].body if isinstance(part, ast.For)}
    return found


def given_lines(name, content):
    """The lines of a file without the bodies that students write. Layout and comments do not count."""
    try:
        tree = ast.parse(content)
        for piece, statement in find_functions(tree).items():
            if piece in WRITTEN[name]:
                statement.body = [ast.Pass()]
        return ast.unparse(tree).splitlines()
    except RecursionError:  # a sum of hundreds of terms
        return content.decode(errors="replace").splitlines()


def changed_lines(name, given, submitted):
    """The unified diff, a list of lines, of what a student changed in a file (bytes) outside of the bodies to write."""
    before, after = given_lines(name, given), given_lines(name, submitted)
    return list(difflib.unified_diff(before, after, f"given {name}", f"submitted {name}", n=0, lineterm=""))


def shorten(docstring):
    """The first paragraph of a docstring, and those that begin with an argument."""
    first, *rest = "".join(docstring).split("\n\n")
    kept = "\n\n".join([first, *(part for part in rest if re.match(r" *\w+(, \w+)*: ", part))])
    end = "" if kept.endswith('"""\n') else '\n    """\n'
    return [kept + end]


def blank_functions(text, stages):
    """A source text without the bodies of the functions in `stages`; their docstrings keep what `shorten` leaves."""
    lines = text.splitlines(keepends=True)
    for name, f in reversed(find_functions(ast.parse(text)).items()):
        if name in stages and name != "the loop":
            docstring = slice(f.body[0].lineno - 1, f.body[0].end_lineno)
            blank = f'raise NotImplementedError("stage {stages[name]}: {name}")\n'
            if name == "load_balancing_loss":  # stage 3 shows what happens without it
                blank = f"return 0 * routing[0].probs.sum()  # stage 4: {name}\n"
            lines[docstring.stop:f.end_lineno] = [" " * (f.col_offset + 4) + blank]
            lines[docstring] = shorten(lines[docstring])
    return "".join(lines)


# ---- the handout
def files():
    """The files of the handout, {name: bytes}, but for its checkpoints."""
    if GIVEN.exists():
        with zipfile.ZipFile(GIVEN) as archive:
            return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    found = {name: content.decode() for name, content in read(KEPT).items()}
    found |= {name: (ROOT / path).read_text() for name, path in PAGES.items()}
    for name, stages in WRITTEN.items():
        found[name] = blank_functions(found[name], stages)
    step = r"(?s)        for xs, ys in zip\(.*?        optimizer.zero_grad\(\)\n"
    found["finetune_router.py"] = re.sub(step, '        raise NotImplementedError("stage 3: the loop")\n',
                                         found["finetune_router.py"])
    article = r"(?s)# ---- the article results.*?(?=# ---- everything else)"  # it shows the page
    found["Makefile"] = re.sub(article, "", found["Makefile"])
    fast = blank_functions(found["support/fast.py"], {"ff_moe": 1})
    found["support/fast.py"] = fast.replace("stage 1: ff_moe", "--fast is not part of the assignment")
    found["support/live.py"] = NO_LIVE
    return {name: text.encode() for name, text in found.items()}


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--out", default="out/handout", help="folder to write to (default: %(default)s)")
    out = Path(parser.parse_args(argv).out)
    if out.exists():  # somebody may have written in it
        raise BadInput(f"--out {out} is there already; delete it, or choose another name")
    write(out, files())
    shutil.move(shutil.make_archive(f"{out}_given", "zip", out), out / "course" / "given.zip")
    write(out, read(["data/start/*.pt"]))
    print(f"wrote {out}")


if __name__ == "__main__":
    run(main)
