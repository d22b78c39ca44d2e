"""The variants of an experiment for one student: their number chooses the branch, text, alpha and k of all rows.

    python -m course.variants 2 12345 > out/experiment2-12345/variants.txt      # `make experiment` does this

The number 0 leaves the lines of course/experiment2.txt as they are.
"""
from pathlib import Path

from cli import make_parser, positive_int, run

BRANCHES = ("math", "code", "wiki")


def choose_cell(experiment, student):
    """Returns the branch, how often it is mixed (0 or 2 times), its percentage of the text, alpha and k."""
    rest, branch = divmod(student, 3)
    copies, share, alpha = 2 * (rest % 2), (9, 45)[rest // 2 % 2], (0.003, 0.03)[rest // 4 % 2]
    k = (2, 3)[rest // 8 % 2]
    if experiment == 1:
        copies = 0  # `hidden` needs a domain of its own for each model
    if experiment == 4:
        copies = 2  # so that the steps for equal FLOPs are right
    if copies == 0 or experiment == 4:
        k = 2
    return BRANCHES[branch], copies, share, alpha, k


def fill(line, branch, copies, share, alpha, k):
    """A line NAME | options of mix.py | options of finetune_router.py, with those of a cell before its own."""
    name, mixed, finetuned = [part.strip() for part in line.split("|")]
    models = ["seed"] + [other for other in BRANCHES for _ in range(copies if other == branch else 1)]
    parts = {other: share if other == branch else (81 - share) / 2 for other in BRANCHES}
    data = ",".join(f"{other}={part:g}" for other, part in parts.items())
    if copies == 0:
        mixed = mixed.replace(f",{branch}", "")  # of --router_data
    if not mixed.startswith("seed"):
        mixed = f"{' '.join(models)} {mixed}"
    if finetuned:
        finetuned = f"--data general=14,trivia=5,{data} {finetuned}"
    if "--average" not in mixed:
        mixed += f" --top_k {k}"
        finetuned = f"--alpha {alpha} {finetuned}" if finetuned else ""
    return f"{name} | {mixed} | {finetuned}"


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("experiment", type=positive_int)
    parser.add_argument("student", type=int)
    args = parser.parse_args(argv)
    cell = choose_cell(args.experiment, args.student)
    branch, copies, share, alpha, k = cell
    if args.student:
        print(f"# your cell: {branch} is {'mixed twice' if copies else 'left out'} and has {share} % of the text; "
              f"alpha = {alpha}, k = {k}, unless a row sets them")
    lines = (Path(__file__).parent / f"experiment{args.experiment}.txt").read_text().splitlines()
    for line in lines[1:]:
        print(fill(line, *cell) if args.student else line)


if __name__ == "__main__":
    run(main)
