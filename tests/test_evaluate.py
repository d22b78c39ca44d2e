"""Grading by teacher forcing, losses, and what evaluate.py and sample.py write."""
import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import evaluate
import sample
from data import tokenizer
from data.common import BadInput
from data.loader import first_windows, load_domains
from data.task import Task
from model import Routing
from support import checkpoint, explore, report
from support.generation import generate

ENCODING = tokenizer.load()
EOT = ENCODING.eot


def build(tiny, name):
    return checkpoint.build(checkpoint.load(tiny / f"{name}.pt"))


def greedy(model, prompt, n):
    idx = torch.tensor([tokenizer.encode_prompt(ENCODING, prompt)])
    return generate(model, idx, n)[0, idx.shape[1]:].tolist()


class Reciter:
    """A model that knows one text by heart, and predicts the token of each place whatever it read before."""
    config = torch.nn.Module()

    def __init__(self, ids):
        self.ids = torch.tensor(ids + [0])
        self.config.block_size = 1000

    def __call__(self, idx, cache=None):
        start = sum(cache) if cache else 0
        if cache is not None:
            cache.append(idx.shape[1])
        return F.one_hot(self.ids[None, start + 1:start + 1 + idx.shape[1]], 1024).float(), None, []


def solved(model, tasks, **options):
    with torch.inference_mode():
        return evaluate.score_tasks(model, ENCODING, tasks, 2, "cpu", **options).tolist()


def test_a_task_is_solved_if_and_only_if_greedy_decoding_writes_its_answer(tiny):
    """Answers are the model's own continuations, then spoilt at one place."""
    model, tasks, wanted = build(tiny, "seed"), [], []
    for prompt in ("Tom has 3", "Where is the lamp?", "a", "The river<|endoftext|>def f(xs):"):
        written = greedy(model, prompt, 4)
        for spoilt in (None, 0, 3):
            answer = [(token + 1) % 256 if i == spoilt else token for i, token in enumerate(written)]
            if ENCODING.encode(ENCODING.decode(answer)) == answer:  # otherwise the text is other tokens
                tasks.append(Task(prompt, ENCODING.decode(answer)))
                wanted.append(spoilt is None)
    assert True in wanted and False in wanted
    assert solved(model, tasks) == wanted


@pytest.mark.parametrize("written, right", [
    ("\n    return xs\n", True), ("\n    return xs[:]", True), ("\n    return xs + xs", False), ("\n    return (", False),
    ("\n    return xs\n    return 0", False), ("\n    return xs" + " " * 99, False)])
def test_code_is_graded_by_what_it_returns(written, right):
    for prompt in ("", "An egg.<|endoftext|>"):
        task = Task(prompt + 'def f(xs):\n    """Return the list."""', "\n    return xs\n", "code", [[[[1, 2]], [1, 2]]])
        ids = tokenizer.encode_prompt(ENCODING, task.prompt) + ENCODING.encode(written) + [EOT]
        assert solved(Reciter(ids + [1] * 99), [task]) == solved(Reciter(ids + [1] * 99), [task], drawn=True) == [right]


def test_what_follows_an_answer_does_not_count_except_in_code():
    ids = tokenizer.encode_prompt(ENCODING, "def f(xs):") + ENCODING.encode(" 12") + ENCODING.encode(" apples") + [EOT] * 99
    assert solved(Reciter(ids), [Task("def f(xs):", " 12"), Task("def f(xs):", " 12", "code")]) == [True, False]


def test_a_model_that_draws_its_experts_has_one_try(tiny, monkeypatch):
    task = Task('def f(xs):\n    """Return the list."""', "\n    return xs\n", "code", [[[[1, 2]], [1, 2]]])
    model = Reciter(tokenizer.encode_prompt(ENCODING, task.prompt) + ENCODING.encode(task.answer) + [EOT] * 99)
    monkeypatch.setattr(evaluate, "write_answers", lambda *args: [""])
    assert solved(model, [task]) == [True] and solved(model, [task], drawn=True) == [False]
    model, idx = build(tiny, "sample_mixed"), torch.arange(32)[None]
    likeliest = model(idx)[2][1].experts
    evaluate.draw_experts(model, torch.Generator().manual_seed(0))
    drawn = [model(idx)[2][1].experts for _ in range(2)]
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], likeliest)


