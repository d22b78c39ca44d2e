"""The students' part of this repository: the same files, without what students write.

    python -m course.handout --out out/handout      # writes out/handout/ and out/handout.zip; `make handout` does it

A body is replaced by `raise NotImplementedError("stage 1: ff_moe")`. Of a docstring remain its first paragraph and the
lines that describe arguments.
"""
import ast
import re
import shutil
from pathlib import Path

from cli import BadInput, make_parser, run
from course.check import write
from course.splice import WRITTEN, definitions

ROOT = Path(__file__).parent.parent
KEPT = (".gitignore", "Makefile", "requirements.txt", "pyproject.toml", "LICENSE", "docs/glossary.md",
        "cli.py", "model.py", "mix.py", "train_expert.py", "finetune_router.py", "evaluate.py", "sample.py",
        "data/*.py", "data/btx.tiktoken", "support/*.py", "support/report.template", "page/__init__.py",
        "course/__init__.py", "course/splice.py", "course/check.py", "course/stages.py", "course/hints.json",
        "course/table.py", "course/check.mk", "course/layer.svg")
PAGES = {"README.md": "course/ASSIGNMENT.md"} | {name: f"course/{name}" for name in
                                                 ("AGENTS.md", "EXPERIMENT.md", "ACCOUNTING.md")}
# live.html holds the solution, in JavaScript
NO_LIVE = 'def write_page(*args):\n    return "No live.html: it is not part of a handout."\n'


def blank_functions(text, stages):
    """A source text without the bodies of the functions in `stages`; their docstrings keep what `shorten` leaves."""
    lines = text.splitlines(keepends=True)
    for name, f in reversed(definitions(ast.parse(text)).items()):
        if name in stages:
            docstring = slice(f.body[0].lineno - 1, f.body[0].end_lineno)
            blank = f'raise NotImplementedError("stage {stages[name]}: {name}")\n'
            if name == "load_balancing_loss":  # stage 3 shows what happens without it
                blank = f"return 0 * routing[0].probs.sum()  # stage 4: {name}\n"
            lines[docstring.stop:f.end_lineno] = [" " * (f.col_offset + 4) + blank]
            lines[docstring] = shorten(lines[docstring])
    return "".join(lines)


def shorten(docstring):
    """The first paragraph of a docstring, and those that begin with an argument."""
    first, *rest = "".join(docstring).split("\n\n")
    kept = "\n\n".join([first, *(part for part in rest if re.match(r" *\w+(, \w+)*: ", part))])
    end = "" if kept.endswith('"""\n') else '\n    """\n'
    return [kept + end]


def read(patterns):
    """The files of this repository that match a pattern: {name: bytes}."""
    paths = sorted({path for pattern in patterns for path in ROOT.glob(pattern)})
    return {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in paths}


def files():
    """The files of the handout, {name: bytes}, but for its checkpoints."""
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
    found["page/live.py"] = NO_LIVE
    return {name: text.encode() for name, text in found.items()}


def write_handout(folder):
    """Write the handout, but for its checkpoints, with course/given.zip, which keeps it as it was given."""
    write(folder, files())
    shutil.move(shutil.make_archive(f"{folder}_given", "zip", folder), Path(folder, "course", "given.zip"))


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--out", default="out/handout", help="folder to write to, and OUT.zip (default: %(default)s)")
    args = parser.parse_args(argv)
    if Path(args.out).exists():  # somebody may have written in it
        raise BadInput(f"--out {args.out} is there already; delete it, or choose another name")
    write_handout(args.out)
    write(args.out, read(["data/start/*.pt"]))
    out = Path(args.out).resolve()
    print(f"wrote {args.out} and {shutil.make_archive(str(out), 'zip', out.parent, out.name)}")


if __name__ == "__main__":
    run(main)
