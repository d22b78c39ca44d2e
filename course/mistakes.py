"""The plausible mistakes of mistakes.json. `make hints` writes hints.json: what to say to those who make them."""
import json
import tempfile
from pathlib import Path

from cli import replacing
from course import check, splice
from course.handout import ROOT

MISTAKES = []  # (stage, file, right, wrong, hint): `wrong` for `right` is a mistake, unless the hint is "fine"
for place, changes in json.loads(Path(__file__).with_suffix(".json").read_text()).items():
    for right, wrongs in changes.items():
        stage, file = place.removeprefix("stage ").split(", ")
        MISTAKES += [(stage, file, right, wrong, hint) for wrong, hint in wrongs.items()]


def messages(mistake=None, stages="123456", seed=0):
    """{check: message} of the checks of some stages that the reference with a mistake in it does not pass."""
    submission = {name: (ROOT / name).read_text() for name in splice.WRITTEN}
    if mistake:
        _, file, right, wrong, _ = mistake
        submission[file] = submission[file].replace(right, wrong)
    with tempfile.TemporaryDirectory() as folder:
        check.submit({name: text.encode() for name, text in submission.items()}, folder)
        results = check.run_checks(folder, [name for name in check.POINTS if name[5] in stages], seed)
    return {name: message for name, (points, message) in results.items() if not points}


def main():
    hints = {}
    for mistake in MISTAKES:
        stage, hint = mistake[0], mistake[4]
        if hint:
            for message in messages(mistake, stage).values():
                hints.setdefault(message.split("\n  perhaps: ")[0], hint)
    with replacing(ROOT / "course" / "hints.json") as part:
        part.write_text(json.dumps(hints, indent=0, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
