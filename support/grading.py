"""Grade the small functions of the code domain (data/code.py) without executing anything that a model wrote.

A prompt and its answer must be one function: `def NAME(xs):`, a docstring and `return EXPRESSION`. `compute` finds the
value of the expression. It knows the few kinds of expressions that the domain uses, with whole numbers, truth values
and flat lists of these. Every other answer is wrong, even if Python would accept it. So is an answer that takes too
many steps, or that makes too large a number or too long a list.
"""
import ast
import operator
import warnings

MAX_STEPS, MAX_LENGTH, MAX_NUMBER = 50_000, 1_000, 10**40
OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.USub: operator.neg, ast.Not: operator.not_, ast.Eq: operator.eq, ast.NotEq: operator.ne,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge}
FUNCTIONS = {"sorted": sorted, "sum": sum, "len": len, "max": max, "min": min}


def is_correct(function, cases):
    """Whether the text of a function is right: for each case, a pair ([xs], value), it returns the value."""
    try:
        expression = parse_function(function)
        values = [compute(expression, *arguments) for arguments, _ in cases]
    except (SyntaxError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError, MemoryError):
        return False
    return repr(values) == repr([expected for _, expected in cases])  # unlike ==, repr tells True from 1


def parse_function(text):
    """The expression that a function returns, as a node of Python's syntax tree. Raises ValueError or SyntaxError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns about odd code
        tree = ast.parse(text)
    match tree.body:
        case [ast.FunctionDef(body=[ast.Expr(ast.Constant(str())), ast.Return(ast.expr() as expression)])]:
            return expression
    raise ValueError("not one return of one expression")


def compute(expression, xs):
    """The value of an expression about the list xs, as in Python.

    Raises ValueError if the expression is of an unknown kind or exceeds a limit; otherwise the error that Python would.
    """
    steps_left = MAX_STEPS

    def value_of(node, names):  # names: {variable: value}
        nonlocal steps_left
        match node:
            case ast.Constant(value=bool() | int() as value):
                pass
            case ast.Name(id=name):
                value = names[name]
            case ast.UnaryOp(op=op, operand=part):
                value = OPERATORS[type(op)](value_of(part, names))
            case ast.BinOp(left=a, op=op, right=b) | ast.Compare(left=a, ops=[op], comparators=[b]):
                a, b = value_of(a, names), value_of(b, names)
                if isinstance(op, ast.Mult) and isinstance(b, list):
                    a, b = b, a
                if isinstance(op, ast.Mult) and isinstance(a, list) and len(a) * b > MAX_LENGTH:
                    raise ValueError("too long")  # raised before the list fills the memory
                value = OPERATORS[type(op)](a, b)
            case ast.Subscript(value=part, slice=ast.Slice(lower=lower, upper=upper, step=step)):
                bounds = [None if bound is None else value_of(bound, names) for bound in (lower, upper, step)]
                value = value_of(part, names)[slice(*bounds)]
            case ast.Subscript(value=part, slice=index):
                value = value_of(part, names)[value_of(index, names)]
            case ast.Call(func=ast.Name(id=name), args=[part], keywords=keywords):
                options = {keyword.arg: value_of(keyword.value, names) for keyword in keywords}
                value = FUNCTIONS[name](value_of(part, names), **options)
            case ast.ListComp(elt=part, generators=[ast.comprehension(target=ast.Name(id=name), iter=row, ifs=tests)]):
                inner = [names | {name: x} for x in value_of(row, names)]
                value = [value_of(part, row) for row in inner if all(value_of(test, row) for test in tests)]
            case _:
                raise ValueError("an unknown kind of expression")
        numbers = value if isinstance(value, list) else [value]
        steps_left -= 1 + len(numbers)
        if steps_left < 0 or len(numbers) > MAX_LENGTH or any(abs(number) > MAX_NUMBER for number in numbers):
            raise ValueError("too large")  # in a list of lists, abs raises TypeError
        return value

    return value_of(expression, {"xs": xs})
