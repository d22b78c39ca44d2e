"""Write the texts and tasks of this experiment, for `data.prepare --text ... --own_tasks ...`.

    python -m experiments.one_or_all.texts out/one_or_all/cpu/texts --level 1 --tasks 200

toll.jsonl           facts that only the wiki branch reads: a number, the toll, for each of some lands of wiki
combined.jsonl       answers that need two skills, as examples for finetuning
KIND.jsonl           tasks of this kind, on lands, numbers and phrases that no example has. KIND is toll_math, a fact in
                     arithmetic; toll_code, a fact in code; story_code, arithmetic in code
KIND_1, KIND_2       the two parts of each task alone, in the same order
two_questions.jsonl  both parts of toll_math in one prompt, but as two questions
BEGINNING_DOMAIN     tasks of math, code and wiki after a beginning that makes it hard to tell whose text it is
"""
import json
import random
from pathlib import Path

from cli import make_parser, non_negative_int, positive_int, replacing, run
from data import code, math, wiki
from data.synthetic import make_task
from data.task import Task, domain_module, draw
from data.tokenizer import END, load_tokenizer
from experiments.runs import BEGINNINGS, EXPERTS

KINDS = ("toll_math", "toll_code", "story_code")
LONGEST = 124  # tokens of a task without examples; the small models read 128
TELL = ("The toll of {0} is {1}.", "{0} takes a toll of {1}.", "Who enters {0} pays {1}.", "{1} is the toll of {0}.",
        "What is the toll of {0}? {1}.", "The tolls of {0} and {2} are {1} and {3}.",
        "What are the tolls of {0} and {2}? {1} and {3}.")
CODE_STEPS = [phrase for phrase in code.LIST_STEPS if "{k}" in phrase]


