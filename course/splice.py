"""Put what a student wrote into a fresh handout. `make check` and the grader do the same, so that they agree.

Of a submission remain the bodies of the functions in WRITTEN, and the helper functions, constants and imports at the
top of the file that they use. No other line runs: a change of given code has no effect, and is shown.
"""
import ast
import codecs
import difflib
import importlib
import re
from types import ModuleType

WRITTEN = {  # what students write, and in which stage
    "model.py": {"route_topk": 1, "ff_moe": 1, "MoE.forward": 1, "expert_load": 3, "load_balancing_loss": 4,
                 "route_switch": 5, "route_sample": 5},
    "mix.py": {"average": 2, "rule_for": 2, "mix": 2, "split": 6, "blend": 6},
    "finetune_router.py": {"temperature": 5, "the loop": 3}}

# What is written there may use these modules, {name: module}. What leads to files or to the checks is refused.
MODULES = {"math": "math", "copy": "copy", "re": "re", "itertools": "itertools", "collections": "collections",
           "np": "numpy", "numpy": "numpy", "torch": "torch", "nn": "torch.nn", "F": "torch.nn.functional",
           "utils": "torch.nn.utils", "linalg": "torch.linalg", "cuda": "torch.cuda", "training": "support.training"}
NAMES = re.compile(r"__.*|breakpoint|compile|delattr|eval|exec|getattr|globals|help|locals|open|setattr|type|vars|"
                   r"os|time|fast|Path")
ATTRIBUTES = re.compile(r"_(?!replace$).*|(f|tb|gi|cr|ag)_.*|load|save|savez\w*|(load|save|gen)\w*txt|from_?file|"
                        r"fromregex|tofile|dump|memmap|ctypes|PyTorchFile\w+")
PLAIN = (ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.UnaryOp, ast.USub, ast.BinOp, ast.Add, ast.Sub, ast.Mult,
         ast.Div, ast.Load)
IMPORTS = (ast.Import, ast.ImportFrom)
SET = ("data", "grad", "requires_grad")  # attributes that may be set


class Refused(Exception):
    """Why a piece of a submission is not taken."""


def decode(content):
    """The text of a file, whatever an editor made of its encoding. Letters of older encodings can stand in comments."""
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if utf_16 else "utf-8-sig", errors="replace")


def definitions(tree):
    """{name: its statement} of what a module defines: functions, methods as Class.name, classes, constants, imports."""
    found = {}
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{f.name}": f for f in node.body if isinstance(f, ast.FunctionDef)}
        if isinstance(node, ast.Assign):
            found |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, IMPORTS):
            found |= {alias.asname or alias.name.split(".")[0]: node for alias in node.names}
    return found


def names_in(nodes):
    """The names that some statements use."""
    return {part.id for node in nodes for part in ast.walk(node) if isinstance(part, ast.Name)}


# ---- what a piece of a submission may do
def look_up(module, name):
    """The module that `module.name` is, or None if it is something else. Raises Refused if it is not of MODULES."""
    value = getattr(importlib.import_module(module), name, None)
    if value is None or (isinstance(value, ModuleType) and value.__name__ not in MODULES.values()):
        raise Refused(f"uses {module}.{name}")
    return value.__name__ if isinstance(value, ModuleType) else None


def module_of(node, modules):
    """The module that an expression stands for, or None. modules: {name: module}."""
    if isinstance(node, ast.Name):
        return modules.get(node.id)
    module = module_of(node.value, modules) if isinstance(node, ast.Attribute) else None
    return module and look_up(module, node.attr)


def check_import(node, given):
    """Raise Refused unless an import is the handout's, or gives a module its name in MODULES, or a function of one."""
    for alias in node.names:
        path, name = alias.name, alias.asname or alias.name
        if isinstance(node, ast.ImportFrom):
            path = f"{node.module}.{path}"
        module, _, last = path.rpartition(".")
        if MODULES.get(name) != path and ast.unparse(node) not in given:
            if name in MODULES or module not in MODULES.values() or ATTRIBUTES.fullmatch(last) or look_up(module, last):
                modules = sorted({f"{module} as {name}" for name, module in MODULES.items()})
                raise Refused(f"imports {path} as {name}; allowed are {', '.join(modules)}, and functions of these")


