"""Grading by teacher forcing, losses, and the output of evaluate.py and sample.py: report, figures and text."""
import json
import math
import re
import sys
from argparse import Namespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import evaluate
import sample
from cli import BadInput
from data import prepare
from data.loader import Domain, first_windows, load_domains
from data.task import Task
from data.tokenizer import load_tokenizer
from model import GPTConfig
from support import report, scoring
from support.checkpoint import build_model, load_checkpoint
from support.generation import generate
from support.ledger import moe_share
from tests.test_model import new_model, random_tokens

TOKENIZER = load_tokenizer()
EOT = TOKENIZER.eot


def build(tiny, name):
    return build_model(load_checkpoint(tiny / f"{name}.pt"))


class Reciter:
    """A model that writes one text, whatever it reads."""

    def __init__(self, prompt, written):
        self.ids = torch.tensor(TOKENIZER.encode_prompt(prompt) + TOKENIZER.encode(written) + [EOT] + [1] * 99)
        self.config = GPTConfig()

    def __call__(self, idx, cache=None, n_last=0):
        start = 0
        if cache is not None:
            start = cache.length
            cache.length += idx.shape[1]
        logits = F.one_hot(self.ids[start + 1:start + 1 + idx.shape[1]].expand_as(idx), 1024).float()
        return logits[:, -n_last:], None, []


@torch.inference_mode()
def solve(model, tasks):
    return scoring.score_tasks(model, TOKENIZER, tasks, 2, "cpu")[0].tolist()


@pytest.mark.parametrize("written, right", [
    ("\n    return xs\n", True), ("\n    return xs[:]", True), ("\n    return xs * 2", False),
    ("\n    return xs" + "\n" * 99, False)])
def test_code_is_graded_by_what_it_returns_and_must_end(written, right):
    prompt = 'An egg.<|endoftext|>def f(xs):\n    """Return the list."""'
    task = Task(prompt, "\n    return xs\n", "code", [[[[1, 2]], [1, 2]]])
    assert solve(Reciter(prompt, written), [task]) == [right]


def test_an_answer_is_right_if_its_tokens_come_first():
    """What follows the answer counts only in code."""
    tasks = [Task("a", " 12"), Task("a", "x12"), Task("a", " 12 pears"), Task("a", " 12", "code")]
    assert solve(Reciter("a", " 12 apples"), tasks) == [True, False, False, False]


def test_answer_loss_is_the_mean_over_the_tokens_of_the_right_answers(tiny):
    """Here the losses are computed one token at a time. An answer in code must also end."""
    model, nats = build(tiny, "btx_mixed"), []
    tasks = [Task("Tom has 3", " apples and 12 eggs."), Task("def f(xs):", "\n    return xs\n", "code")]
    for task, end in zip(tasks, ([], [EOT]), strict=True):
        ids = TOKENIZER.encode_prompt(task.prompt)
        for token in TOKENIZER.encode(task.answer) + end:
            nats.append(-model(torch.tensor([ids]))[0][0, -1].log_softmax(-1)[token].item())
            ids.append(token)
    assert scoring.score_tasks(model, TOKENIZER, tasks, 2, "cpu")[1] == pytest.approx(sum(nats) / len(nats))


@torch.no_grad()
def test_losses_and_routing_equal_a_direct_computation(tiny):
    """The loss is that of each window's second half; gates and probabilities are of all tokens, in unequal batches."""
    model, windows = build(tiny, "btx_mixed"), first_windows(load_domains(tiny / "data")["math"].val, 32, 5)
    losses, share, probs = scoring.score_texts(model, windows, 2)
    logits, _, routing = model(windows[:, :-1])
    direct = F.cross_entropy(logits[:, 16:].transpose(1, 2), windows[:, 17:], reduction="none").mean(1)
    torch.testing.assert_close(losses, direct.double())
    for layer, r in enumerate(routing):
        for i in range(3):
            assert share[layer][i] == pytest.approx(r.gates[r.experts == i].sum().item() / 160, abs=1e-5)
            counts, _ = np.histogram(r.probs[:, i], bins=scoring.BINS, range=(0, 1))
            assert probs[layer][i] == pytest.approx(counts / 160, abs=1e-5)
    assert scoring.histogram(torch.tensor([[1.0], [0.0]]))[0, [0, -1]].tolist() == [0.5, 0.5]


