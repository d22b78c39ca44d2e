"""The math expert's domain: word problems that are solved in steps.

What is held out is a whole problem: its first number and all its steps, in their order. The 603 equations of the 400
test problems, such as 12 + 7 = 19, all occur in the training text, too, inside other problems.
"""
from data.task import Task, draw

NAMES = "Tom Ann Ben Eva Max Lily Sam Nora Leo Ida Paul Rosa".split()
THINGS = "apples pens eggs cards shells nuts plums beads".split()
START = ("{who} has {n} {what}.", "{who} starts with {n} {what}.", "There are {n} {what} in the box of {who}.")
STEPS = {
    "+": ("{who} buys {n} more.", "A friend gives {who} {n} more.", "{who} finds another {n}."),
    "-": ("{who} loses {n} of them.", "{who} gives away {n}.", "{who} sells {n}."),
    "*": ("Then {who} has {n} times as many.", "A trick turns each into {n}."),
}


def make(rng, level):
    """(key, task): a problem, with its numbers and operations as the key.

    Level 1 starts from at most 40 and has one or two steps of at most 12. Level 2 starts from at most 200 and has two
    to four steps of at most 200.
    """
    high, step = (40, 12) if level < 2 else (200, 200)
    who, what = rng.choice(NAMES), rng.choice(THINGS)
    total = rng.randint(2, high)
    key, story, work = [total], [rng.choice(START).format(who=who, n=total, what=what)], []
    n_steps = rng.randint(1, 2) if level < 2 else rng.randint(2, 4)
    for _ in range(n_steps):
        may_multiply = level == 2 and total <= high
        op = rng.choice("+-*" if may_multiply else "+-")
        if op == "*":
            n = rng.randint(2, 9)
            result = total * n
        elif op == "-" and total > 0:
            n = rng.randint(1, min(total, step))
            result = total - n
        else:
            op = "+"
            n = rng.randint(1, step)
            result = total + n
        story.append(rng.choice(STEPS[op]).format(who=who, n=n))
        work.append(f"{total} {op} {n} = {result}")
        key += [op, n]
        total = result
    prompt = f"{' '.join(story)} How many {what}?"
    return key, Task(prompt, f" {', '.join(work)}.")


def document(rng, level=1):
    """One problem with its solution. `task` never uses a problem with the same numbers and steps."""
    task = draw(rng, lambda r: make(r, level), test=False)
    return task.prompt + task.answer


def task(rng, level=1):
    """One held-out problem, graded by exact match of the worked solution."""
    return draw(rng, lambda r: make(r, level), test=True)
