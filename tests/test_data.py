"""The same seed gives the same bytes, test tasks are not in the training text, and batches depend on the step alone."""
import doctest
import importlib
import os
import random
import re
from itertools import islice
from unittest.mock import DEFAULT, patch

import numpy as np
import pytest
import torch

from cli import BadInput, digest
from data import loader, prepare, synthetic, tokenizer, trivia, wiki

BTX = tokenizer.load_tokenizer()
END = tokenizer.END
DIGESTS = {"general": "4102ad9240a974b7", "trivia": "a18daf817b73cc2f", "math": "8db71dd70a76c38c",
           "code": "34c8211cdb2a9806", "wiki": "afdd65824a67bc74", "switch": "f55dfee2f2e96bca"}
HALVES = {"a": 0.5, "b": 0.5}
RAMPS = {"a": np.arange(1000, dtype="<u2"), "b": np.arange(5000, 5800, dtype="<u2")}  # a token says where it stands


def documents(name, level, n, unseen=False):
    stream = synthetic.make_documents(name, random.Random(1), level, unseen)
    return list(islice(stream, n))


def tasks(name, level, n):
    rng = random.Random(2)
    return [synthetic.make_task(name, rng, level) for _ in range(n)]


@pytest.mark.parametrize("module", ["data.general", "data.loader", "support.report"])
def test_examples_in_docstrings(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0 and result.failed == 0


def test_every_text_comes_back_and_end_of_text_is_a_token_in_prompts_alone():
    for text in [END, "".join(map(chr, range(0xD000)))]:
        assert BTX.decode(BTX.encode(text)) == text
        assert 1023 not in BTX.encode(text)
    assert [BTX.decode([i]) for i in BTX.encode(" the 12 345")] == [" the", " ", "1", "2", " ", "3", "4", "5"]
    prompt = [1023, *BTX.encode("before"), 1023, *BTX.encode("after")]
    assert BTX.encode_prompt(f"before{END}after") == prompt
    assert BTX.decode(prompt) == f"{END}before{END}after"


def test_same_seed_same_bytes_and_another_seed_others(tmp_path):
    """The numbers in experiments/ were measured on this text. To change a domain on purpose, change its digest here."""
    sizes = ["--train_tokens", "20000", "--val_tokens", "2000", "--tasks", "50"]
    all_files = {name: [] for name in DIGESTS}
    for level in (0, 1, 2):
        prepare.main([*sizes, "--level", str(level), "--out", f"{tmp_path}/{level}"])
        for name, domain in loader.load_domains(tmp_path / str(level)).items():
            folder = tmp_path / str(level) / name
            files = {path: digest((folder / path).read_bytes()) for path in ("train.bin", "val.bin", "tasks.jsonl")}
            all_files[name].append(files)
            assert domain.meta == {"spec": BTX.spec, "level": level, "seed": 0, "files": files}
            assert len({task.prompt for task in domain.tasks}) == 50
            for task in domain.tasks:  # the answer's own tokens are graded
                assert BTX.encode(task.prompt) + BTX.encode(task.answer) == BTX.encode(task.prompt + task.answer)
    assert {name: digest(repr(files).encode()) for name, files in all_files.items()} == DIGESTS
    prepare.main([*sizes, "--domains", "math", "--seed", "1", "--out", f"{tmp_path}/other"])
    for path, known in all_files["math"][0].items():
        assert digest((tmp_path / "other/math" / path).read_bytes()) != known


@pytest.mark.parametrize("level", [1, 2])
def test_no_test_task_is_in_training_text(level):
    """It is not there under another name either: math with the same numbers, or code with the same docstring."""
    text = "\n".join(documents("general", level, 10_000))
    assert not any(task.prompt in text for task in tasks("general", level, 1000))
    solutions = {document.split("?")[1] for document in documents("math", level, 5000)}
    assert solutions.isdisjoint(task.answer for task in tasks("math", level, 1000))
    docstrings = {document.split('"""')[1] for document in documents("code", level, 1000)}
    assert docstrings.isdisjoint(text.split('"""')[1] for text in documents("code", level, 50, unseen=True))
    assert docstrings.isdisjoint(task.prompt.split('"""')[1] for task in tasks("code", level, 50))
    for name, subjects in (("wiki", wiki.subjects(level)), ("trivia", trivia.subjects(level))):
        questions = re.findall(r"[A-Z][^.?]+\?", " ".join(documents(name, level, 10_000)))
        asked = set(re.findall(r"\w+", " ".join(questions)))
        assert asked.isdisjoint(subject.name for subject in subjects[1::2])  # told in prose alone


def test_solved_examples_stand_before_a_task():
    task = synthetic.make_task("code", random.Random(2), 1, n_examples=3)
    *examples, question = task.prompt.split("\n\n")
    assert len(examples) == 3 and all(example.count("return") == 2 for example in examples)
    assert question.endswith('"""') and task.answer.startswith("\n    return") and task.kind == "exact"


@pytest.mark.parametrize("n", [0, 3])
def test_a_domain_is_whole_or_not_there(n, tmp_path):
    """Prepare the domain again, and stop when n of its four files have been replaced."""
    words = f"--domains math --train_tokens 99 --val_tokens 99 --tasks 1 --out {tmp_path}".split()
    prepare.main(words)
    stops = patch.object(os, "replace", wraps=os.replace, side_effect=[DEFAULT] * n + [InterruptedError])
    with stops, pytest.raises(BadInput):
        prepare.main([*words, "--seed", "7"])
    with pytest.raises(BadInput, match="no prepared domains"):
        loader.load_domains(tmp_path)


def batch(step=0, texts=RAMPS, mixture=HALVES, shape=(12, 8), seed=0, n_earlier_runs=0, **ranks):
    return torch.stack(loader.get_batch(texts, mixture, shape, (seed, n_earlier_runs, step), **ranks))


def test_a_batch_is_a_function_of_step_seed_earlier_runs_and_mixture_and_ranks_share_it():
    keys = [{}, {"step": 1}, {"seed": 1}, {"n_earlier_runs": 1}, {"mixture": {"a": 1}},
            {"mixture": {"a": 0.9999, "b": 0.0001}}]
    batches = [batch(**key) for key in keys]
    assert all(torch.equal(batch(**key), rows) for key, rows in zip(keys, batches, strict=True))
    assert len({tuple(rows.flatten().tolist()) for rows in batches}) == len(keys)
    assert torch.equal(batch(mixture={"b": 0.5, "a": 0.5}), batches[0])
    for n in (2, 3, 4):
        parts = [batch(rank=rank, n_ranks=n) for rank in range(n)]
        assert torch.equal(torch.stack(parts, dim=2).flatten(1, 2), batches[0])


def test_rows_come_from_domains_as_the_mixture_says_and_from_all_places_alike():
    texts = {"a": np.arange(20), "b": np.arange(100, 111)}  # a has windows that start from 0 to 9, b has one
    x, y = torch.cat([batch(step, texts, {"a": 0.8, "b": 0.2}, (64, 10)) for step in range(200)], dim=1)
    counts = x[:, 0].bincount().tolist()
    expected = 200 * 64 * 0.8 / 10
    assert len(counts) == 101 and sum(counts[:10]) + counts[100] == len(x) == 200 * 64
    assert all(abs(count - expected) < 4 * expected**0.5 for count in counts[:10])
    assert x.shape[1] == 10 and x.dtype == torch.int64 and torch.equal(x[:, 1:], y[:, :-1]) and torch.equal(y, x + 1)