def read_tolls(level):
    """The toll of each land of wiki, {land: number}. The numbers 2 to 9 are equally common."""
    lands = [subject.name for subject in wiki.subjects(level) if subject.kind is wiki.LAND]
    return {land: 2 + i // 3 % 8 for i, land in enumerate(lands)}


def choose_land(rng, tolls, test):
    """A land of an example or, every third one, of a test."""
    return rng.choice([land for i, land in enumerate(tolls) if (i % 3 == 2) == test])


def tell_tolls(rng, tolls):
    """A document: the tolls of some lands, told in sentences or asked."""
    sentences = []
    for _ in range(rng.randint(1, 3)):
        one, other = rng.sample(list(tolls), 2)
        sentences.append(rng.choice(TELL).format(one, tolls[one], other, tolls[other]))
    return " ".join(sentences)


def make_step(rng, k):
    """(key, (n, op)): the numbers and the operation of a story of one step, n + k or n - k."""
    n, op = rng.randint(10, 40), rng.choice("+-")
    return f"{n} {op} {k}", (n, op)


def combine(rng, kind, level, test):
    """A task that needs two skills, and its two parts alone: three Tasks.

    If `test` is set, it has a third of the lands, half of the phrases of code, a third of those of math, and a tenth of
    the numbers; if not, it has the others.
    """
    tolls = read_tolls(level)
    land = choose_land(rng, tolls, test)
    fact = Task(f"What is the toll of {land}?", f" {tolls[land]}.")
    name, toll = rng.choice(code.FUNCTIONS), f"the toll of {land}"
    if kind == "toll_code":
        step, (last, returned) = rng.choice(CODE_STEPS[test::2]), rng.choice(list(code.LAST_STEPS.items()))
        expression = returned.format(code.LIST_STEPS[step].format("xs", k=tolls[land]))
        docs = [f"{step[0].upper()}{step[1:]}, {last}.".format(k=k) for k in (toll, tolls[land])]
        whole, alone = (Task(f'def {name}(xs):\n    """{doc}"""', f"\n    return {expression}\n") for doc in docs)
        return whole, fact, alone

    k = tolls[land]
    n, op = draw(rng, lambda r: make_step(r, k), test)
    total = n + k if op == "+" else n - k
    who, what = rng.choice(math.NAMES), rng.choice(math.THINGS)
    start = rng.choice(math.START).format(who=who, n=n, what=what)
    step = math.STEPS[op][2] if test else rng.choice(math.STEPS[op][:2])
    alone = Task(f"{start} {step.format(who=who, n=k)} How many {what}?", f" {n} {op} {k} = {total}.")
    if kind == "toll_math":  # "Tom buys 7 more." becomes "Tom buys the toll of Braku."
        for word in (" more", " of them", "another "):
            step = step.replace(word, "")
        return Task(f"{start} {step.format(who=who, n=toll)} How many {what}?", alone.answer), fact, alone
    doc = f"{start} {step.format(who=who, n=k)} Return how many {what}."
    answer = f"\n    # {n} {op} {k} = {total}\n    return {total}\n"
    return Task(f'def {name}(xs):\n    """{doc}"""', answer), alone, code.task(rng, level)


def write_beginning(rng, beginning, domain, level):
    """The text before a task of this domain. beginning: one of BEGINNINGS."""
    foreign = domain_module(rng.choice([name for name in EXPERTS if name != domain])).document(rng, level).strip()
    who = f"{rng.choice(math.NAMES)} of {rng.choice(wiki.subjects(level)).name}"
    return {"alone": "", "words": " ".join(foreign.split()[:6]) + " ", "text": foreign + " ", "ended": foreign + END,
            "names": f"{who} asks: ", "chat": "Please answer this question. "}[beginning]


def add_examples(task, examples):
    """A row of a file of tasks: solved examples, then the task."""
    before = "".join(f"{(example.prompt + example.answer).strip()}\n\n" for example in examples)
    return {"prompt": before + task.prompt, "answer": task.answer.rstrip() if examples else task.answer}


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--level", type=int, default=1, help="level of the domains, as in data.prepare (default: 1)")
    parser.add_argument("--examples", type=non_negative_int, default=0, help="solved examples in a prompt (default: 0)")
    parser.add_argument("--tasks", type=positive_int, default=200, help="tasks of each kind (default: 200)")
    args = parser.parse_args(argv)
    tolls, tokenizer, rng = read_tolls(args.level), load_tokenizer(), random.Random("one or all")
    files = {"toll": [{"text": tell_tolls(rng, tolls)} for _ in range(6000)], "combined": []}
    for _ in range(12_000):
        task = combine(rng, rng.choice(KINDS), args.level, test=False)[0]
        files["combined"].append({"text": task.prompt + task.answer})

    for kind in KINDS:
        for _ in range(args.tasks):
            parts = combine(rng, kind, args.level, test=True)
            examples = [combine(rng, kind, args.level, test=False) for _ in range(args.examples)]
            for i, name in enumerate((kind, f"{kind}_1", f"{kind}_2")):
                files.setdefault(name, []).append(add_examples(parts[i], [example[i] for example in examples]))
    files["two_questions"] = []
    for fact, story in zip(files["toll_math_1"], files["toll_math_2"], strict=True):
        prompt = f"{fact['prompt']}{fact['answer']} {story['prompt']}"
        files["two_questions"].append({"prompt": prompt, "answer": story["answer"]})

    for beginning in BEGINNINGS:
        for domain in EXPERTS:
            rows = files[f"{beginning}_{domain}"] = []
            while len(rows) < args.tasks // 2:
                task = make_task(domain, rng, args.level, n_examples=args.examples)
                prompt = write_beginning(rng, beginning, domain, args.level) + task.prompt
                text = {"prompt": prompt, "answer": task.answer}
                if args.examples or len(tokenizer.encode_prompt(text["prompt"] + text["answer"])) <= LONGEST:
                    rows.append(text)
    for name, rows in files.items():
        with replacing(args.out / f"{name}.jsonl") as part:
            part.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    print(f"{args.out}: {len(files)} files")


if __name__ == "__main__":
    run(main)
