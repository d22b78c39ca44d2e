"""The students' part of this repository: the same files, without the bodies of the functions that students write.

    python -m course.handout --out out/handout      # writes out/handout/ and out/handout.zip; `make handout` does it

A body is replaced by `raise NotImplementedError("stage 2: ff_moe")`, which names the stage and the function.
"""
import ast
import io
import zipfile
from pathlib import Path

import torch

from course import checks
from course.check import WRITTEN, attempt_stage
from data.common import BadInput, make_parser, replacing, run

ROOT = Path(__file__).parent.parent
KEPT = ("*.py", "data/*.py", "data/btx.tiktoken", "support/*.py", "support/*.template", "docs/glossary.md", "Makefile",
        "requirements.txt", "LICENSE", "course/__init__.py", "course/checks.py", "course/check.py", "course/run.py",
        "course/check.mk", "course/layer.svg")
STAGE_OF = {"swiglu": 1, "route_topk": 2, "ff_moe": 2, "expert_load": 3, "load_balancing_loss": 3, "average": 4,
            "rule_for": 4, "route_switch": 5, "route_sample": 5, "temperature": 5, "split": 6, "blend": 6}
SOURCES = (*WRITTEN, "support/fast.py")  # where these functions are; the last has ff_moe again


def bodies(text):
    """Of each function that students write: its name, and the slice of lines after its docstring."""
    return [(f.name, slice(f.body[0].end_lineno, f.end_lineno)) for f in ast.parse(text).body
            if isinstance(f, ast.FunctionDef) and f.name in STAGE_OF]


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


def originals(patterns):
    """The files of this repository that match a pattern: {name: bytes}."""
    paths = sorted({path for pattern in patterns for path in ROOT.glob(pattern)})
    return {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in paths}


def files(solved=0):
    """All files of the handout, {name: bytes}."""
    found = originals(KEPT)
    for name in SOURCES:
        found[name] = blank(found[name].decode(), solved).encode()
    found["Makefile"] = found["Makefile"].replace(b" --fast", b"")  # its sum over experts is a solution
    found["README.md"] = (ROOT / "course" / "ASSIGNMENT.md").read_bytes()
    found["example.html"] = (ROOT / "results" / "table6.html").read_bytes()
    expected, file = {}, io.BytesIO()
    for stage in checks.CHECKS:
        expected |= attempt_stage(stage, checks.PUBLIC_SEEDS)
    torch.save(expected, file)
    found["course/expected.pt"] = file.getvalue()
    return found


def pack(path, content, folder="", executable=()):
    """Write a zip of {name: bytes}, each name below `folder`. Without dates: the same files give the same bytes."""
    with replacing(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in content.items():
            info = zipfile.ZipInfo(folder + name)
            mode = 0o755 if name in executable else 0o644
            info.external_attr = mode << 16
            archive.writestr(info, text, zipfile.ZIP_DEFLATED)


def write(folder, content):
    """Write {name: bytes} into a folder."""
    for name, text in content.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--out", default="out/handout",
                        help="folder to write to, and beside it a zip of the same name (default: %(default)s)")
    parser.add_argument("--solved", type=int, default=0, choices=range(len(checks.STAGES) + 1),
                        help="leave the solutions of stages 1 to N in (default: %(default)s)")
    args = parser.parse_args(argv)
    out = Path(args.out)
    archive = out.with_name(f"{out.name}.zip")
    for path in (out, archive):
        if path.exists():  # somebody may have written in it
            raise BadInput(f"--out {out}: {path} is there already; delete it, or choose another name")
    content = files(args.solved)
    write(out, content)
    pack(archive, content, f"{out.name}/")
    print(f"wrote {out} and {archive} ({archive.stat().st_size / 1e6:.2f} MB)")


if __name__ == "__main__":
    run(main)
