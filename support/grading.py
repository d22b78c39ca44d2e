"""Grade the small functions of the code domain (data/code.py) without running anything that a model wrote.

An answer is right if prompt and answer together are one function, `def NAME(xs):`, a docstring and a return, but for the return
as the prompt opens it, and the returned expression has the expected value for every case. `value` computes it. It knows the few
kinds of expressions that the domain uses, over whole numbers, truth values and flat lists of these. All else is a wrong answer,
and so is what takes too many steps, nests too deep, or makes too large a number or list. This grades one domain and is no
general sandbox: an honest function in other words than these counts as wrong, too.
"""
import ast
import operator
import warnings

MAX_SOURCE, MAX_DEPTH, MAX_STEPS, MAX_LIST, MAX_NUMBER = 1_000, 40, 50_000, 1_000, 10**40
MAX_LOOPS = 10  # Python 3.12 and 3.13 crash on twenty comprehensions in each other
BINARY = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
          ast.Mod: operator.mod}
UNARY = {ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_}
COMPARE = {ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
           ast.GtE: operator.ge, ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b}
FUNCTIONS = {"sorted": (sorted, {"reverse"}), "sum": (sum, set()), "len": (len, set()), "max": (max, {"default"}),
             "min": (min, {"default"})}
KNOWN = (ast.Constant, ast.Name, ast.List, ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.IfExp, ast.Compare, ast.Subscript, ast.Slice,
         ast.Call, ast.keyword, ast.ListComp, ast.comprehension, ast.expr_context, ast.operator, ast.unaryop, ast.boolop,
         ast.cmpop)
UNBOUND = object()  # what the variable of a comprehension is before it has a value


class Wrong(Exception):
    """The answer is not of the kind that is graded here."""


def right(prompt, answer, cases):
    """Whether `answer` finishes the function of xs that `prompt` opens so that every case, [[xs], value], comes out."""
    try:
        expression = returned(prompt, answer)
        return bool(cases) and all(same(value(expression, {"xs": xs[:]}, [MAX_STEPS]), expected) for (xs,), expected in cases)
    except (Wrong, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError):  # some are Python's own
        return False


def returned(prompt, answer):
    """The expression that the function returns. Raises Wrong."""
    try:
        if len(answer) > MAX_SOURCE:
            raise ValueError
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened, made = ast.parse(prompt + "\n    pass"), ast.parse(prompt + answer)
            [function] = made.body
            opened.body[0].body[-1] = last = function.body[-1]
            if (ast.dump(opened) != ast.dump(made) or type(last) is not ast.Return or function.name in FUNCTIONS
                    or ast.unparse(function).split("\n")[0] != f"def {function.name}(xs):"
                    or len(function.body) != 1 + (ast.get_docstring(function) is not None)):
                raise ValueError
            loops = sum(isinstance(node, ast.comprehension) for node in ast.walk(last.value))
            if loops > MAX_LOOPS or not all(isinstance(node, KNOWN) for node in ast.walk(last.value)):
                raise ValueError
            compile(made, "answer", "exec")  # runs nothing, and refuses what Python would not take for a function
    except (SyntaxError, ValueError, AttributeError, IndexError, RecursionError, MemoryError):
        raise Wrong from None
    return last.value


def same(got, expected):
    """Equal in value and type, the elements of a list too."""
    if type(got) is list and type(expected) is list:
        return len(got) == len(expected) and all(map(same, got, expected))
    return type(got) is type(expected) and got == expected


def value(node, names, steps, depth=0):
    """What an expression is worth, as in Python. names: {variable: its value}; steps: [how many may still be taken].

    Raises Wrong, or the error that Python would raise.
    """
    def of(part, names=names):
        return None if part is None else value(part, names, steps, depth + 1)

    def loop(generators, names, iterable):
        """The variables with which the element of a comprehension is evaluated, again and again."""
        (first, *rest), _ = generators, small(iterable, steps, list)
        for x in iterable:
            names[first.target.id] = x  # all clauses of a comprehension have one scope
            if all(of(test, names) for test in first.ifs):
                yield from loop(rest, names, of(rest[0].iter, names)) if rest else [names]

    if depth > MAX_DEPTH:
        raise Wrong
    match node:
        case ast.Constant(value=bool() | int() as result):
            pass
        case ast.Name(id=name) if names.get(name, UNBOUND) is not UNBOUND:
            result = names[name]
        case ast.List(elts=parts):
            result = [small(of(part), steps, int) for part in parts]
        case ast.UnaryOp(op=op, operand=a) if type(op) in UNARY:
            result = UNARY[type(op)](of(a))
        case ast.BinOp(op=op, left=a, right=b) if type(op) in BINARY:
            a, b = of(a), of(b)
            numbers, items = sorted((a, b), key=lambda v: isinstance(v, list))
            if isinstance(op, ast.Mult) and isinstance(items, list) and numbers * len(items) > MAX_LIST:
                raise Wrong
            result = BINARY[type(op)](a, b)
        case ast.BoolOp(op=op, values=parts):
            for part in parts:
                result = of(part)
                if bool(result) == isinstance(op, ast.Or):
                    break
        case ast.IfExp(test=test, body=a, orelse=b):
            result = of(a if of(test) else b)
        case ast.Compare(left=left, ops=ops, comparators=parts) if all(type(op) in COMPARE for op in ops):
            a = of(left)
            for op, part in zip(ops, parts, strict=True):
                b = of(part)
                result, a = COMPARE[type(op)](a, b), b
                if not result:
                    break
        case ast.Subscript(value=a, slice=ast.Slice(lower=start, upper=stop, step=step)):
            result = of(a)[of(start):of(stop):of(step)]
        case ast.Subscript(value=a, slice=index):
            result = of(a)[of(index)]
        case ast.Call(func=ast.Name(id=name), args=[a], keywords=words) if name in FUNCTIONS and name not in names:
            function, allowed = FUNCTIONS[name]
            a, options = small(of(a), steps, list), {word.arg: of(word.value) for word in words}
            if not options.keys() <= allowed:
                raise Wrong
            result = function(a, **options)
        case ast.ListComp(elt=element, generators=parts):
            inner = names | {part.target.id: UNBOUND for part in parts}
            result = [small(of(element, now), steps, int) for now in loop(parts, inner, of(parts[0].iter))]
        case _:
            raise Wrong
    return small(result, steps, (int, list))


def small(result, steps, kind):
    """The value, if it is of this kind and not too large, at the price of a step for each number in it. Raises Wrong."""
    steps[0] -= 1 + (len(result) if isinstance(result, list) else 0)
    size = len(result) / MAX_LIST if isinstance(result, list) else abs(result) / MAX_NUMBER
    if steps[0] < 0 or not isinstance(result, kind) or size > 1:
        raise Wrong
    return result
