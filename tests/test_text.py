"""Own text and own tasks: what is read, and how text is divided into training and validation text."""
import errno
import json
from argparse import Namespace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

import evaluate
from cli import BadInput
from data import prepare, tokenizer
from data.loader import load_domains, read_texts
from data.task import Task

BTX = tokenizer.load_tokenizer()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(*texts, **options):
    """The domains that data.prepare makes from texts, each given as NAME=PATH, in the folder `out`."""
    words = [f"--{name}={value}" for name, value in options.items()]
    prepare.main(["--domains", "", "--out", "out", "--text", *texts, *words])
    return load_domains("out")


@pytest.mark.parametrize("paths", [["own=a", "own=a/*.txt"], ["own=a/*.*", "own=a/deep/c.md"]])
def test_files_folders_patterns_and_jsonl(paths, folder, monkeypatch):
    monkeypatch.setattr(prepare, "FEWEST", 0)  # five documents stay whole
    monkeypatch.setattr(prepare, "is_held_out", lambda document: document.startswith("first"))
    (folder / "a" / "deep").mkdir(parents=True)
    first = f"first: ünïcödé,\r\n {tokenizer.END} is text here"
    (folder / "a" / "b.txt").write_bytes(first.encode("utf-8-sig"))  # with a byte-order mark
    (folder / "a" / ".hidden").write_bytes(b"\xff")
    (folder / "a" / "deep" / "c.md").write_text("fourth")
    lines = [json.dumps({"id": n, "body": f"line {n}\nof json"}) for n in range(3)]
    (folder / "a" / "d.JSONL").write_text("\n\n".join(lines[:2]) + "\n\n")
    (folder / "a" / "e.jsonl").write_text(lines[2], "utf-8-sig")
    expected = []
    for document in (first, "line 0\nof json", "line 1\nof json", "fourth", "line 2\nof json"):
        expected += [*BTX.encode(document), BTX.eot]
    own = make(*paths, field="body")["own"]
    assert [*own.val, *own.train] == expected


def test_added_documents_move_none_from_training_to_validation(folder, capsys):
    (folder / "own").mkdir()
    known = set()  # documents that were trained on
    for n_documents in (20, 40, 400):
        for n in range(n_documents):
            (folder / f"own/{-n % 1000:03}.txt").write_text(f"{n}: " + "abc " * (n % 3 * 20))
        own = make("own=own")["own"]
        train, held_out = ({*BTX.decode(ids.tolist()).split(tokenizer.END)[:-1]} for ids in (own.train, own.val))
        assert len(train | held_out) == n_documents and not held_out & (train | known)
        assert f"({len(held_out)} documents held out)" in capsys.readouterr().out
        known |= train
    assert 20 < len(held_out) < 60
    other = make("own=own", tokenizer=300)["own"]  # another tokenizer holds out the same documents
    text = tokenizer.load_tokenizer(other.meta["spec"]).decode(other.val.tolist())
    assert {*text.split(tokenizer.END)[:-1]} == held_out


def test_windows_of_own_text_lie_far_apart(folder):
    (folder / "own.txt").write_text("".join(f"{n} " for n in range(9000)))
    own = make("own=own.txt")["own"]
    _, windows = read_texts({"own": own}, {"own": 1.0}, 16, 4)
    checkpoint = {"config": {"block_size": 16}, "spec": own.meta["spec"]}
    scored, _ = evaluate.choose_tests(Namespace(windows=4, tasks=1), {"a": checkpoint}, BTX, {"own": own})
    for rows in (windows["own"], scored["own"]):
        starts = [int(BTX.decode(row.tolist()).split()[1]) for row in rows]
        gaps = [b - a for a, b in zip(starts, starts[1:], strict=False)]
        assert min(gaps) > 0.9 * max(gaps) and starts[-1] + max(gaps) > 8900


