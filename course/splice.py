"""Put what a student wrote into a fresh handout. `make check` and the grader do the same, so that they agree.

Of a submission remain the bodies of the functions in WRITTEN, and the helper functions, constants and imports at the
top of the file that they use. No other line runs: a change of given code has no effect, and is shown.
"""
import ast
import codecs
import difflib
import re

WRITTEN = {  # what students write, and in which stage
    "model.py": {"route_topk": 1, "ff_moe": 1, "MoE.forward": 1, "expert_load": 3, "load_balancing_loss": 4,
                 "route_switch": 5, "route_sample": 5},
    "mix.py": {"average": 2, "rule_for": 2, "mix": 2, "split": 6, "blend": 6},
    "finetune_router.py": {"temperature": 5, "the loop": 3},
    "Makefile": {"branch": 2}}
IMPORTS = {"math", "cmath", "time", "random", "copy", "re", "statistics", "fractions", "dataclasses", "typing",
           "functools", "itertools", "collections", "contextlib", "torch", "numpy", "tqdm", "cli", "data", "model",
           "support"}
NAMES = {"exec", "eval", "compile", "open", "getattr", "setattr", "delattr", "globals", "locals", "vars", "exit",
         "quit", "breakpoint", "input", "os", "Path"}  # refused as names; x.eval() is another's method, and runs
ATTRIBUTES = re.compile(  # refused behind a dot: ways from a function to its frames, to modules and to files
    r"_(?!_?(class_|name_|replace|asdict|fields)_?$)\w+|(f|tb|gi|cr|ag)_(back|globals|locals|builtins|code|frame)|"
    r"sys|os|gc|io|builtins|importlib|import_module|subprocess|inspect|ctypes|signal|threading|asyncio|"
    r"unittest|multiprocessing|pickle|traceback|linecache|with_traceback|attrgetter|methodcaller|FunctionType|CodeType|Path|"
    r"pathlib|cpp_extension|hub|package|overrides|testing|ctypeslib|f2py|distributed")
MAKE_TEXT = re.compile(r"(?:[\w =,.%/-]|\$[<@*^]|\$\([A-Z_]+\))*")  # no calls of make's functions, no shell syntax


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


def definitions(tree):
    """{name: the statement at the top of a module that defines it}; an import of several names becomes several."""
    found = {}
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                found |= {name.id: node for name in ast.walk(target) if isinstance(name, ast.Name)}
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                one = ast.Import([alias])
                if isinstance(node, ast.ImportFrom):
                    one = ast.ImportFrom(node.module, [alias], node.level)
                found[alias.asname or alias.name.split(".")[0]] = one
    return found


def why_refused(nodes):
    """Why pieces of a submission do not run, or None."""
    parts = [part for node in nodes for part in ast.walk(node)]
    renamed = {getattr(part, key, None) for part in parts for key in ("arg", "asname", "name")}
    renamed |= {part.id for part in parts if isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Load)}
    for part in parts:
        words, modules = [], []
        if isinstance(part, ast.Import):
            modules = [alias.name for alias in part.names]
            words = ".".join(modules).split(".")
        elif isinstance(part, ast.ImportFrom):
            modules = [part.module if part.module and not part.level else "."]
            words = [*modules[0].split("."), *(alias.name for alias in part.names)]
        elif isinstance(part, ast.Attribute):
            on_self = ast.unparse(part.value) == "self" and "self" not in renamed
            words = [] if on_self and not part.attr.startswith("__") else [part.attr]
            if not (on_self or isinstance(part.ctx, ast.Load) or part.attr in ("data", "grad", "requires_grad")):
                return f"sets {ast.unparse(part)}"
        elif isinstance(part, ast.MatchClass):
            words = part.kwd_attrs
        for module in modules:
            if module.split(".")[0] not in IMPORTS:
                return f"imports {module}, and may import {', '.join(sorted(IMPORTS))}"
        refused = [word for word in words if ATTRIBUTES.fullmatch(word)]
        name = getattr(part, "id", getattr(part, "name", None))
        if isinstance(name, str) and (name in NAMES or name.startswith("__")):
            refused.append(name)
        if refused:
            return f"uses {refused[0]}"


def is_constant(node):
    """Whether an expression only writes down a value, such as 1.5, -math.inf or (1, 2 * N): it calls nothing."""
    allowed = (ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.UnaryOp, ast.unaryop, ast.expr_context, ast.Name,
               ast.Attribute, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div)
    return all(isinstance(part, allowed) for part in ast.walk(node))


def helper(name, node):
    """(a definition at the top of a submission, without what would run there, or None; why it is not taken)."""
    if isinstance(node, ast.ClassDef):
        return None, "is a class; only functions and constants are taken"
    if isinstance(node, ast.FunctionDef):
        defaults = [value for value in [*node.args.defaults, *node.args.kw_defaults] if value]
        if node.decorator_list or not all(map(is_constant, defaults)):
            return None, "has a decorator, or a default that is no constant"
    elif isinstance(node, (ast.Assign, ast.AnnAssign)):
        function = isinstance(node.value, ast.Lambda) and not (node.value.args.defaults or node.value.args.kw_defaults)
        if not node.value or not (function or is_constant(node.value)):
            return None, "is no plain constant; compute it in a function"
        node = ast.Assign([ast.Name(name, ast.Store())], node.value)
    return node, why_refused([node])


