"""The house is in order: what may import what, and that a reader reads what runs."""
import ast
import re
import sys
from graphlib import TopologicalSorter

import finetune_router
import model
import train_expert
from tests.tiny import ROOT, tracked

TRACKED = tracked()
MODULES = {file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): ast.parse((ROOT / file).read_text())
           for file in TRACKED if file.endswith(".py") and not file.startswith("tests/")}
SCRIPTS = {name for name in MODULES if "." not in name} - {"model", "data", "support", "experiments", "course"}


def imports(tree):
    """The full names of all modules that a module imports, wherever in it; `from support import fast` is support.fast."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            yield from inside or {node.module}


GRAPH = {name: {other for other in imports(tree) if other in MODULES} for name, tree in MODULES.items()}


def test_imports_run_one_way():
    assert {other.split(".")[0] for other in imports(MODULES["model"])} - sys.stdlib_module_names == {"torch"}
    for name, others in GRAPH.items():
        folder = name.split(".")[0]
        for last in ("experiments", "course"):
            assert folder == last or not any(other.startswith(last) for other in others), name
        if folder == "support":
            assert not others & SCRIPTS, name
        if folder == "data":
            allowed = {"support.settings", "support.files", "support.checkpoint"}
            assert all(other.startswith("data") or other in allowed for other in others), name
    assert len(list(TopologicalSorter(GRAPH).static_order())) == len(MODULES) > 20  # raises at a circle


def test_every_folder_of_code_says_what_lives_there():
    for folder in ("data", "support", "experiments", "course"):
        assert "import" in ast.get_docstring(MODULES[folder]), folder


def test_the_equation_is_what_runs(tiny, tmp_path):
    """In stage 3 with default options, in each layer and step; and the README quotes it as it stands in model.py."""
    functions = (model.route_topk, model.ff_moe, model.swiglu, model.load_balancing_loss)
    calls = dict.fromkeys((f.__code__ for f in functions), 0)

    def count(frame, event, argument):
        if event == "call" and frame.f_code in calls and inside:
            calls[frame.f_code] += 1
    inside, real = [], train_expert.training_step

    def step(*arguments):
        inside.append(1)
        sys.setprofile(count)
        try:
            return real(*arguments)
        finally:
            sys.setprofile(None)
            inside.clear()
    train_expert.training_step = step
    try:
        finetune_router.main(["--init", str(tiny / "btx_mixed.pt"), "--data_dir", str(tiny / "data"), "--data", "math",
                              "--steps", "3", "--out", str(tmp_path / "a.pt")])
    finally:
        train_expert.training_step = real
    steps, layers, experts = 3, 2, 3
    assert list(calls.values()) == [steps * layers, steps * layers, steps * layers * experts, steps]


def test_the_readme_is_short_and_quotes_the_code():
    readme = (ROOT / "README.md").read_text()
    lines = readme.splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= 130
    code, rest = re.search(r"```python\n(.*?)```", readme, re.S)[1].splitlines(), (ROOT / "model.py").read_text()
    quoted = [line.strip() for line in code if line.strip() and not line.startswith("#")]
    assert len(quoted) >= 10
    for line in quoted:  # in this order
        assert line in rest, line
        rest = rest.split(line, 1)[1]


def test_no_line_of_the_source_is_longer_than_130():
    for file in TRACKED:
        if file.endswith((".py", ".mk", ".html", "Makefile")) and not file.startswith("results/"):
            long = [n for n, line in enumerate((ROOT / file).read_text().splitlines(), 1) if len(line) > 130]
            assert not long, (file, long)
