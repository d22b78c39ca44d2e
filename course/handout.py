"""The students' part of this repository: the same files, without what students write.

    python -m course.handout --out out/handout      # writes out/handout/ and out/handout.zip; `make handout` does it

A body is replaced by `raise NotImplementedError("stage 1: ff_moe")`. Of a docstring remain its first paragraph and the
lines that describe arguments.
"""
import ast
import io
import re
import shutil
import zipfile
from pathlib import Path

from cli import BadInput, make_parser, run
from course.check import write
from course.splice import WRITTEN, functions

ROOT = Path(__file__).parent.parent
KEPT = (".gitignore", "*.py", "data/*.py", "data/btx.tiktoken", "support/*.py", "support/report.template",
        "docs/glossary.md", "Makefile", "requirements.txt", "pyproject.toml", "LICENSE",
        *(f"course/{name}" for name in ("__init__.py", "splice.py", "check.py", "stages.py", "hints.json",
                                        "table.py", "check.mk", "AGENTS.md", "ASSIGNMENT.md", "EXPERIMENT.md",
                                        "ACCOUNTING.md", "layer.svg")))
LEFT_OUT = {  # answers, and what is said of files that a handout lacks
    "model.py": r"(?<=summed over layers \(3\.3\)): 1 per layer at balance, N at collapse",
    "finetune_router.py": r"  # 1: balanced, N: all tokens to one expert",
    "docs/glossary.md": r"(?m)^- \*\*`live\.html`\*\*.*\n(  .*\n)*|"
                        r" It is 1 at\s+balance and N if one of N experts gets all tokens\.",
    "Makefile": r"\. A preset may set NAMES to TEXTS|; a preset may import it instead|"
                r"experiments/experiments\.mk tests/tests\.mk course/course\.mk |(?m:^# rivals, paper; test.*\n)|"
                r"(?s:# ---- the article results.*?(?=# ---- everything else))|(?<=demo )page "}


def blank_functions(text, stages):
    """A source text without the bodies of the functions in `stages`; their docstrings keep what `shorten` leaves."""
    lines = text.splitlines(keepends=True)
    for name, f in reversed(functions(ast.parse(text)).items()):
        if name in stages:
            docstring = slice(f.body[0].lineno - 1, f.body[0].end_lineno)
            blank = f'raise NotImplementedError("stage {stages[name]}: {name}")\n'
            if name == "load_balancing_loss":  # stage 3 shows what happens without it
                blank = f"return 0 * routing[0].probs.sum()  # stage 4: {name}\n"
            lines[docstring.stop:f.end_lineno] = [" " * (f.col_offset + 4) + blank]
            lines[docstring] = shorten(lines[docstring])
    return "".join(lines)


def shorten(docstring):
    """The first paragraph of a docstring, and its lines on arguments."""
    text = "".join(docstring)
    first, *rest = text.split("\n\n")
    if not rest:
        return docstring
    arguments = [line for part in rest for line in part.splitlines() if re.match(r" *\w+(, \w+)*: ", line)]
    if arguments:
        first += "\n\n" + "\n".join(arguments)
    indent = re.match(" *", text)[0]
    return [f'{first}\n{indent}"""\n']


def blank_loop(text):
    """finetune_router.py without the body of its step."""
    last = "        optimizer.zero_grad()\n"
    start = text.index("        for xs, ys in zip(")
    end = text.index(last) + len(last)
    return f'{text[:start]}        raise NotImplementedError("stage 3: the loop")\n{text[end:]}'


def blank_branch(text):
    """The Makefile without the mixture that an expert reads and the checkpoint that it starts from.

    It knows one recipe: the presets are files that a handout lacks.
    """
    text = re.sub(r"(?m)^EXPERT_DATA = .*$", "EXPERT_DATA = $(error stage 2: branch)", text)
    text = re.sub(r"(?s)ifeq \(\$\(PRESET\),cpu\)\n(.*?)else.*?endif\n", r"\1", text)
    text = re.sub(r"PRESET=\S+  |(?m:^PRESET .*\n)", "", text)
    return text.replace("--init $< --data $(EXPERT_DATA)", "--data $(EXPERT_DATA)")


def read(patterns):
    """The files of this repository that match a pattern: {name: bytes}."""
    paths = sorted({path for pattern in patterns for path in ROOT.glob(pattern)})
    return {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in paths}


def files():
    """The files of the handout, {name: bytes}, but for its checkpoints."""
    found = {name: content.decode() for name, content in read(KEPT).items()}
    for name, stages in WRITTEN.items():
        if name.endswith(".py"):
            found[name] = blank_functions(found[name], stages)
    found["finetune_router.py"] = blank_loop(found["finetune_router.py"])
    found["Makefile"] = blank_branch(found["Makefile"])
    fast = blank_functions(found["support/fast.py"], {"ff_moe": 1})
    found["support/fast.py"] = fast.replace("stage 1: ff_moe", "--fast is not part of the assignment")
    del found["support/live.py"]  # its page is the solution, in JavaScript
    del found["hf.py"]  # it renames tensors as mix does
    evaluate = found["evaluate.py"].replace("btm, live\n", "btm\n").replace(" and, for an MoE, live.html", "")
    found["evaluate.py"] = re.sub(r"        if moes:\n|.*live\.(write_page|html).*\n", "", evaluate)
    for name, pattern in LEFT_OUT.items():
        found[name], n = re.subn(pattern, "", found[name])
        if not n:
            raise ValueError(f"{name} has no {pattern}")
    found["README.md"] = found.pop("course/ASSIGNMENT.md")
    for name in ("AGENTS.md", "EXPERIMENT.md", "ACCOUNTING.md"):
        found[name] = found.pop(f"course/{name}")
    return {name: text.encode() for name, text in found.items()}


def zip_files(content):
    """{name: bytes} as the bytes of a zip."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in content.items():
            archive.writestr(name, text)
    return memory.getvalue()


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--out", default="out/handout", help="folder to write to, and OUT.zip (default: %(default)s)")
    args = parser.parse_args(argv)
    if Path(args.out).exists():  # somebody may have written in it
        raise BadInput(f"--out {args.out} is there already; delete it, or choose another name")
    content = files()
    content |= read(["data/start/*.pt"]) | {"course/given.zip": zip_files(content)}
    write(args.out, content)
    out = Path(args.out).resolve()
    print(f"wrote {args.out} and {shutil.make_archive(str(out), 'zip', out.parent, out.name)}")


if __name__ == "__main__":
    run(main)
