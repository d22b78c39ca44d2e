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
                   r"os|fast|Path|argparse|make_parser|parse|main|run|dataclass")
# Private names; frames of functions and generators; files; modules; what calls or sets attributes by their names.
ATTRIBUTES = re.compile(r"_(?!replace$).*|(f|tb|gi|cr|ag)_.*|load|save|savez\w*|(load|save|gen)\w*txt|from_?file|"
                        r"fromregex|tofile|dump|memmap|ctypes|PyTorchFile\w+|open|os|sys|builtins|get_device_module|"
                        r"format|format_map|obj|compile|graph|recompile|to_folder|parse_args|add_argument")
PLAIN = (ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.UnaryOp, ast.USub, ast.BinOp, ast.Add, ast.Sub, ast.Mult,
         ast.Div, ast.Load)
IMPORTS = (ast.Import, ast.ImportFrom)


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
    parent = importlib.import_module(module)
    if not hasattr(parent, name):
        raise Refused(f"uses {module}.{name}, which is not there")
    value = getattr(parent, name)
    if not isinstance(value, ModuleType):
        return None
    if value.__name__ not in MODULES.values():
        raise Refused(f"uses {module}.{name}")
    return value.__name__


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
        if MODULES.get(name) == path or ast.unparse(node) in given:
            continue
        if name in MODULES or module not in MODULES.values() or ATTRIBUTES.fullmatch(last) or look_up(module, last):
            raise Refused(f"imports {path} as {name}, which is not in MODULES of course/splice.py")


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
        if isinstance(part, ast.Attribute) and not isinstance(part.ctx, ast.Load) and part.attr != "grad":
            raise Refused(f"sets {ast.unparse(part)}")


def check_helper(node, known, available):
    """Raise Refused unless a definition at the top of a submission is an import, a function or a plain constant."""
    values = []
    if isinstance(node, ast.FunctionDef):
        check_statements([node], known, available)
        values = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
        if node.decorator_list:
            raise Refused("has a decorator")
    if isinstance(node, ast.Assign):
        values = [node.value, *node.targets[1:]]
    if not all(isinstance(part, PLAIN) for value in values for part in ast.walk(value)):
        raise Refused("has a value that is computed outside of a function")


# ---- what a student wrote, in the handout
def find_piece(piece, defined):
    """The statements of a function, or of the loop in `main`; [] if it is missing."""
    if piece == "the loop":
        loops = [part for part in defined["main"].body if isinstance(part, ast.For)] if "main" in defined else []
        return loops[-1].body if loops else []
    return defined[piece].body if piece in defined else []


def remove_hints(tree):
    """Take the type hints out of all functions, because they would run."""
    for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
        function.returns = None
        for part in ast.walk(function):
            if isinstance(part, ast.arg):
                part.annotation = None
            if isinstance(part, ast.AnnAssign):
                part.annotation = ast.Constant(None)


def splice(name, given, text):
    """Put what a student wrote into a file of the handout. Returns the file, and notes on what has no effect."""
    try:
        compile(text, name, "exec")
        ours, theirs = ast.parse(given), ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return given, [f"{name}: {error}: nothing of this file is taken"]
    remove_hints(theirs)
    known, available = definitions(ours), definitions(theirs)
    notes, todo, helpers = [], set(), {}
    for piece in WRITTEN[name]:
        body, written = find_piece(piece, known), find_piece(piece, available)
        if not written:
            notes.append(f"{name}: {piece} is missing")
            continue
        try:
            check_statements(written, known, available)
            body[:] = written
            todo |= names_in(written)
        except Refused as refused:
            notes.append(f"{name}: {piece} {refused}: not run")
            body[:] = ast.parse(f"raise NotImplementedError({notes[-1]!r})").body
    while words := todo & available.keys() - known.keys() - helpers.keys():
        word = min(words)
        helpers[word] = available[word]
        try:
            check_helper(available[word], known, available)
            todo |= names_in([available[word]])
        except Refused as refused:
            notes.append(f"{name}: {word} {refused}: not taken")
            helpers[word] = ast.Pass()
    ours.body[1:1] = helpers.values()
    changes = []
    for word in [word for word in known if word in available and word not in WRITTEN[name] and "." not in word]:
        before, after = (ast.unparse(found[word]).splitlines() for found in (known, available))
        changes += list(difflib.unified_diff(before, after, "", "", "", "", 0, ""))[2:]
    if changes:
        notes.append("\n".join([f"{name}: given code was changed, without effect:", *changes[:40]]))
    return ast.unparse(ast.fix_missing_locations(ours)), notes
