"""The code expert's domain: small Python functions written from their docstrings, graded by what they return.

A docstring lists steps in the order in which they happen. The code nests them from the inside out. No phrase of a
docstring is spelt like the Python code that it describes, so copying from the prompt solves nothing.
"""
from data.task import Task, draw

# phrase -> expression around the list {0}; {k} is a small number
LIST_STEPS = {
    "put them in order": "sorted({0})",
    "order them downwards": "sorted({0}, reverse=True)",
    "turn them around": "{0}[::-1]",
    "skip the first {k}": "{0}[{k}:]",
    "leave out the last {k}": "{0}[:-{k}]",
    "keep only the first {k}": "{0}[:{k}]",
    "keep only the last {k}": "{0}[-{k}:]",
    "take every second one": "{0}[::2]",
    "double each": "[x * 2 for x in {0}]",
    "square each": "[x * x for x in {0}]",
    "raise each by {k}": "[x + {k} for x in {0}]",
    "lower each by {k}": "[x - {k} for x in {0}]",
    "flip the sign of each": "[-x for x in {0}]",
    "keep the even ones": "[x for x in {0} if x % 2 == 0]",
    "keep the odd ones": "[x for x in {0} if x % 2 == 1]",
    "keep those above {k}": "[x for x in {0} if x > {k}]",
    "keep those below {k}": "[x for x in {0} if x < {k}]",
    "say all of it twice": "({0} * 2)",
}
LAST_STEPS = {
    "return the list": "{0}",
    "return their total": "sum({0})",
    "return how many there are": "len({0})",
    "return the largest, or 0": "max({0}, default=0)",
    "return the smallest, or 0": "min({0}, default=0)",
    "return whether any is left": "len({0}) > 0",
}
FUNCTIONS = "f g h run work solve apply change".split()
INPUTS = ([3, 1, 2], [5, -4, 9, 0, 7, 2], [], [8], [-3, -6, 4, 4, 1, 10, 6], [2, 2, 3, 11, -1])


def compute_cases(expression):
    """[[xs], value] for each of INPUTS. The expression was built in this file, so eval is safe."""
    return [[[xs], eval(expression, {"xs": list(xs)})] for xs in INPUTS]


def passes_without_work(cases):
    """Whether a constant would pass all cases, or a function that leaves out all steps but the last."""
    if len({repr(value) for _, value in cases}) == 1:
        return True
    lazy = [expression.format("xs") for expression in LAST_STEPS.values()]
    return repr(cases) in [repr(compute_cases(expression)) for expression in lazy]  # repr tells True from 1


def make(rng, level):
    """One or two steps and a return (level 1), two to five (level 2). Returns the docstring's phrases and the task."""
    name = rng.choice(FUNCTIONS)
    n_steps = rng.randint(1, 2) if level < 2 else rng.randint(2, 5)
    phrases, expression = [], "xs"
    for table in [LIST_STEPS] * n_steps + [LAST_STEPS]:
        phrase, code = rng.choice(list(table.items()))
        k = rng.randint(1, 5)
        phrases.append(phrase.format(k=k))
        expression = code.format(expression, k=k)
    doc = ", ".join(phrases)
    prompt = f'def {name}(xs):\n    """{doc[0].upper()}{doc[1:]}."""'
    return phrases, Task(prompt, f"\n    return {expression}\n", "code", compute_cases(expression))


def document(rng, level=1):
    """One complete function. `task` never uses its docstring."""
    task = draw(rng, lambda r: make(r, level), test=False)
    return task.prompt + task.answer


def task(rng, level=1):
    """A function to complete from its docstring. No shortcut of `passes_without_work` solves it."""
    while True:
        task = draw(rng, lambda r: make(r, level), test=True)
        if not passes_without_work(task.cases):
            return task