def without_annotations(node):
    """An annotation of a helper would run where it is defined."""
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef):
            part.returns = None
        if isinstance(part, ast.arg):
            part.annotation = None
    return node


def find_step(given, theirs):
    """What a student wrote in the loop of finetune_router.py, and the places where it stands: two `main` functions.

    Returns (the step, the given loop's statements, the index of the blank). Raises LookupError if it is not found.
    """
    loops = []
    for main in (given, theirs):
        loops += [node for node in main.body if isinstance(node, ast.For) and ast.unparse(node.target) == "step"][:1]
    if len(loops) < 2:
        raise LookupError("has no `for step in` in main")
    ours, loop = (node.body for node in loops)
    blank = next(i for i, node in enumerate(ours) if isinstance(node, ast.Raise))
    behind = ast.unparse(ours[blank + 1])
    ends = [i for i, node in enumerate(loop) if ast.unparse(node) == behind]
    if not ends:
        raise LookupError(f"has no line `{behind}` behind your step")
    before = {ast.unparse(node) for node in ours[:blank]}
    step = [node for node in loop[:ends[0]] if ast.unparse(node) not in before]
    kept = [node for node in loop[:ends[0]] if node not in step]
    loop[:ends[0]] = [*kept, ours[blank]]
    return step, ours, blank


def splice(name, given, text):
    """(the handout's file `name` with what a student wrote in it, what was not taken, the diff of given code)."""
    if name == "Makefile":
        return splice_makefile(given, text)
    try:
        theirs = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return given, [f"{name}:{getattr(error, 'lineno', 0)}: {getattr(error, 'msg', error)}: not taken"], []
    ours, notes, todo, taken = ast.parse(given), [], [], {}
    plain = ast.unparse(ours)
    targets, written = functions(ours), functions(theirs)
    for piece in WRITTEN[name]:
        function = "main" if piece == "the loop" else piece
        try:
            if function not in written:
                raise LookupError("is missing")
            if piece == "the loop":
                body, place, start = find_step(targets[function], written[function])
                end = start + 1
            else:
                body, place = written[function].body, targets[function].body
                written[function].body = list(place)
                start, end = 0, len(place)
        except LookupError as error:
            notes.append(f"{name}: {piece} {error}")
            continue
        reason = why_refused(body)
        if reason:
            notes.append(f"{name}: {piece} {reason}: not run")
            body = ast.parse(f"raise RuntimeError({notes[-1]!r})").body
        if body:
            place[start:end] = body
        todo += body
    available, known = definitions(theirs), definitions(ours)
    while todo:
        used = {part.id for part in ast.walk(todo.pop()) if isinstance(part, ast.Name)}
        for word in sorted(used & available.keys() - known.keys() - taken.keys()):
            taken[word], reason = helper(word, available[word])
            if reason:
                notes.append(f"{name}: {word} {reason}: not taken")
                taken[word] = None
            else:
                todo.append(taken[word])
    helpers = [without_annotations(taken[word]) for word in available if taken.get(word)]
    place = max(i for i, node in enumerate(ours.body) if isinstance(node, (ast.Import, ast.ImportFrom))) + 1
    ours.body[place:place] = helpers
    theirs.body = [node for node in theirs.body if not defined_names(node) & taken.keys()]
    return ast.unparse(ast.fix_missing_locations(ours)), notes, diff(name, plain, ast.unparse(theirs))


def defined_names(node):
    return definitions(ast.Module([node], [])).keys()


def diff(name, given, theirs):
    lines = difflib.unified_diff(given.splitlines(), theirs.splitlines(), name, f"{name}, handed in", "", "", 0, "")
    return list(lines)[2:]


def branch_parts(makefile):
    """EXPERT_DATA and the recipe of the experts: the two lines of a Makefile that students write."""
    data = re.findall(r"(?m)^EXPERT_DATA *[:?]?= *(.*?) *(?:#.*)?$", makefile)
    recipe = re.findall(r"(?m)^\$\(EXPERTS\):.*\n\t(.*?) *$", makefile)
    return data[-1:] + recipe[-1:]


def splice_makefile(given, text):
    theirs = re.sub(r"\s*\\\n\s*", " ", text)  # one line for each command
    parts, blanks = branch_parts(theirs), branch_parts(given)
    if len(parts) < 2:
        return given, ["Makefile: EXPERT_DATA or the recipe of $(EXPERTS) is missing"], []
    spliced, notes = given, []
    for part, blank in zip(parts, blanks, strict=True):
        if part != blank and not MAKE_TEXT.fullmatch(part):
            notes.append(f"Makefile: {part!r} has more than words and variables: not taken")
            continue
        for name in re.findall(r"\$\(([A-Z_]+)\)", part):  # a variable of the student's own
            line = re.search(rf"(?m)^{name} *[:?]?= *(.*?) *$", theirs)
            if line and not re.search(rf"(?m)^{name} *[:?]?=", given) and MAKE_TEXT.fullmatch(line[1]):
                spliced = spliced.replace("EXPERT_DATA =", f"{line[0]}\nEXPERT_DATA =", 1)
                theirs = theirs.replace(f"{line[0]}\n", "", 1)
        spliced = spliced.replace(blank, part)
        theirs = theirs.replace(part, blank)
    return spliced, notes, diff("Makefile", re.sub(r"\s*\\\n\s*", " ", given), theirs)