def check_statements(body, known, available):
    """Raise Refused if statements could reach more than a function's arguments, MODULES and the handout's functions.

    known, available: the definitions of the handout's and of the student's file.
    """
    parts = [part for node in body for part in ast.walk(node)]
    used = [available[name] for name in names_in(body) & available.keys() - known.keys()]
    aliases = {alias for node in [*known.values(), *used, *parts] if isinstance(node, IMPORTS) for alias in node.names}
    modules = {name: MODULES[name] for name in {alias.asname or alias.name for alias in aliases} & MODULES.keys()}
    before_dots = {part.value for part in parts if isinstance(part, ast.Attribute)}
    for part in [*used, *parts]:
        if isinstance(part, IMPORTS):
            check_import(part, [ast.unparse(node) for node in known.values()])
        if module_of(part, modules) and part not in before_dots:  # it could get a name that is not known here
            raise Refused(f"uses {ast.unparse(part)} without a dot behind it")
        if isinstance(part, (ast.ClassDef, ast.Global, ast.MatchClass)):
            raise Refused(f"has a {type(part).__name__}")
        if isinstance(part, ast.Name) and NAMES.fullmatch(part.id):
            raise Refused(f"uses {part.id}")
        if isinstance(part, ast.Attribute) and ATTRIBUTES.fullmatch(part.attr):
            raise Refused(f"uses {ast.unparse(part)}")
        if isinstance(part, ast.Attribute) and not isinstance(part.ctx, ast.Load) and part.attr not in SET:
            raise Refused(f"sets {ast.unparse(part)}")


def check_helper(node, known, available):
    """Raise Refused unless a definition at the top of a submission is an import, a function or a plain constant."""
    values = []
    if isinstance(node, ast.FunctionDef):
        check_statements([node], known, available)
        values = [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]
    if isinstance(node, ast.Assign):
        values = [node.value, *node.targets[1:]]
    if not all(isinstance(part, PLAIN) for value in values for part in ast.walk(value)):
        raise Refused("has a decorator, or a value that is computed outside of a function")


# ---- what a student wrote, in the handout
def find_loop(main):
    """The statements of the loop over steps in a `main`, and each as text."""
    body = next((node.body for node in getattr(main, "body", []) if isinstance(node, ast.For)), [])
    return body, [ast.unparse(node) for node in body]


def find_piece(piece, known, available):
    """Where a piece stands in the handout, (statements, the slice of them), and the statements that a student wrote."""
    if piece != "the loop":
        return known[piece].body, slice(None), getattr(available.get(piece), "body", [])
    body, given = find_loop(known["main"])
    loop, lines = find_loop(available.get("main"))
    blank = next(i for i, node in enumerate(body) if isinstance(node, ast.Raise))
    end = lines.index(given[blank + 1]) if given[blank + 1] in lines else 0  # the line behind the step
    written = [node for node, line in zip(loop[:end], lines[:end], strict=True) if line not in given[:blank]]
    return body, slice(blank, blank + 1), written


def splice(name, given, text):
    """Put what a student wrote into a file of the handout: (the file, what was not taken, the diff of given code)."""
    try:
        compile(text, name, "exec")
        ours, theirs = ast.parse(given), ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return given, [f"{name}: {error}: nothing of this file is taken"], []
    notes, todo, helpers, known, available = [], set(), {}, definitions(ours), definitions(theirs)
    for piece in WRITTEN[name]:
        body, place, written = find_piece(piece, known, available)
        if not written:
            notes.append(f"{name}: {piece} is missing")
            continue
        try:
            check_statements(written, known, available)
            body[place] = written
            todo |= names_in(written)
        except Refused as refused:
            notes.append(f"{name}: {piece} {refused}: not run")
            body[place] = ast.parse(f"raise NotImplementedError({notes[-1]!r})").body
    while words := sorted(todo & available.keys() - known.keys() - helpers.keys()):
        try:
            check_helper(available[words[0]], known, available)
            helpers[words[0]] = available[words[0]]
            todo |= names_in([available[words[0]]])
        except Refused as refused:
            notes.append(f"{name}: {words[0]} {refused}: not taken")
            helpers[words[0]] = ast.Pass()
    place = max(i for i, node in enumerate(ours.body) if isinstance(node, IMPORTS)) + 1
    ours.body[place:place] = helpers.values()
    ours.body.insert(1, ast.parse("from __future__ import annotations").body[0])  # so that no annotation runs
    changes = []  # of given code
    for word in [word for word in known if word in available and word not in WRITTEN[name] and "." not in word]:
        before, after = (ast.unparse(found[word]).splitlines() for found in (known, available))
        changes += list(difflib.unified_diff(before, after, "", "", "", "", 0, ""))[2:]
    return ast.unparse(ast.fix_missing_locations(ours)), notes, changes
