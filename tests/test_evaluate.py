"""Grading without generation, Branch-Train-Merge by hand, and the files that evaluate.py and sample.py write."""
import json
import re
import subprocess
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest
import torch
from tiny import forge

import evaluate
import sample
from data import tokenizer
from data.loader import first_windows, read_domain
from data.task import Task
from model import Routing
from support import checkpoint as ckpt
from support import explore, figures
from support.files import output
from support.settings import BadInput

DOMAINS = {"general", "trivia", "math", "code", "wiki", "switch"}


def math_windows(tiny, n):
    return first_windows(read_domain(tiny / "data", "math")["val.bin"], 32, n)


@pytest.fixture(scope="module")
def seed(tiny):
    return ckpt.build(ckpt.load(tiny / "seed.pt")), tokenizer.load()


def greedy(model, encoding, prompt, n):
    start = torch.tensor([[encoding.eot_token] + encoding.encode(prompt, allowed_special="all")])
    return model.generate(start, n)[0, start.shape[1]:].tolist()


def test_a_task_is_solved_if_and_only_if_greedy_decoding_gives_its_answer(seed):
    """Answers are made of the model's own continuation, then spoilt at one place each."""
    model, encoding = seed
    prompts = ["Tom has 3", "Where is the lamp?", "def f(xs):", "a"]
    written = [greedy(model, encoding, p, 4) for p in prompts]
    tasks, want = [], []
    for prompt, tokens in zip(prompts, written, strict=True):
        for spoilt in (None, 0, 3):
            answer = [(t + 1) % 256 if i == spoilt else t for i, t in enumerate(tokens)]
            if encoding.encode_ordinary(encoding.decode(answer)) == answer:  # else the text would be other tokens
                tasks.append(Task(prompt, encoding.decode(answer)))
                want.append(spoilt is None)
    assert True in want and False in want
    with torch.inference_mode():
        solved = evaluate.score_tasks(model, encoding, tasks, 3, "cpu")
    assert solved.tolist() == want


def test_an_answer_that_the_tokenizer_cannot_spell_is_never_given(seed, monkeypatch):
    """Some have no token for some characters; all models write an answer of no tokens."""
    model, encoding = seed
    monkeypatch.setattr(encoding, "encode_ordinary", lambda text: [])
    with torch.inference_mode():
        assert evaluate.score_tasks(model, encoding, [Task("a", "\x01")], 1, "cpu").tolist() == [False]


def test_code_written_in_a_batch_of_unlike_prompts_equals_code_written_alone(seed):
    model, encoding = seed
    prompts = [[encoding.eot_token] + encoding.encode(p) for p in ("def f(xs):", 'def g(xs):\n    """Sum it."""', "def")]
    with torch.inference_mode():
        together = evaluate.write_code(model, encoding, prompts, 12, 3, "cpu")
    for prompt, answer in zip(prompts, together, strict=True):
        tokens = model.generate(torch.tensor([prompt]), 12)[0, len(prompt):].tolist()
        ends = encoding.eot_token in tokens
        assert answer == (encoding.decode(tokens[:tokens.index(encoding.eot_token)]) if ends else None)


def test_code_that_does_not_end_is_no_answer(seed):
    """Written by a model that ends its text after so many words, in a batch with a longer prompt; ten tokens are allowed."""
    _, encoding = seed
    word = encoding.encode_ordinary(" x")[0]

    def model(n, new, cache):
        cache.append(new.shape[1])
        ends = sum(cache) >= 4 + n
        return [torch.nn.functional.one_hot(torch.full(new.shape, encoding.eot_token if ends else word), 1024).float()]
    for n, want in ((3, " x" * 3), (9, " x" * 9), (10, None), (30, None)):
        assert evaluate.write_code(partial(model, n), encoding, [[word] * 4, [word] * 12], 10, 2, "cpu")[0] == want


