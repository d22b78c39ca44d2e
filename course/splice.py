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
    "finetune_router.py": {"temperature": 5, "the loop": 3},
    "Makefile": {"branch": 2}}

# What is written there may import these modules. What leads out of it, to files or to the checks, is refused.
MODULES = {"math", "copy", "re", "itertools", "collections", "numpy", "torch", "torch.nn", "torch.nn.functional",
           "torch.nn.utils", "torch.linalg", "torch.amp", "torch.cuda", "support.training"}
NAMES = re.compile(r"__.*|breakpoint|compile|delattr|eval|exec|getattr|globals|help|locals|open|setattr|type|vars|"
                   r"os|time|fast|Path")
ATTRIBUTES = re.compile(r"_(?!replace$).*|(f|tb|gi|cr|ag)_.*|load|save|savez\w*|(load|save|gen)\w*txt|from_?file|"
                        r"fromregex|tofile|dump|memmap|ctypes|PyTorchFile\w+")
MAKE_TEXT = re.compile(r"(?:[\w =,.%/-]|\$[<@*^]|\$\([A-Z_]+\))*")  # no calls of make's functions, no shell syntax
PLAIN = (ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.UnaryOp, ast.USub, ast.BinOp, ast.Add, ast.Sub, ast.Mult,
         ast.Div, ast.Load)


class Refused(Exception):
    """Why a piece of a submission is not taken."""


def decode(content):
    """The text of a file, whatever an editor made of its encoding and line ends."""
    encoding = "utf-8-sig"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def functions(tree):
    """The functions of a module, and the methods of its classes by their full name: {name: its node}."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{f.name}": f for f in node.body if isinstance(f, ast.FunctionDef)}
    return found


def imports(nodes):
    """[(name, a statement that imports it alone)] of those nodes that are imports."""
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [(alias.asname or alias.name.split(".")[0], ast.Import([alias])) for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            found += [(alias.asname or alias.name, ast.ImportFrom(node.module, [alias], node.level))
                      for alias in node.names]
    return found


def definitions(tree):
    """{name: the statement at the top of a module that defines it}."""
    found = dict(imports(tree.body))
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node
    return found


# ---- what a piece of a submission may do
def look_up(module, name):
    """The name of the module that `module.name` is, or None if it is something else. Raises Refused."""
    value = getattr(importlib.import_module(module), name, None)
    if value is None or (isinstance(value, ModuleType) and value.__name__ not in MODULES):
        raise Refused(f"uses {module}.{name}")
    return value.__name__ if isinstance(value, ModuleType) else None


def find_modules(statements, given):
    """{name: the module that it stands for}, of imports. Raises Refused if one is neither allowed nor the handout's."""
    modules = {}
    for name, statement in imports(statements):
        path = statement.names[0].name
        if isinstance(statement, ast.ImportFrom):
            path = f"{statement.module}.{path}"
        elif not statement.names[0].asname:
            path = name  # import torch.nn gives the name torch
        module, _, last = path.rpartition(".")
        if path in MODULES:
            if modules.setdefault(name, path) != path:
                raise Refused(f"imports two modules as {name}")
        elif ast.unparse(statement) not in given:
            if module not in MODULES or ATTRIBUTES.fullmatch(last) or look_up(module, last):
                raise Refused(f"imports {path}; allowed are {', '.join(sorted(MODULES))}")
    return modules


def names_in(node):
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def check_function(function, known, available):
    """Raise Refused if a function could reach more than its arguments, MODULES and the handout's functions.

    known, available: what stands at the top of the handout's and of the student's file, {name: statement}.
    """
    parts = list(ast.walk(function))
    above = [(available | known)[name] for name in names_in(function) & (available | known).keys()]
    modules = find_modules([*above, *parts], [ast.unparse(node) for node in known.values()])

    def module_of(node):
        if isinstance(node, ast.Name):
            return modules.get(node.id)
        module = module_of(node.value) if isinstance(node, ast.Attribute) else None
        return module and look_up(module, node.attr)

    before_dots = {part.value for part in parts if isinstance(part, ast.Attribute)}
    for part in parts:
        if module_of(part) and part not in before_dots:  # else a module could get a name that is not known here
            raise Refused(f"uses {ast.unparse(part)} without a dot behind it")
        if isinstance(part, (ast.ClassDef, ast.Global, ast.MatchClass)):
            raise Refused(f"has a {type(part).__name__}")
        if isinstance(part, ast.Name) and NAMES.fullmatch(part.id):
            raise Refused(f"uses {part.id}")
        if isinstance(part, ast.Attribute):
            if ATTRIBUTES.fullmatch(part.attr):
                raise Refused(f"uses {ast.unparse(part)}")
            if not isinstance(part.ctx, ast.Load) and part.attr not in ("data", "grad", "requires_grad"):
                raise Refused(f"sets {ast.unparse(part)}")


