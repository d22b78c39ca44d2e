"""Look at BTX of a pretrained seed: what transformers writes with its export, and which experts answer about facts.

    python -m experiments.looks out/pretrained/seed0 out/SmolLM2-135M-Instruct --data_dir data/bin/pretrained

Writes looks.md into the first folder, which has btx.pt and its export btx-hf. The second has the seed.
"""
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cli import make_parser, positive_int, replacing, run
from data.loader import load_domains
from data.tokenizer import encode_prompt, load_tokenizer
from experiments.facts import RELATIONS
from support.checkpoint import build_model, load_checkpoint
from support.report import markdown

PROMPTS = {"Python": 'def read_lines(path):\n    """Return the lines of a file, without white space at the ends."""\n',
           "a German manual page": "BEZEICHNUNG\n       ls - Verzeichnisinhalte auflisten\n\nBESCHREIBUNG\n       ",
           "a definition": "lighthouse: "}


def continue_prompts(folder, n_tokens):
    """What the model in a Hugging Face folder writes after each prompt, greedily: {title: text}."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    written = {}
    for title, prompt in PROMPTS.items():
        idx = tokenizer(prompt, return_tensors="pt").input_ids  # (1, T)
        new = model.generate(idx, attention_mask=torch.ones_like(idx), max_new_tokens=n_tokens, do_sample=False)
        written[title] = tokenizer.decode(new[0, idx.shape[1]:], skip_special_tokens=True)
    return written


@torch.no_grad()
def share_answers(model, tokenizer, tasks):
    """Each expert's mean gate where the tokens of the right answers are predicted, mean over layers: (N,)."""
    gates = []
    for task in tasks:
        prompt, answer = encode_prompt(tokenizer, task.prompt), tokenizer.encode(task.answer)
        _, _, routing = model(torch.tensor([prompt + answer[:-1]]))
        gates += [layer.dense_gates()[len(prompt) - 1:] for layer in routing]  # (tokens of the answer, N)
    return torch.cat(gates).mean(0)


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, help="folder with btx.pt and btx-hf")
    parser.add_argument("seed", type=Path, help="Hugging Face folder of the seed")
    parser.add_argument("--data_dir", default="data/bin", help="folder that data.prepare wrote (default: %(default)s)")
    parser.add_argument("--tasks", type=positive_int, default=50, help="of each kind of fact (default: 50)")
    parser.add_argument("--tokens", type=positive_int, default=60, help="to write after a prompt (default: 60)")
    args = parser.parse_args(argv)
    lines = ["# BTX of a pretrained seed, looked at", "transformers continues three prompts, greedily:"]
    written = {"the seed": continue_prompts(args.seed, args.tokens),
               "BTX": continue_prompts(args.folder / "btx-hf", args.tokens)}
    for title, prompt in PROMPTS.items():
        for name, texts in written.items():
            lines.append(f"**{title}, continued by {name}**\n\n```\n{prompt}▸{texts[title]}\n```")
    checkpoint = load_checkpoint(args.folder / "btx.pt")
    model, tokenizer = build_model(checkpoint), load_tokenizer(checkpoint["spec"])
    rows = []
    for name, domain in load_domains(args.data_dir, RELATIONS).items():
        shares = share_answers(model, tokenizer, domain.tasks[:args.tasks])
        rows.append([name, *(f"{100 * share:.0f} %" for share in shares.tolist())])
    lines += ["Each expert's mean gate where the right answers about facts are predicted:",
              markdown(["fact", *checkpoint["experts"]], rows)]
    with replacing(args.folder / "looks.md") as part:
        part.write_text("\n\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