def test_a_task_of_a_kind_that_nobody_grades_is_refused():
    def read(kind):
        content = json.dumps(asdict(Task("a", "b", kind))).encode()
        return evaluate.read_tasks({"math": {"tasks.jsonl": np.frombuffer(content, "u1")}}, "math", 9)
    assert read("exact") == [Task("a", "b")] and read("code") == [Task("a", "b", "code")]
    with pytest.raises(BadInput, match="tasks of math are broken"):
        read("Code")


def test_code_is_graded_by_what_it_returns_however_it_is_written(seed, monkeypatch):
    model, encoding = seed
    task = Task('def f(xs):\n    """Return the list."""', "\n    return xs\n", "code", [[[[1, 2]], [1, 2]]])
    for body, right in (("\n    return [x for x in xs]\n", True), ("\n    return xs + [0]\n", False), ("\n    return (", False)):
        monkeypatch.setattr(evaluate, "write_code", lambda *a, body=body: [body])
        with torch.inference_mode():
            assert evaluate.score_tasks(model, encoding, [task], 1, "cpu").tolist() == [right]


def test_the_loss_of_a_window_is_that_of_its_second_half(seed, tiny):
    model, windows = seed[0], math_windows(tiny, 3)
    with torch.inference_mode():
        second, routing = evaluate.score_texts(model, windows, 2)
        logits = model(windows[:, :-1])[0]
        want = torch.nn.functional.cross_entropy(logits[:, 16:].mT, windows[:, 17:], reduction="none").mean(1)
    torch.testing.assert_close(second, want, check_dtype=False)
    assert routing is None


def test_gate_shares_sum_to_one_in_every_layer(tiny):
    model = ckpt.build(ckpt.load(tiny / "btx_mixed.pt"))
    with torch.inference_mode():
        routing = evaluate.score_texts(model, math_windows(tiny, 5), 2)[1]
    for values in (torch.tensor(routing["share"]), torch.tensor(routing["probs"])):  # (n_layer, N), (n_layer, N, BINS)
        torch.testing.assert_close(values.sum(-1), torch.ones(values.shape[:-1]))


