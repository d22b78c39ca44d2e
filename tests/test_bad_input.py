"""What a user gets wrong ends with one line that names it, with exit code 2, and with nothing written."""
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from cli import run

ROOT = Path(__file__).parent.parent
DATA = "--data math --data_dir {tiny}/data --device cpu --steps 1 --out new/a.pt"
NEW = f"train_expert {DATA} --n_layer 1 --n_embd 16 --n_head 2 --block_size 32"
BRANCH = f"train_expert {DATA} --init {{tiny}}/seed.pt"
FINETUNE = f"finetune_router {DATA} --init {{tiny}}/btx_mixed.pt"
MIX = "mix {tiny}/seed.pt {tiny}/math.pt --out new/a.pt"
WRONG = {  # a command without a mistake: {what is added, where the last of two equal options counts: what is answered}
    NEW: {"--nosuch 1": "--nosuch", "--steps 1.5": "--steps", "--steps 0": "--steps", "--device nosuch": "nosuch",
          "--data poems": "poems", "--data switch": "switch", "--data_dir x": "x: no", "--n_embd 18 --n_head 6": "RoPE",
          "--lr -1": "--lr", "--seed -1": "--seed", "--block_size 5000": "--block_size", "--out new/a.state": ".pt",
          "--batch_size 6 --grad_accum 4": "--grad_accum", "--n_head 4 --n_kv_head 3": "n_kv_head", "--shard": "GPU"},
    BRANCH: {"--d_ff 16": "--d_ff", "--tie_weights": "--tie_weights", "--init {tiny}/btx_mixed.pt": "finetune_router",
             "--out {tiny}/seed.pt": "would be lost"},
    FINETUNE: {"--init {tiny}/math.pt": "mix.py", "--init none.pt": "none.pt", "--train x": "--train",
               "--batch_size 6 --grad_accum 4": "--grad_accum", "--out {tiny}/seed.pt/a.pt": "seed.pt/a.pt"},
    MIX: {"--top_k 3": "--top_k", "--top_k 1": "--top_k", "--out {tiny}/seed.pt/a.pt": "seed.pt/a.pt"}}
READERS = (f"{BRANCH} --init bad.state", f"{FINETUNE} --init bad.state", f"{BRANCH} --out bad.pt",
           "mix bad.state {tiny}/math.pt --out new/a.pt", "evaluate bad.state --out new",
           "sample bad.state --html new/a.html", "data.prepare --domains math --init bad.state --out new")


@pytest.fixture
def answer(tiny, tmp_path, monkeypatch, capsys):
    """A function that calls a script in an empty folder. Returns its line of refusal, or "" if it runs."""
    monkeypatch.chdir(tmp_path)

    def answer(line):
        script, *argv = line.format(tiny=tiny).split()
        before = {path: path.read_bytes() for path in Path().rglob("*.*")}
        try:
            run(lambda: import_module(script).main(argv))
        except SystemExit as end:
            said = capsys.readouterr().err
            assert end.code == 2 and said.endswith("\n") and said.count("\n") == 1, said
            assert {path: path.read_bytes() for path in Path().rglob("*.*")} == before, "something was written"
            return said
        return ""
    return answer


@pytest.mark.parametrize("line", WRONG)
def test_without_a_mistake_it_runs(line, answer):
    assert answer(line) == "" and list(Path().rglob("*.*")) == [Path("new/a.pt")]


@pytest.mark.parametrize("line,more", [(line, more) for line in WRONG for more in WRONG[line]])
def test_a_wrong_command_is_refused(line, more, answer):
    assert WRONG[line][more] in answer(f"{line} {more}")


class Code:
    """Unpickled without care, it creates a file."""
    def __reduce__(self):
        return open, ("created.txt", "w")


@pytest.mark.parametrize("line", READERS)
def test_a_foreign_file_is_refused_and_nothing_executed(line, tiny, answer):
    for value in ([1], {"model": {}}, Code(), {"model": Code()}):
        torch.save(value, "bad.state")
        assert "bad.state" in answer(line)
    for content in (b"", b"a text", (tiny / "seed.pt").read_bytes()[:-100]):
        Path("bad.state").write_bytes(content)
        assert "bad.state" in answer(line)


def test_models_that_do_not_fit_are_refused(tiny, answer):
    good = torch.load(tiny / "math.pt", weights_only=True)
    for key, value, named in (("config", good["config"] | {"d_ff": 32}, "d_ff"), ("ledger", [], "no branches of one"),
                              ("tokenizer", good["tokenizer"] | {"fingerprint": "other"}, "different tokenizers")):
        torch.save(good | {key: value}, "other.pt")
        assert named in answer("mix {tiny}/seed.pt other.pt --out new/a.pt")
    assert "different tokenizers" in answer(f"{BRANCH} --init other.pt")
    torch.save(good | {"tokenizer": good["tokenizer"] | {"fingerprint": "other"}, "experts": ["a", "b"]}, "other.pt")
    assert "different tokenizers" in answer(f"{FINETUNE} --init other.pt")


def test_a_process_ends_with_code_2():
    done = subprocess.run([sys.executable, ROOT / "mix.py", "no.pt", "--out", "a.pt"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "mix.py: no.pt: no such file\n")
