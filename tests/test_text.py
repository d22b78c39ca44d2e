"""Own text and own tasks: what is read, and how text is cut into training and validation text."""
import gzip
import json

import pytest
import torch

from cli import BadInput
from data import prepare, text, tokenizer
from data.loader import first_windows, load_domains
from data.task import Task

BTX = tokenizer.load_tokenizer()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(*texts, **options):
    """The domains that data.prepare makes of texts, NAME=PATH each, in the folder `out`."""
    words = [f"--{name}={value}" for name, value in options.items()]
    prepare.main(["--domains", "", "--out", "out", "--text", *texts, *words])
    return load_domains("out")


@pytest.mark.parametrize("paths", [["own=a", "own=a/*.txt"], ["own=a/*.*", "own=a/deep/c.md.gz"]])
def test_files_folders_patterns_jsonl_and_gz(paths, folder):
    (folder / "a" / "deep").mkdir(parents=True)
    first = f"first: ünïcödé,\r\n {tokenizer.END} is text here"
    (folder / "a" / "b.txt").write_bytes(first.encode())
    (folder / "a" / ".hidden").write_bytes(b"\xff")
    (folder / "a" / "deep" / "c.md.gz").write_bytes(gzip.compress(b"fourth, packed"))
    lines = [json.dumps({"id": n, "body": f"line {n}\nof json"}) for n in range(3)]
    (folder / "a" / "d.JSONL").write_text("\n".join(lines[:2]))
    (folder / "a" / "e.jsonl.gz").write_bytes(gzip.compress(lines[2].encode()))
    expected = []
    for document in (first, "line 0\nof json", "line 1\nof json", "fourth, packed", "line 2\nof json"):
        expected += [*BTX.encode(document), BTX.eot]
    own = make(*paths, field="body")["own"]
    assert [*own.train, *own.val] == expected


def test_the_last_tenth_of_each_chunk_is_for_validation_until_there_is_enough(folder, monkeypatch):
    monkeypatch.setattr(prepare, "CHUNK", 100)
    monkeypatch.setattr(text, "PIECE", 64)
    words = " ".join(str(n) for n in range(500))
    (folder / "own.txt").write_text(words)
    own = make("own=own.txt", val_tokens=45)["own"]
    train, val = own.train.tolist(), own.val.tolist()
    whole = []
    for n in (10, 10, 10, 10, 5):
        whole += train[:100 - n] + val[:n]
        train, val = train[100 - n:], val[n:]
    assert BTX.decode(whole + train) == words + tokenizer.END and val == []


def test_every_tenth_document_is_for_validation_if_there_are_many(folder, monkeypatch):
    monkeypatch.setattr(prepare, "PASSAGE", 8)
    monkeypatch.setattr(text, "PIECE", 16)  # so that documents come in several pieces
    (folder / "own").mkdir()
    for n in range(40):
        (folder / f"own/{n:02}.txt").write_text(f"{n}: " + "abc " * (n % 3 * 20))
    own = make("own=own")["own"]
    expected = []
    for n in (9, 19, 29, 39):
        expected += [*BTX.encode(f"{n}: " + "abc " * (n % 3 * 20))[:7], BTX.eot]
    train = BTX.decode(own.train.tolist()).split(tokenizer.END)[:-1]
    assert own.val.tolist() == expected
    assert len(train) == 36
    assert "39: abc abc" not in " ".join(train)
    enough = make("own=own", val_tokens=9)["own"]  # the documents after the first two are for training
    assert BTX.decode(enough.train.tolist()).count(tokenizer.END) == 38


def test_windows_of_own_text_lie_far_apart(folder):
    (folder / "own.txt").write_text("".join(f"{n} " for n in range(9000)))
    own = make("own=own.txt")["own"]
    starts = [int(BTX.decode(row.tolist()).split()[1]) for row in first_windows(own.val, 16, 4, own.is_own)]
    gaps = [b - a for a, b in zip(starts, starts[1:], strict=False)]
    assert min(gaps) > 0.9 * max(gaps) and starts[-1] + max(gaps) > 8900


def test_a_short_text_and_ids_beyond_16_bits(folder, monkeypatch):
    wide = BTX._replace(encode=lambda text: [70_000 + len(word) for word in text.split()], vocab_size=80_000,
                        spec=BTX.spec | {"vocab_size": 80_000})
    monkeypatch.setattr(prepare, "load_tokenizer", lambda spec: wide)
    (folder / "own.txt").write_text("a bb ccc " * 10)
    own = make("own=own.txt")["own"]
    assert [*own.train, *own.val] == [70_001, 70_002, 70_003] * 10 + [BTX.eot] and len(own.val) == 3


def test_a_new_tokenizer_and_that_of_a_checkpoint(folder, monkeypatch):
    monkeypatch.setattr(prepare, "SAMPLE", 999)
    (folder / "a.txt").write_text("apples " * 200 + "zz " * 9999)
    (folder / "b.txt").write_text("berries " * 300)
    domain = make("a=a.txt", "b=b.txt", tokenizer=300)["b"]
    own = tokenizer.load_tokenizer(domain.meta["spec"])
    tokens = [own.decode([i]) for i in range(256, own.eot)]
    assert own.vocab_size == own.spec["vocab_size"] == own.eot + 1 < 300
    assert {" apples", " berries"} < {*tokens} and " zz" not in tokens
    assert own.decode(domain.train[:5].tolist()).startswith("berries berries")
    torch.save({"spec": own.spec}, "own.pt")
    assert make("c=b.txt", init="own.pt")["c"].meta["files"] == domain.meta["files"]


def test_own_tasks_alone_and_with_own_text(folder):
    tasks = [Task(f"Which hill is number {n}?", f" Höhe {n}.") for n in range(3)]
    lines = [json.dumps({"prompt": task.prompt, "answer": task.answer}) for task in tasks]
    (folder / "tasks.jsonl").write_text("\n".join(lines))
    (folder / "own.txt").write_text("good " * 9)
    alone = make("own=own.txt", own_tasks="facts=tasks.jsonl")["facts"]
    assert alone.tasks == tasks and len(alone.train) == len(alone.val) == 0
    both = make("own=own.txt", own_tasks="own=tasks.jsonl", tasks=2)["own"]
    assert both.tasks == tasks[:2] and len(both.train) > 0


@pytest.mark.parametrize("name, content", [
    ("a.jsonl", b'{"body": "x"}'), ("a.jsonl", b'{"text": "x"}\n{"text": 3}'), ("a.jsonl", b"no json"),
    ("a.txt", b"the first \xff"), ("a.gz", gzip.compress(b"cut" * 999)[:-9]), ("a.gz", b"not packed")])
def test_what_cannot_be_read_is_named_and_leaves_the_old_domain(name, content, folder):
    (folder / "good.txt").write_text("good " * 9)
    before = make("own=good.txt")["own"].meta
    (folder / name).write_bytes(content)
    with pytest.raises(BadInput, match=name):
        make("own=good.txt", f"own={name}")
    assert load_domains("out")["own"].meta == before
