"""Nothing is lost: runs that are killed, full disks, two runs at once, and checkpoints with random damage."""
import errno
import fcntl
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch

import evaluate
import train_expert
from data import loader
from support import checkpoint as ckpt
from support import files
from support.settings import BadInput

HERE = Path(__file__).parent


@pytest.fixture
def copy(tiny, tmp_path):
    """A copy of `tiny`, in memory where there is such a folder: these runs write a lot."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path) as folder:
        yield shutil.copytree(tiny, Path(folder) / "tiny")


def torture(what, folder, n):
    done = subprocess.run([sys.executable, HERE / "torture.py", what, folder, str(n)], capture_output=True, text=True,
                          timeout=100, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.long
def test_killed_at_random_moments_every_stage_ends_with_the_same_weights(copy):
    """`make torture` does it 30 times."""
    assert torture("kill", copy, 3) == dict.fromkeys(("train", "finetune", "sample", "mix"), 3)


@pytest.mark.long
def test_going_on_again_and_again_leaves_nothing_behind(copy):
    """`make torture` does it 500 times."""
    result = torture("soak", copy, 25)
    assert result["ended"] > 2 and result["memory"] < 1.1


def test_a_second_run_with_the_same_output_is_refused(tiny, tmp_path):
    arguments = ["--init", str(tiny / "seed.pt"), "--data", "math", "--data_dir", str(tiny / "data"), "--steps", "1",
                 "--device", "cpu", "--out", str(tmp_path / "a.pt")]
    with files.output(tmp_path / "a.pt"):
        done = subprocess.run([sys.executable, "train_expert.py", *arguments], cwd=HERE.parent, capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "another run" in done.stderr
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".a.pt.lock").touch()  # that of a run that was killed
    (tmp_path / ".a.state.part").touch()
    train_expert.main(arguments)
    assert {p.name for p in tmp_path.iterdir()} == {"a.pt"}
    for name in evaluate.OUTPUTS:
        with files.output(tmp_path / "out" / name), pytest.raises(BadInput, match="another run"):
            evaluate.main([str(tmp_path / "a.pt"), "--data_dir", str(tiny / "data"), "--out", str(tmp_path / "out")])


def test_a_run_whose_reader_has_ended_saves_all_the_same(tiny, tmp_path):
    """As where Ctrl-C ends `train_expert.py 2>&1 | tee log`, tee first."""
    run = subprocess.Popen([sys.executable, "train_expert.py", "--init", tiny / "seed.pt", "--data", "math", "--data_dir",
                            tiny / "data", "--device", "cpu", "--batch_size", "1", "--eval_every", "1000", "--steps", "1000000",
                            "--out", tmp_path / "a.pt"], cwd=HERE.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    run.stderr.read(1)
    run.stderr.close()
    run.stdout.close()
    time.sleep(1)
    assert run.poll() is None
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 128 + signal.SIGINT and [p.name for p in tmp_path.iterdir()] == ["a.state"]


@pytest.mark.parametrize("size", [0, 100, 10_000])
def test_a_disk_that_is_full_leaves_the_last_good_file(tiny, tmp_path, size):
    """In a child process whose files may not grow beyond `size` bytes."""
    ckpt.write(tmp_path / "a.pt", {"model": {"good": torch.ones(1)}})
    script = ("import resource, sys\nfrom support import checkpoint as ckpt\n"
              f"good = ckpt.load({str(tiny / 'seed.pt')!r})\n"
              f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
              f"from support.settings import run\nrun(lambda: ckpt.save({str(tmp_path / 'a.pt')!r}, good))")
    done = subprocess.run([sys.executable, "-c", script], cwd=HERE.parent, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "a.pt: cannot be written" in done.stderr
    assert ckpt.read(tmp_path / "a.pt")["model"] == {"good": torch.ones(1)} and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("nth", [1, 2])
def test_any_write_of_a_run_may_fail(tiny, tmp_path, monkeypatch, nth):
    """The state, the checkpoint: one line, and what was saved before is whole."""
    real, calls = os.fsync, []

    def fsync(file):
        calls.append(file)
        if len(calls) == nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file)
    arguments = ["--init", str(tiny / "seed.pt"), "--data", "math", "--data_dir", str(tiny / "data"), "--steps", "4", "--resume",
                 "--device", "cpu", "--batch_size", "2", "--save_every", "2", "--eval_every", "2", "--out", f"{tmp_path}/a.pt"]
    with monkeypatch.context() as patch, pytest.raises(BadInput, match="No space left"):
        patch.setattr(os, "fsync", fsync)
        train_expert.main(arguments)
    assert not (tmp_path / "a.pt").exists() and not list(tmp_path.glob(".*"))
    assert (tmp_path / "a.state").exists() == (nth > 1)
    train_expert.main(arguments)
    assert {p.name for p in tmp_path.iterdir()} == {"a.pt"}


WORDS = [b"{", b"[", b"]", b",", b'"', b"null", b"NaN", b"-1", b"1e999", b"9" * 400, b"true", b"\n", b"\\ud800", b"\xff"]


def damaged(good, rng, text=False):
    """The bytes of a file with some bits turned, cut off, or a part copied over another; in a text also with other words."""
    data, kind = bytearray(good), rng.randrange(5 if text else 4)
    if kind == 0:
        for _ in range(rng.choice((1, 1, 8, 64))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[rng.randrange(len(data)):]
    else:
        a, b, n = rng.randrange(len(data)), rng.randrange(len(data)), rng.choice((4, 16, 64, 1024))
        if kind == 4:
            data[a:a + rng.choice((0, 1, 4))] = rng.choice(WORDS)
        elif kind == 2:
            data[a:a + n] = data[b:b + n]
        else:
            del data[a:a + n]
    return bytes(data)


@hypothesis.settings(max_examples=200, deadline=None, database=None)
@hypothesis.given(st.binary(max_size=100))
def test_any_bytes_are_no_checkpoint(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "bytes.pt"
    path.write_bytes(data)
    with pytest.raises(BadInput):
        ckpt.load(path)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limit is set from Linux's own count")
def test_damaged_checkpoints_are_refused_or_whole(tiny, tmp_path):
    """2,000 of them, with too little memory for one that lies about its size."""
    good, rng, refused = (tiny / "btx_mixed.pt").read_bytes(), random.Random(0), 0
    shapes = {name: t.shape for name, t in ckpt.load(tiny / "btx_mixed.pt")["model"].items()}
    path, before = tmp_path / "a.pt", resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (int(Path("/proc/self/statm").read_text().split()[0]) * 4096 + 2**30, before[1]))
    try:
        for _ in range(2000):
            path.write_bytes(damaged(good, rng))
            try:
                model = ckpt.build(ckpt.load(path))
            except BadInput as error:
                assert "\n" not in str(error)
                refused += 1
            else:
                assert all(t.shape == shapes.get(name, t.shape) for name, t in model.state_dict().items())
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert 500 < refused < 2000


def read_state(tiny, path):
    """As a run of ten steps would that goes on from it."""
    model = ckpt.build(ckpt.load(tiny / "math.pt")).train()
    settings = train_expert.TrainSettings(steps=10, resume=True)
    optimizer = train_expert.make_optimizer(model, settings)
    ckpt.load_state(path, model, optimizer, settings, {"lr": 0.1})
    assert {t.shape for entry in optimizer.state.values() for t in entry.values()} <= {p.shape for p in model.parameters()} | {()}


def write_state(tiny, path):
    """The state that read_state takes, after a step of it."""
    model = ckpt.build(ckpt.load(tiny / "math.pt")).train()
    optimizer = train_expert.make_optimizer(model, train_expert.TrainSettings())
    model(torch.ones(1, 9, dtype=torch.int64), torch.ones(1, 9, dtype=torch.int64))[1].backward()
    optimizer.step()
    ckpt.save_state(path, model, optimizer, {"step": 1, "seconds": 1.0, "settings": {"lr": 0.1}, "log": []})


FILES = {  # kind: (the file, is it text, how it is read from the folder it lies in)
    "state": ("a.state", False, lambda tiny, folder: read_state(tiny, folder / "a.pt")),
    "meta": ("math/meta.json", True, lambda tiny, folder: loader.read_domain(folder, "math")),
    "tasks": ("math/tasks.jsonl", True, lambda tiny, folder: evaluate.read_tasks(
        {"math": {"tasks.jsonl": np.fromfile(folder / "math/tasks.jsonl", "u1")}}, "math", 9)),
    "text": ("math/val.bin", False, lambda tiny, folder: loader.read_domain(folder, "math"))}


@pytest.mark.parametrize("n", [100, pytest.param(2000, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", FILES)
def test_damaged_files_are_refused_in_one_line_or_fit(tiny, tmp_path, kind, n):
    name, text, read = FILES[kind]
    shutil.copytree(tiny / "data" / "math", tmp_path / "math")
    write_state(tiny, tmp_path / "a.pt")
    read(tiny, tmp_path)
    good, rng, refused = (tmp_path / name).read_bytes(), random.Random(n), 0
    for _ in range(n):
        (tmp_path / name).write_bytes(damaged(good, rng, text))
        try:
            read(tiny, tmp_path)
        except BadInput as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > n / 10


def test_the_library_safetensors_reads_our_checkpoints(tiny):
    """transformers brings it along."""
    library = pytest.importorskip("safetensors.torch")
    ours, theirs = ckpt.load(tiny / "btx_mixed.pt")["model"], library.load_file(tiny / "btx_mixed.pt")
    assert {f"model/{name}" for name in ours} == theirs.keys()
    assert all(torch.equal(t, theirs[f"model/{name}"]) for name, t in ours.items())


def test_nothing_is_unpickled():
    """Nor executed, in all of the code but for our own expressions in data/code.py."""
    files = [p for p in HERE.parent.rglob("*.py") if p.relative_to(HERE.parent).parts[0] not in ("tests", ".venv", "out")]
    sources = {p: p.read_text() for p in files}
    for word in ("torch.load(", "torch.save(", "import pickle", "np.load(", "allow_pickle", " exec(", "shell=True"):
        assert not any(word in text for text in sources.values()), word
    assert [p.name for p, text in sources.items() if re.search(r"(?<!\.)\beval\(", text)] == ["code.py"]


def test_the_lock_is_gone_with_its_process(tmp_path):
    with open(tmp_path / ".a.pt.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BadInput, match="another run"), files.output(tmp_path / "a.pt"):
            pass
    with files.output(tmp_path / "a.pt"):
        pass


def test_a_run_that_is_refused_leaves_alone_what_the_other_is_writing(tmp_path):
    def write(file):
        file.write(b"half of a checkpoint, ")
        file.flush()
        with pytest.raises(BadInput, match="another run"), files.output(tmp_path / "a.pt"):
            pass
        file.write(b"and the other half")
    with files.output(tmp_path / "a.pt"):
        files.write_whole(tmp_path / "a.pt", write)
    assert (tmp_path / "a.pt").read_bytes() == b"half of a checkpoint, and the other half"
