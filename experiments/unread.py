"""Facts that nobody reads again: half of trivia's subjects for branches and finetuning, and a report on the other half.

    python -m experiments.unread --write out/unread       # read.jsonl, read.tasks.jsonl and unread.tasks.jsonl
    python -m experiments.unread --collect out/unread/half-20 out/unread/none-20 --out results/unread/seed20.json
    python -m experiments.unread results/unread/*.json    # results/unread/README.md, what `make unread` ends with

The text of the report is that of unread.md. Its models are called half_NAME and none_NAME: in runs called half,
branches and finetuning read half of trivia's subjects, in those called none they read no trivia.
"""
import json
import random
from pathlib import Path
from statistics import mean

from cli import make_parser, replacing, run
from data import wiki
from experiments.paired import spread
from experiments.paper import EXPERTS, Report, read_run

N_DOCUMENTS = 8000  # as many tokens as branches and finetuning read of it, several times


class UnreadReport(Report):
    """The methods give what [[...]] stands for in unread.md."""

    def keeps(self, name):
        """Cells: accuracy in % on unread and read facts and elsewhere, and the loss of the answers."""
        cells = [self.accuracy(name, column) for column in ("unread", "read", "general", "+".join(EXPERTS))]
        cells += [spread(self.scores_in(name, column, "answer_loss"), digits=2) for column in ("unread", "read")]
        return " | ".join(cells)

    def within(self, low, high, what, *words):
        """Cells: what accuracy or minus says of these words, and whether that is in the predicted range."""
        found = self.scores_in(*words) if what == "accuracy" else self.differences(*words)
        verdict = "yes" if float(low) <= 100 * mean(found) <= float(high) else "**no**"
        return f"{getattr(self, what)(*words)} | {verdict}"

    def failed(self):
        """How many predictions failed."""
        verdicts = [self.within(*row.split()).split(" | ")[-1] for row in self.rows("within")]
        return str(verdicts.count("**no**"))


def write_lines(path, rows):
    with replacing(path) as part:
        part.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_halves(folder):
    """Write documents about one half of trivia's subjects, and the questions about either half as tasks."""
    rng = random.Random(0)
    subjects = wiki.world(1, "trivia")
    halves = {"read": [], "unread": []}
    for i in range(len(subjects)):  # both halves have subjects that are told in questions, too: see wiki.tell
        halves["read" if i % 4 < 2 else "unread"].append(i)
    for name, half in halves.items():
        tasks = [wiki.ask(subjects[i], key) for i in half for key in subjects[i].values]
        rng.shuffle(tasks)
        write_lines(folder / f"{name}.tasks.jsonl", [{"prompt": task.prompt, "answer": task.answer} for task in tasks])
    documents = [wiki.tell(rng, subjects, rng.choice(halves["read"])) for _ in range(N_DOCUMENTS)]
    write_lines(folder / "read.jsonl", [{"text": text} for text in documents])


def collect(folders):
    """Gather one training seed from its folders half-SEED and none-SEED. Raises BadInput."""
    models = {}
    for folder in folders:
        variant, _, _ = folder.name.partition("-")
        found = read_run(folder / "grid" / "results.json")
        for name, scores in found["models"].items():
            models[f"{variant}_{name}"] = scores
    return {"models": models, "machine": found["machine"]}


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="PATH",
                        help="files of --collect; with --collect: a seed's two folders; with --write: a folder")
    parser.add_argument("--write", action="store_true", help="write the halves of trivia as text and tasks")
    parser.add_argument("--collect", action="store_true", help="gather what the report needs of one training seed")
    parser.add_argument("--out", type=Path, default="results/unread",
                        help="folder for README.md; with --collect: a file (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.write:
        write_halves(args.runs[0])
        return
    if args.collect:
        with replacing(args.out) as part:
            part.write_text(json.dumps(collect(args.runs)))
        return
    template = (Path(__file__).parent / "unread.md").read_text(encoding="utf-8")
    report = UnreadReport([read_run(path) for path in args.runs], template)
    with replacing(args.out / "README.md") as part:
        part.write_text(report.fill(template), encoding="utf-8")


if __name__ == "__main__":
    run(main)