def test_known_numbers():
    a, b, c = TOKENIZER.encode("The apples are")
    windows = torch.tensor([[9, 9, 9, 9, 9, a, EOT, b, c]])  # the last four tokens count
    assert scoring.bytes_per_token(TOKENIZER, windows) == len("The apples are") / 4
    windows = torch.tensor([TOKENIZER.encode("€")[-1:] * 3])  # the last two count, each a part of a character
    assert scoring.bytes_per_token(TOKENIZER, windows) == 1
    ledger = [{"action": "train", "flops": 100}, {"action": "train", "flops": 30}, {"action": "finetune", "flops": 10}]
    assert moe_share(ledger) == 0.25 and moe_share(ledger[:1]) is None
    costs = {"params": 2e6, "active_params": 1e6, "tokens": 5e6, "flops": 2e13, "seconds": 61.4, "elapsed": 30.6}
    scores = {"math": 0.5, "code": 0.25, "switch": 0.0}  # switch is in no mean
    table = report.table({"btx": {"accuracy": scores, "loss": {"math": 1.0, "code": 2.0, "switch": 9.0}, **costs}})
    assert table.splitlines()[2].replace("|", "").split() == [
        "btx", "50.0", "25.0", "0.0", "37.5", "1.500", "4.48", "2.00M", "1.00M", "5.00M", "0.02", "61", "31"]


def test_the_report_has_all_that_was_promised_and_the_same_numbers_again(tiny, tmp_path, capsys):
    (tmp_path / "facts.jsonl").write_text('{"prompt": "Whose?", "answer": " Tom."}')  # a domain of tasks alone
    prepare.main(f"--domains= --own_tasks facts={tmp_path}/facts.jsonl --out {tmp_path}/data".split())
    for name in ("switch", "general", "code"):
        (tmp_path / "data" / name).symlink_to(tiny / "data" / name)
    words = [*(f"{tiny}/{name}.pt" for name in ("btx_mixed", "seed", "code")), "--btm", "seed,code", "--device", "cpu",
             "--btm_methods", "bayes:1,tfidf:1,tfidf:2", "--data_dir", f"{tmp_path}/data",
             "--tasks", "2", "--windows", "2"]
    evaluate.main([*words, "--out", f"{tmp_path}/a"])
    (tmp_path / "b").mkdir()
    (tmp_path / "b/live.html").touch()  # of an earlier run
    evaluate.main([*words, "--out", f"{tmp_path}/b", "--no_figures"])

    a, b = ({p.name: p.read_bytes() for p in (tmp_path / folder).rglob("*.*")} for folder in "ab")
    assert b.keys() == {"report.md", "results.json"}
    assert a.keys() - b.keys() == {"live.html", "routing.png"}
    assert a["results.json"] == b["results.json"]
    numbers, text = json.loads(a["results.json"]), a["report.md"].decode()
    models, table = numbers["models"], report.table(numbers["models"])
    assert table in text
    assert table in capsys.readouterr().out
    evaluate.main([f"{tiny}/sample_mixed.pt", *words[1:], "--out", f"{tmp_path}/c"])
    assert "No live.html: a page needs top-k routing" in (tmp_path / "c/report.md").read_text()

    assert list(models) == ["seed", "code", "btm_bayes_top1", "btm_tfidf_top1", "btm_tfidf_top2", "btx_mixed"]
    assert list(numbers["routing"]) == ["btx_mixed"]
    _, code, merged, one, two, mixed = models.values()
    assert merged["tokens"] == code["tokens"]  # those of the seed count once
    assert one["loss"] != two["loss"]
    assert mixed["chain_flops"] == code["chain_flops"] < mixed["flops"] and mixed["elapsed"] < mixed["seconds"]
    for key in ("loss", "bits_per_byte", "answer_loss"):
        rows = [[name, *(f"{number:.3f}" for number in model[key].values())] for name, model in models.items()]
        assert report.markdown(["model", *mixed[key]], rows) in text
    assert list(mixed["accuracy"]) == list(mixed["answer_loss"]) == ["general", "code", "switch", "facts"]
    for domain, outcomes in mixed["outcomes"].items():
        assert outcomes.count("1") / len(outcomes) == mixed["accuracy"][domain]
    assert list(mixed["loss"]) == ["general", "code", "switch"]
    windows = first_windows(load_domains(tiny / "data")["switch"].val, 128, 2)
    bits = mixed["loss"]["switch"] / math.log(2) / scoring.bytes_per_token(TOKENIZER, windows)
    assert mixed["bits_per_byte"]["switch"] == pytest.approx(bits)