@pytest.mark.parametrize("longest, size", [(100, 6), (2, 2)])
def test_every_tenth_piece_of_few_documents_is_for_validation(longest, size, folder, monkeypatch):
    """A piece has PIECE ids, or a tenth of a short text. The ids exceed 16 bits."""
    wide = BTX._replace(encode=lambda text: [70_000 + len(word) for word in text.split()], vocab_size=80_000,
                        spec=BTX.spec | {"vocab_size": 80_000})
    monkeypatch.setattr(prepare, "load_tokenizer", lambda spec: wide)
    monkeypatch.setattr(prepare, "PIECE", longest)
    monkeypatch.setattr(prepare, "AT_ONCE", 9)  # so that a document is encoded in several parts
    (folder / "a.txt").write_text("a bb ccc " * 10)
    (folder / "b.txt").write_text("ddd ee f " * 10)
    own = make("own=*.txt")["own"]
    ids = [70_001, 70_002, 70_003] * 10 + [BTX.eot] + [70_003, 70_002, 70_001] * 10 + [BTX.eot]
    pieces = [ids[start:start + size] for start in range(0, len(ids), size)]
    held_out = pieces[9::10]
    del pieces[9::10]
    assert own.val.tolist() == sum(held_out, []) and own.train.tolist() == sum(pieces, [])


def test_a_new_tokenizer_and_that_of_a_checkpoint(tiny, folder, monkeypatch):
    monkeypatch.setattr(prepare, "SAMPLE", 999)
    (folder / "a.txt").write_text("apples " * 200 + "zz " * 9999)
    (folder / "b.txt").write_text("berries " * 300)
    domain = make("a=a.txt", "b=b.txt", tokenizer=300)["b"]
    own = tokenizer.load_tokenizer(domain.meta["spec"])
    tokens = [own.decode([i]) for i in range(256, own.eot)]
    assert own.vocab_size == own.spec["vocab_size"] == own.eot + 1 < 300
    assert {" apples", " berries"} < {*tokens} and " zz" not in tokens
    assert own.decode(domain.train[:5].tolist()).startswith("berries berries")
    torch.save(torch.load(tiny / "seed.pt", weights_only=True) | {"spec": own.spec}, "own.pt")
    assert make("c=b.txt", init="own.pt")["c"].meta["files"] == domain.meta["files"]


def test_own_tasks_alone_and_with_own_text(folder, capsys):
    tasks = [Task(f"Which hill is number {n}?", f" Höhe {n}.") for n in range(3)]
    (folder / "tasks.jsonl").write_text("\n".join(json.dumps(vars(task)) for task in tasks))
    (folder / "own.txt").write_text("good " * 9)
    alone = make("own=own.txt", own_tasks="facts=tasks.jsonl")["facts"]
    assert alone.tasks == tasks and len(alone.train) == len(alone.val) == 0
    both = make("own=own.txt", own_tasks="own=tasks.jsonl", tasks=2)["own"]
    assert capsys.readouterr().out.endswith("(1 pieces held out), 2 of 3 tasks\n")
    assert both.tasks == tasks[:2] and len(both.train) > 0
    for given, lost in ("--own_tasks own=tasks.jsonl", "train.bin"), ("--text own=own.txt", "tasks.jsonl"):
        with pytest.raises(BadInput, match=f"{lost} would be lost"):
            prepare.main(f"--domains= --out out {given}".split())


@pytest.mark.parametrize("name, content", [
    ("a.txt", b"the first \xff"), ("a.parquet", b"PAR1\xff"), *(("a.jsonl", b'{"text": "x"}\n\n' + line) for line in (
        b'{"text": 3}', b'{"body": "x"}', b"no json", b'["text"]', b'{"text": "\xff"}', b'{"text": "\\ud800"}'))])
def test_what_cannot_be_read_leaves_the_old_domain_and_what_cannot_be_written_leaves_none(name, content, folder):
    (folder / "good.txt").write_text("good " * 9)
    before = make("own=good.txt")["own"].meta
    (folder / name).write_bytes(content)
    with pytest.raises(BadInput, match="a.jsonl, line 3" if name == "a.jsonl" else name):
        make("own=good.txt", f"own={name}")
    assert load_domains("out")["own"].meta == before
    with (patch.object(Path, "write_bytes", side_effect=OSError(errno.ENOSPC, "No space left on device")),
          pytest.raises(BadInput, match="train.bin.*No space left")):
        make("own=good.txt")
    with pytest.raises(BadInput, match="no prepared domains"):
        load_domains("out")
