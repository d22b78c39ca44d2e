"""What choosing can reach at most, and what guessing can: three rows for the tables, from the seed and its branches.

    python -m experiments.one_or_all.bounds OUT/{seed,math,code,wiki}.pt --data_dir FOLDER --scores FILE --out FILE

own_branch   in each task of one domain, the score of that domain's branch, as in --scores: the right branch is given
some_branch  in a task that needs two skills, whether some model finds each token of the answer the likeliest
commonest    whether the toll in such a task is the commonest one in these tasks
"""
import json
from pathlib import Path
from statistics import mode

import torch

from cli import make_parser, replacing, run
from data.loader import load_domains
from data.tokenizer import load_tokenizer
from experiments.one_or_all.texts import KINDS
from experiments.runs import BEGINNINGS, EXPERTS
from support.checkpoint import build_model, load_checkpoint
from support.scoring import encode_task, token_losses


@torch.inference_mode()
def some_branch(models, tokenizer, tasks):
    """The outcomes of tasks, as in "0110": 1 if each token of the answer is the likeliest for one of the models."""
    outcomes = ""
    for prompt, answer in (encode_task(tokenizer, task) for task in tasks):
        idx = torch.tensor([prompt + answer])                                                  # (1, T + 1)
        likeliest = torch.cat([token_losses(model, idx, len(answer))[1] for model in models])  # (E, n)
        outcomes += str(int(likeliest.any(0).all()))
    return outcomes


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("models", nargs="+", help="the seed and its branches")
    parser.add_argument("--data_dir", required=True, help="folder that data.prepare wrote")
    parser.add_argument("--scores", type=Path, required=True, help="results.json of evaluate.py for these models")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    args = parser.parse_args(argv)
    checkpoints = [load_checkpoint(path) for path in args.models]
    models = [build_model(checkpoint, "cpu", share=True) for checkpoint in checkpoints]
    tokenizer, domains = load_tokenizer(checkpoints[0]["spec"]), load_domains(args.data_dir)
    scores = json.loads(args.scores.read_text())["models"]
    own, some, commonest = {}, {}, {}
    for beginning in BEGINNINGS:
        for branch in EXPERTS:
            name = f"{beginning}_{branch}"
            own[name] = scores[branch]["outcomes"][name]
    for kind in KINDS:
        some[kind] = some_branch(models, tokenizer, domains[kind].tasks)
    for kind in ("toll_math", "toll_code"):
        tolls = [task.answer for task in domains[f"{kind}_1"].tasks]
        commonest[kind] = "".join(str(int(toll == mode(tolls))) for toll in tolls)
    results = {}
    for name, outcomes in {"own_branch": own, "some_branch": some, "commonest": commonest}.items():
        accuracy = {domain: bits.count("1") / len(bits) for domain, bits in outcomes.items()}
        results[name] = {"accuracy": accuracy, "outcomes": outcomes}
    with replacing(args.out) as part:
        part.write_text(json.dumps({"models": results, "routing": {}}))


if __name__ == "__main__":
    run(main)