def test_code_must_fit_the_block_in_which_it_is_written():
    """Another task may be as long as the text on which an imported model was trained before."""
    def choose(kind):
        domain = Domain("math", None, np.arange(40), [Task("1" * 30, "2", kind)], {})
        checkpoint = {"config": {"block_size": 16}, "spec": {"max_positions": 64}}
        return evaluate.choose_tests(Namespace(windows=1, tasks=1), {"a": checkpoint}, TOKENIZER, {"math": domain})

    assert len(choose("exact")[1]["math"]) == 1
    with pytest.raises(BadInput, match="have 32 tokens, but a model reads 16"):
        choose("code")


def test_several_models_write_as_btm(capsys):
    """The seed alone answers 17. Whichever model comes first, the one that fits the text best is right."""
    question = "Tom has 12 apples. Tom buys 7 more. How many apples?"
    for names in ("seed", "math"), ("math", "seed"):
        with patch.object(sample, "BTM", wraps=sample.BTM) as merged:
            sample.main([*(f"data/start/{name}.pt" for name in names), "--prompt", question, "--device", "cpu"])
        assert merged.call_args.args[1] == "share"
        assert capsys.readouterr().out == f"{question} 12 + 7 = 19.\n"


@torch.inference_mode()
def test_a_token_and_its_expert_are_those_of_a_pass_without_a_cache():
    """When the context of 9 tokens is full, the model reads only its newer half and the token after it."""
    model, ids, start = new_model(block_size=9, n_expert=4, n_kv_head=2), random_tokens(1, 5)[0].tolist(), 0
    args = sample.parse(["a.pt", "--tokens", "30"])
    for token, expert in list(sample.read_and_write(model, ids[:], None, args, "cpu"))[4:]:  # those that it writes
        if len(ids) - start > 9:
            start = len(ids) - 5
        logits, _, routing = model(torch.tensor([ids[start:]]))
        assert token == logits[0, -1].argmax()
        assert expert == sum(layer.dense_gates()[-1] for layer in routing).argmax()
        ids.append(token)


def test_sample_continues_greedily_and_names_the_expert_that_wrote_a_token(tiny, capsys, monkeypatch):
    prompt, model = "Tom hät 3 €", build(tiny, "btx_mixed")  # two of its characters have several tokens
    idx = torch.tensor([TOKENIZER.encode_prompt(prompt)])  # (1, T)
    words = [f"{tiny}/btx_mixed.pt", "--prompt", prompt, "--tokens", "6", "--device", "cpu"]
    sample.main([*words, "--experts"])
    named = capsys.readouterr().out  # names in brackets, where there is no terminal
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    sample.main([*words, "--experts"])
    coloured, _, _ = capsys.readouterr().out.partition("\nexperts:")
    ids = [*generate(model, idx, 6)[0, idx.shape[1]:].tolist(), EOT]
    plain = (prompt + TOKENIZER.decode(ids[:ids.index(EOT)])).rstrip("\ufffd")
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == re.sub(r"\[\w+\]", "", named).rstrip("\n") == plain
    _, _, (first, second) = model(idx)
    expert = (first.dense_gates() + second.dense_gates())[0].argmax()
    assert named.startswith(f"[{['seed', 'math', 'code'][expert]}]Tom")

    for seed in (3, 3, 4):
        sample.main([*words, "--temperature", "2", "--seed", str(seed)])
    first, second, third = capsys.readouterr().out.replace(prompt, "|").split("|")[1:]
    assert first == second != third
    # a model that ends its text
    monkeypatch.setattr(sample, "build_model", lambda *args, share: Reciter("Tom", " has 12"))
    sample.main([*words, "--prompt", "Tom"])
    assert capsys.readouterr().out == "Tom has 12\n"