def test_the_report_has_all_that_was_promised(tiny, tmp_path, capsys):
    names = ["seed", "math", "code", "btx_mixed"]
    evaluate.main([*(str(tiny / f"{n}.pt") for n in names), "--btm", "seed,math,code", "--btm_methods",
                   "bayes:1,tfidf:2", "--data_dir", str(tiny / "data"), "--out",
                   str(tmp_path), "--tasks", "4", "--windows", "2", "--device", "cpu"])
    models = json.loads((tmp_path / "results.json").read_text())["models"]
    assert set(models) == {*names, "btm_bayes_top1", "btm_tfidf_top2"}
    for entry in models.values():
        assert set(entry["accuracy"]) == set(entry["loss"]) == DOMAINS
        assert all(0 <= v <= 1 for v in entry["accuracy"].values())
        assert {"params", "active_params", "tokens", "flops", "seconds"} <= set(entry)
    assert models["btx_mixed"]["tokens"] == sum(models[n]["tokens"] for n in names[1:3]) - models["seed"]["tokens"]
    assert models["btx_mixed"]["active_params"] < models["btx_mixed"]["params"]
    report = (tmp_path / "report.md").read_text()
    assert all(f"\n| {name:<14} |" in report for name in models) and "| " in capsys.readouterr().out
    for figure in ("accuracy", "routing", "curves"):
        assert (tmp_path / "figures" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert f"figures/{figure}.png" in report


def test_the_same_checkpoints_give_the_same_bytes(tiny, tmp_path):
    """Report, numbers and figures; the seconds in them are the checkpoints' own."""
    for folder in ("a", "b"):
        evaluate.main([str(tiny / "seed.pt"), str(tiny / "btx_mixed.pt"), "--data_dir", str(tiny / "data"), "--device", "cpu",
                       "--tasks", "3", "--windows", "2", "--out", str(tmp_path / folder)])
    files = [{p.relative_to(tmp_path / f): p.read_bytes() for p in (tmp_path / f).rglob("*.*")} for f in ("a", "b")]
    assert len(files[0]) >= 5 and files[0] == files[1]


def test_a_report_shows_no_pictures_of_an_earlier_run(tiny, tmp_path):
    arguments = ["--data_dir", str(tiny / "data"), "--device", "cpu", "--tasks", "1", "--windows", "1", "--out", str(tmp_path)]
    evaluate.main([str(tiny / "btx_mixed.pt"), *arguments])
    assert (tmp_path / "explore.html").exists() and "routing.png" in (tmp_path / "report.md").read_text()
    with output(tmp_path / "explore.html"), pytest.raises(BadInput, match="another run"):  # what is being written is not removed
        evaluate.main([str(tiny / "seed.pt"), *arguments, "--no-figures"])
    evaluate.main([str(tiny / "seed.pt"), *arguments, "--no-figures"])
    text = (tmp_path / "report.md").read_text()
    assert ".png" not in text and "explore" not in text
    assert {p.name for p in tmp_path.rglob("*.*")} == {"report.md", "results.json"}


def test_where_switch_is_the_only_domain_its_tasks_are_the_mean(tiny, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "switch").symlink_to(tiny / "data" / "switch")
    evaluate.main([str(tiny / "seed.pt"), "--data_dir", str(tmp_path / "data"), "--device", "cpu", "--out", str(tmp_path)])
    row = next(line.split("|") for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("| seed"))
    assert row[2].strip() == row[3].strip() != ""


def test_a_figure_that_fails_costs_no_score(tiny, tmp_path, capsys):
    """A loss that cannot be drawn: a line of warning, and all the rest."""
    checkpoint = ckpt.load(tiny / "seed.pt")
    checkpoint["log"][0]["tokens"] = 10**400
    forge(tmp_path / "a$b$.pt", checkpoint)
    evaluate.main([str(tmp_path / "a$b$.pt"), "--data_dir", str(tiny / "data"), "--device", "cpu", "--tasks", "1",
                   "--windows", "1", "--out", str(tmp_path / "out")])
    assert {p.name for p in (tmp_path / "out").rglob("*.*")} == {"report.md", "results.json", "accuracy.png"}
    assert "curves.png" in capsys.readouterr().err


def test_a_page_that_fails_costs_no_score_either(tiny, tmp_path, capsys, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(explore, "write", full)
    evaluate.main([str(tiny / "btx_mixed.pt"), "--data_dir", str(tiny / "data"), "--device", "cpu", "--tasks", "1",
                   "--windows", "1", "--out", str(tmp_path)])
    report, said = (tmp_path / "report.md").read_text(), capsys.readouterr()
    assert "routing.png" in report and "explore" not in report + said.out and "explore.html: cannot be drawn" in said.err


def test_the_commit_is_this_projects_own(tmp_path, monkeypatch):
    """Not that of a repository into which it was unpacked, nor of one that a hook names."""
    monkeypatch.setattr(evaluate, "__file__", str(tmp_path / "inner" / "evaluate.py"))
    (tmp_path / "inner").mkdir()
    for words in (["init", "-q"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "outer"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    assert evaluate.machine()["commit"] == "unknown"
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    assert evaluate.machine()["commit"] == "unknown"
    monkeypatch.setattr(evaluate, "__file__", str(tmp_path / "evaluate.py"))
    assert re.fullmatch("[0-9a-f]{7,}", evaluate.machine()["commit"])


def test_a_name_is_no_formula(tmp_path):
    figures.routing({"$x_$": {"experts": ["$y_$"], "share": {"$z_$": [[1]]}}}, tmp_path / "$.png")
    assert (tmp_path / "$.png").exists()


def test_legends_name_all_that_is_drawn(monkeypatch):
    """Each mixture's own experts, models whose log lacks the first domain, names that begin with _, which matplotlib skips."""
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.append(figure))
    experts = {"a": ["seed", "_math"], "b": ["code", "wiki", "seed"]}
    routing = {name: {"experts": some, "share": {"math": [[1] * len(some)]}, "probs": {"math": [[[0.5, 0.5]] * len(some)]}}
               for name, some in experts.items()}
    figures.routing(routing, None)
    figures.probabilities(routing, None)
    for figure in drawn:
        legends = [axis.get_legend() for axis in figure.axes if axis.get_legend()]
        assert [[text.get_text().strip() for text in legend.get_texts()] for legend in legends] == list(experts.values())
    logs = {"a": {"math": 1.0, "code": 1.0}, "_b": {"code": 2.0}}
    figures.curves({name: {"lineage": [], "log": [{"tokens": 1, "val_loss": loss}]} for name, loss in logs.items()},
                   list(logs), ["math", "code"], None)
    assert [text.get_text().strip() for text in drawn[-1].legends[0].get_texts()] == ["a", "_b"]


def test_without_figures_a_folder_of_figures_is_no_matter(tiny, tmp_path):
    (tmp_path / "figures").write_text("mine")
    (tmp_path / "report.md").write_text("old")
    evaluate.main([str(tiny / "seed.pt"), "--data_dir", str(tiny / "data"), "--device", "cpu", "--tasks", "1", "--windows", "1",
                   "--no-figures", "--out", str(tmp_path)])
    assert (tmp_path / "figures").read_text() == "mine" and "seed" in (tmp_path / "report.md").read_text()


def test_losses_whose_sum_float32_does_not_hold(tiny, tmp_path):
    checkpoint = ckpt.load(tiny / "math.pt")
    checkpoint["model"]["head.weight"].mul_(3e37)
    ckpt.save(tmp_path / "large.pt", checkpoint)
    evaluate.main([str(tmp_path / "large.pt"), "--data_dir", str(tiny / "data"), "--device", "cpu", "--tasks", "1",
                   "--windows", "2", "--out", str(tmp_path / "out")])
    losses = json.loads((tmp_path / "out" / "results.json").read_text())["models"]["large"]["loss"]
    assert max(losses.values()) > 1e37


def test_a_token_has_the_colour_of_its_largest_gate():
    layer1 = Routing(torch.tensor([[0.9, 0.1]]), torch.tensor([[2, 0]]), torch.zeros(1, 3))
    layer2 = Routing(torch.tensor([[0.6, 0.4]]), torch.tensor([[0, 2]]), torch.zeros(1, 3))
    assert sample.top_experts([layer1, layer2], 0) == [2]  # 1.3 against 0.7
    assert sample.top_experts([layer1, layer2], 2) == [0]


def test_sample_continues_greedily_and_writes_a_page(tiny, tmp_path, capsys, seed):
    page = tmp_path / "new" / "page.html"
    sample.main([str(tiny / "btx_mixed.pt"), "--prompt", "a<b>", "--tokens", "5", "--experts", "--html", str(page)])
    out = capsys.readouterr().out
    assert out.count("\x1b[48;2;") >= 5 and all(f" {n} " in out for n in ("seed", "math", "code"))
    assert page.stat().st_size > 5000  # see tests/test_explore.py
    sample.main([str(tiny / "seed.pt"), "--prompt", "Tom has 3", "--tokens", "5"])
    model, encoding = seed
    want = "Tom has 3" + encoding.decode(greedy(model, encoding, "Tom has 3", 5)).split(tokenizer.END)[0]
    assert capsys.readouterr().out == want + "\n"


@pytest.mark.parametrize("main, words", [(evaluate.main, "--data_dir {tiny}/data --out {tmp}/out"),
                                         (sample.main, "--tokens 3 --temperature 1"), (sample.main, "--html {tmp}/out/o.html")])
def test_a_model_that_computes_no_numbers_is_refused(main, words, tiny, tmp_path):
    """All its weights are finite: logits that are not, in evaluation and in samples."""
    c = ckpt.load(tiny / "btx_mixed.pt")
    for name in ("norm.weight", "head.weight"):
        c["model"][name].mul_(1e25)
    ckpt.save(tmp_path / "bad.pt", c)
    with pytest.raises(BadInput, match="bad.*finite"):
        main([str(tmp_path / "bad.pt"), "--device", "cpu", *words.format(tiny=tiny, tmp=tmp_path).split()])
    assert not (tmp_path / "out").exists()