def check_helper(node, known, available):
    """Raise Refused unless a definition at the top of a submission is an import, a function or a plain constant."""
    values = []
    if isinstance(node, ast.FunctionDef):
        check_function(node, known, available)
        values = [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]
        for part in ast.walk(node):  # an annotation would run, too
            if isinstance(part, ast.FunctionDef):
                part.returns = None
            if isinstance(part, ast.arg):
                part.annotation = None
    elif isinstance(node, ast.Assign):
        values = [node.value, *node.targets[1:]]
    elif isinstance(node, ast.ClassDef):
        raise Refused("is a class")
    if not all(isinstance(part, PLAIN) for value in values for part in ast.walk(value)):
        raise Refused("has a decorator, or a value that is computed outside of a function")


# ---- what a student wrote, in the handout
def find_piece(piece, ours, theirs):
    """Where a piece stands in the handout, (statements, their slice), and what a student wrote there; None if missing."""
    name = "main" if piece == "the loop" else piece
    target, source = functions(ours)[name].body, getattr(functions(theirs).get(name), "body", [])
    if piece != "the loop":
        return target, slice(0, len(target)), source
    body, loop = (next((node.body for node in main if isinstance(node, ast.For)), []) for main in (target, source))
    blank = next(i for i, node in enumerate(body) if isinstance(node, ast.Raise))
    before, behind = [ast.unparse(node) for node in body[:blank]], ast.unparse(body[blank + 1])
    lines = [ast.unparse(node) for node in loop]
    if behind not in lines:
        return body, slice(blank, blank + 1), []
    step = [node for node, line in zip(loop[:lines.index(behind)], lines, strict=False) if line not in before]
    return body, slice(blank, blank + 1), step


def splice(name, given, text):
    """Put what a student wrote into a file of the handout: (the file, what was not taken, the diff of given code)."""
    if name == "Makefile":
        return splice_makefile(given, text)
    try:
        compile(text, name, "exec")
        ours, theirs = ast.parse(given), ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return given, [f"{name}: {error}: nothing of this file is taken"], []
    notes, todo, helpers, known, available = [], set(), {}, definitions(ours), definitions(theirs)
    for piece in WRITTEN[name]:
        body, place, written = find_piece(piece, ours, theirs)
        if not written:
            notes.append(f"{name}: {piece} is missing")
            continue
        function = ast.Module(written, [])
        try:
            check_function(function, known, available)
            todo |= names_in(function)
        except Refused as refused:
            notes.append(f"{name}: {piece} {refused}: not run")
            written = ast.parse(f"raise RuntimeError({notes[-1]!r})").body
        body[place] = written
    while words := sorted(todo & available.keys() - known.keys() - helpers.keys()):
        word = words[0]
        helpers[word] = available[word]
        try:
            check_helper(helpers[word], known, available)
            todo |= names_in(helpers[word])
        except Refused as refused:
            notes.append(f"{name}: {word} {refused}: not taken")
            helpers[word] = ast.Pass()
    place = max(i for i, node in enumerate(ours.body) if isinstance(node, (ast.Import, ast.ImportFrom))) + 1
    ours.body[place:place] = helpers.values()
    changes = []
    for word in known:
        if word in available:
            changes += diff(name, *(ast.unparse(found[word]) for found in (definitions(ours), available)))
    return ast.unparse(ast.fix_missing_locations(ours)), notes, changes


def splice_makefile(given, text):
    """EXPERT_DATA and the recipe of the experts, in the handout's Makefile."""
    given, text = (re.sub(r"\s*\\\n\s*", " ", makefile) for makefile in (given, text))  # one line for each command
    spliced, notes = given, []
    for pattern in (r"(?m)^EXPERT_DATA *[:?]?= *(.*?) *(?:#.*)?$", r"(?m)^\$\(EXPERTS\):.*\n\t(.*?) *$"):
        blank, written = re.search(pattern, given), re.search(pattern, text)
        if not written:
            notes.append("Makefile: EXPERT_DATA or the recipe of $(EXPERTS) is missing")
        elif written[1] != blank[1]:
            text = text[:written.start(1)] + blank[1] + text[written.end(1):]
            if MAKE_TEXT.fullmatch(written[1]):
                spliced = spliced.replace(blank[1], written[1])
            else:
                notes.append(f"Makefile: {written[1]!r} has more than words and variables: not taken")
    return spliced, notes, diff("Makefile", given, text)


def diff(name, given, theirs):
    """The lines of given code that a student changed."""
    return list(difflib.unified_diff(given.splitlines(), theirs.splitlines(), name, "", "", "", 0, ""))[2:]
