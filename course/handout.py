"""The students' part of this repository: the same files, without the bodies of the functions that students write.

    python -m course.handout --out out/handout      # writes out/handout/ and out/handout.zip; `make handout` does it

A body is replaced by `raise NotImplementedError("stage 2: ff_moe")`, of the stage and the function.
"""
import ast
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import mix
import model
import train_expert
from course import checks
from support.files import output, prepare_output, write_whole
from support.settings import BadInput, option, parse, run

ROOT = Path(__file__).parent.parent
KEPT = ("*.py", "data/*.py", "data/btx.tiktoken", "support/*.py", "support/explore.template", "docs/glossary.md", "Makefile",
        "requirements.txt", "LICENSE", "course/__init__.py", "course/checks.py", "course/check.py", "course/run.py",
        "course/check.mk", "course/layer.svg")
STAGE_OF = {"swiglu": 1, "route_topk": 2, "ff_moe": 2, "expert_load": 3, "load_balancing_loss": 3, "stack": 4, "average": 4,
            "rule_for": 4, "objective": 5, "route_switch": 6, "route_sample": 6, "temperature": 6, "split": 7, "blend": 7}
SOURCES = ("model.py", "mix.py", "train_expert.py", "support/fast.py")  # where they are; the last has ff_moe again
PUBLIC_SEEDS = (1, 2)
REFERENCE = SimpleNamespace(model=model, mix=mix, train_expert=train_expert)


@dataclass
class Settings:
    out: str = option("out/handout", "folder to write to, and beside it a zip of the same name")
    solved: int = option(0, "leave the solutions of stages 1 to N in", low=0, high=len(checks.STAGES))


def bodies(text):
    """Of each function in a source text that students write: its name, and the lines behind its docstring, as a slice."""
    return [(f.name, slice(f.body[0].end_lineno, f.end_lineno)) for f in ast.parse(text).body
            if isinstance(f, ast.FunctionDef) and f.name in STAGE_OF and ast.get_docstring(f)]


def blank(text, solved=0):
    """A source text without the bodies of the stages after `solved`.

    >>> print(blank("def swiglu(x):\\n    'FF(x)'\\n    return x\\n"), end="")
    def swiglu(x):
        'FF(x)'
        raise NotImplementedError("stage 1: swiglu")
    """
    lines = text.splitlines(keepends=True)
    for name, body in reversed(bodies(text)):
        if STAGE_OF[name] > solved:
            lines[body] = [f'    raise NotImplementedError("stage {STAGE_OF[name]}: {name}")\n']
    return "".join(lines)


def expected():
    """What the public checks give of the reference: {check: {seed: {name: [shape, numbers]}}}, for the handout's own checking."""
    def plain(found):
        return {name: [list(t.shape), [float(f"{v:.9g}") for v in t.flatten().tolist()]] for name, t in found.items()}
    return {check.__name__: {seed: plain(checks.compute(check, REFERENCE, seed)) for seed in PUBLIC_SEEDS}
            for stage in checks.CHECKS.values() for check, _ in stage}


def originals(patterns):
    """The files of this repository that match a pattern: {name: bytes}, names with forward slashes."""
    names = sorted({path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)})
    return {name: (ROOT / name).read_bytes() for name in names}


def pack(path, content, folder="", executable=()):
    """Write a zip of {name: bytes}, each name below `folder`; without dates, so that the same files give the same bytes."""
    def write(file):
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, text in content.items():
                info = zipfile.ZipInfo(folder + name)
                info.external_attr = (0o755 if name in executable else 0o644) << 16
                packed.writestr(info, text, zipfile.ZIP_DEFLATED)
    write_whole(path, write)


def files(solved=0):
    """All files of the handout, as `originals` has them."""
    found = originals(KEPT)
    for name in SOURCES:
        found[name] = blank(found[name].decode(), solved).encode()
    for what, instead in ((b" --fast", b""), (b"|text|smol", b""), (b", tiny, text or smol", b" or tiny"),
                          (b" Rates: see results/grid.md", b"")):  # its sum over experts is a solution; the others are not there
        found["Makefile"] = found["Makefile"].replace(what, instead)
    found["README.md"] = (ROOT / "course" / "ASSIGNMENT.md").read_bytes()
    found["example.html"] = (ROOT / "results" / "table6.html").read_bytes()
    found["course/expected.json"] = json.dumps(expected(), separators=(",", ":")).encode()
    return found


def main(argv=None):
    settings = parse(Settings, argv)
    out = Path(settings.out)
    archive = out.with_name(f"{out.name}.zip")
    for path in (out, archive):
        if os.path.lexists(path):  # somebody may have written in it
            raise BadInput(f"--out {out}: {path} is there already; delete it, or choose another name")
    made = files(settings.solved)
    with output(archive):
        for name, content in made.items():
            prepare_output(out / name)
            write_whole(out / name, lambda file, content=content: file.write(content))
        pack(archive, made, f"{out.name}/")
    print(f"wrote {out} and {archive} ({archive.stat().st_size / 1e6:.2f} MB)")


if __name__ == "__main__":
    run(main)