@torch.no_grad()
def test_losses_and_routing_equal_a_direct_computation(tiny):
    """The loss of each window's second half; gates and probabilities of all tokens; batches of unequal size."""
    windows = first_windows(load_domains(tiny / "data")["math"].val, 32, 5)
    model = build(tiny, "btx_mixed")
    losses, share, probs = evaluate.score_texts(model, windows, 2)
    logits, _, routing = model(windows[:, :-1])
    direct = F.cross_entropy(logits[:, 16:].transpose(1, 2), windows[:, 17:], reduction="none").mean(1)
    torch.testing.assert_close(losses, direct.double())
    for layer, r in enumerate(routing):
        for i in range(3):
            gates = torch.where(r.experts == i, r.gates, 0.0).sum(1)
            assert share[layer][i] == pytest.approx(gates.mean().item(), abs=1e-5)
            counts, _ = np.histogram(r.probs[:, i], bins=evaluate.BINS, range=(0, 1))
            assert probs[layer][i] == pytest.approx(counts / len(gates), abs=1e-5)
    assert evaluate.score_texts(build(tiny, "seed"), windows, 2)[1:] == (None, None)


def test_bytes_per_token_and_share_of_moe_training():
    a, b, c = ENCODING.encode("The apples are")
    windows = torch.tensor([[9, 9, 9, 9, 9, a, EOT, b, c]])  # the last four tokens count
    assert evaluate.bytes_per_token(ENCODING, windows) == len("The apples are") / 4
    stages = [{"stage": "train", "flops": 100}, {"stage": "train", "flops": 30}, {"stage": "finetune", "flops": 10}]
    assert evaluate.moe_share(stages) == 0.25 and evaluate.moe_share(stages[:1]) is None


def test_the_table_shows_means_and_costs():
    scores = {"math": 0.5, "code": 0.25, "switch": 0.0}  # switch is in no mean
    costs = {"params": 2e6, "active_params": 1e6, "tokens": 5e6, "flops": 2e13, "seconds": 61.4, "elapsed": 30.6}
    table = report.table({"btx": {"accuracy": scores, "loss": {"math": 1.0, "code": 2.0, "switch": 9.0}, **costs}})
    head, _, row = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert dict(zip(head, row, strict=True)) == {
        "model": "btx", "math": "50.0", "code": "25.0", "switch": "0.0", "mean": "37.5", "loss": "1.500", "ppl": "4.48",
        "params": "2.00M", "active": "1.00M", "tokens": "5.00M", "PFLOP": "0.02", "seconds": "61", "elapsed": "31"}


def test_evaluate_writes_all_that_was_promised_and_the_same_bytes_again(tiny, tmp_path, capsys):
    names = ["seed", "math", "code", "btx_mixed"]
    for folder in ("a", "b"):
        evaluate.main([*(f"{tiny}/{name}.pt" for name in names), "--btm", "seed,math,code", "--btm_methods",
                       "bayes:1,tfidf:2", "--data_dir", f"{tiny}/data", "--out", f"{tmp_path}/{folder}", "--tasks", "4",
                       "--windows", "2", "--device", "cpu"])
    files = [{p.relative_to(tmp_path / f): p.read_bytes() for p in (tmp_path / f).rglob("*.*")} for f in ("a", "b")]
    assert files[0] == files[1] and {p.name for p in files[0]} == {
        "report.md", "results.json", "explore.html", "accuracy.png", "routing.png", "curves.png"}
    numbers = json.loads((tmp_path / "a/results.json").read_text())
    models, text = numbers["models"], (tmp_path / "a/report.md").read_text()
    assert list(models) == ["seed", "math", "code", "btm_bayes_top1", "btm_tfidf_top2", "btx_mixed"]
    for name, r in models.items():
        assert list(r["accuracy"]) == list(r["loss"]) == ["general", "trivia", "math", "code", "wiki", "switch"]
        assert text.count(f"\n| {name} ") == 3
    assert report.table(models) in capsys.readouterr().out and report.table(models) in text
    assert text.count("](figures/") == 3 and "explore.html" in text and "{" not in text
    mixed, seed = models["btx_mixed"], models["seed"]
    assert mixed["tokens"] == models["math"]["tokens"] + models["code"]["tokens"] - seed["tokens"]
    assert mixed["active_params"] < mixed["params"] and models["btm_bayes_top1"]["active_params"] == seed["params"]
    windows = first_windows(load_domains(tiny / "data")["wiki"].val, 32, 2)
    with torch.no_grad():
        losses, share, _ = evaluate.score_texts(build(tiny, "btx_mixed"), windows, 50)
    assert mixed["loss"]["wiki"] == losses.mean().item() and numbers["routing"]["btx_mixed"]["share"]["wiki"] == share


