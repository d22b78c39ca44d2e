"""Documents and tasks of the synthetic domains, and of `switch`, which is made of them."""
from data.task import DOMAINS, Task, domain_module
from data.tokenizer import END


def make_documents(name, rng, level, unseen=False, domains=DOMAINS):
    """Yield documents without end.

    unseen: write functions of `code` that no training text contains; not within `switch`. domains: those of `switch`.
    """
    domain = name
    while True:
        if name == "switch":
            domain = rng.choice([other for other in domains if other != domain])
        if name == "code" and unseen:
            task = domain_module(name).task(rng, level)
            yield task.prompt + task.answer
        else:
            yield domain_module(domain).document(rng, level)


def make_task(name, rng, level, domains=DOMAINS, n_examples=0):
    """One task. A task of `switch` is a document of one of `domains`, END, and a task of another.

    n_examples: the number of documents of the domain before the task, as in few-shot prompts; `switch` has none. If
    there are any, all tasks are graded by exact match, also the code of `code` and of `switch`.
    """
    before = ""
    if name == "switch":
        first, name = rng.sample(domains, 2)
        before = domain_module(first).document(rng, level) + END
    else:
        for _ in range(n_examples):
            before += domain_module(name).document(rng, level).strip() + "\n\n"
    task = domain_module(name).task(rng, level)
    if n_examples:
        return Task(before + task.prompt, task.answer.rstrip())
    return Task(before + task.prompt, task.answer, task.kind, task.cases)


def make_tasks(name, rng, level, n, domains=DOMAINS, n_examples=0):
    """n different tasks, or as many as the domain has.

    With solved examples, two tasks differ if their last lines do, which ask the question: a docstring counts once.
    Without examples, two tasks differ if their prompts do, so the 400 tasks of `code` have only 239 docstrings.
    """
    tasks = {}
    for _ in range(50 * n):
        task = make_task(name, rng, level, domains, n_examples)
        question = task.prompt.splitlines()[-1] if n_examples else task.prompt
        tasks.setdefault(question, task)
        if len(tasks) == n:
            break
    return list(tasks.values())