@pytest.mark.parametrize("script, words, message", [
    (evaluate, "{tiny}/no.pt", "no.pt"), (evaluate, "README.md", "README.md"),
    (evaluate, "{tiny}/math.pt {tiny}/../{name}/math.pt", "one name"), (evaluate, "{tiny}/math.pt --btm code", "code"),
    (evaluate, "{tiny}/btx_mixed.pt --btm btx_mixed", "dense"), (evaluate, "{tiny}/math.pt --data_dir {tmp}", "prepare"),
    (evaluate, "{tiny}/math.pt --btm math --btm_methods vote:1", "vote:1"), (evaluate, "{tmp}/other.pt", "tokenizer"),
    (sample, "{tiny}/no.pt", "no.pt"), (sample, "{tiny}/math.pt {tiny}/code.pt", "--btm"),
    (sample, "{tiny}/math.pt --html o.html", "dense"), (sample, "{tiny}/btx_mixed.pt --layer 3", "--layer 3"),
    (sample, "{tiny}/math.pt --prompt 1234567890123456789012345678901234567890", "--prompt"), (evaluate, "", ""), (sample, "", "")])
def test_what_cannot_be_evaluated_is_refused_and_nothing_written(tiny, tmp_path, script, words, message):
    c = checkpoint.load(tiny / "math.pt")
    checkpoint.save(tmp_path / "other.pt", {**c, "tokenizer": {**c["tokenizer"], "fingerprint": "other"}})
    words = words.format(tiny=tiny, tmp=tmp_path, name=tiny.name).split()
    if script is evaluate:
        words = ["--data_dir", f"{tiny}/data", "--out", f"{tmp_path}/out", *words]
    with pytest.raises((BadInput, SystemExit), match=message):
        script.main(["--device", "cpu", *words])
    assert not list(tmp_path.glob("out/*"))


def test_sample_prints_whole_characters_of_prompt_and_greedy_continuation(tiny, capsys):
    prompt = "Tom hät 3 €"  # two of its characters have several tokens
    sample.main([f"{tiny}/seed.pt", "--prompt", prompt, "--tokens", "6", "--device", "cpu"])
    ids = greedy(build(tiny, "seed"), prompt, 6)
    ids = ids[:ids.index(EOT)] if EOT in ids else ids
    assert capsys.readouterr().out == (prompt + ENCODING.decode(ids)).rstrip("\ufffd") + "\n"


def test_a_token_has_the_colour_of_the_expert_that_wrote_it(tiny, capsys):
    prompt, model = "Tom has 3 apples", build(tiny, "btx_mixed")
    sample.main([f"{tiny}/btx_mixed.pt", "--prompt", prompt, "--tokens", "1", "--experts", "--device", "cpu", "--layer", "2"])
    text, _, names = capsys.readouterr().out.partition("experts:")
    _, _, routing = model(torch.tensor([tokenizer.encode_prompt(ENCODING, prompt)]))
    wanted = [explore.COLORS[i] for i in routing[1].dense_gates().argmax(1).tolist()]
    shown = ["#" + bytes(map(int, rgb)).hex() for rgb in re.findall(r"48;2;(\d+);(\d+);(\d+)m", text)]
    assert len(wanted) > 4 and shown[:len(wanted) - 1] == wanted[:-1] and re.sub(r"\x1b\[[\d;]*m", "", text).startswith(prompt)
    assert all(f" {name} " in names for name in ("seed", "math", "code"))
    first = Routing(torch.tensor([[0.9, 0.1]]), torch.tensor([[2, 0]]), torch.zeros(1, 3))
    second = Routing(torch.tensor([[0.6, 0.4]]), torch.tensor([[0, 2]]), torch.zeros(1, 3))
    assert sample.top_experts([first, second], None) == [2] and sample.top_experts([first, second], 2) == [0]
