"""Whatever a user gets wrong, a script says so in one line, exits with code 2, and writes nothing."""
import io
import json
import math
import os
import pickle
import re
import resource
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import torch
from tiny import forge, last_counts

import evaluate
import finetune_router
import mix
import sample
import train_expert
from data import prepare, tokenizer
from data.loader import FILES
from experiments import bench, budget, grid, paper, regimes, texts
from model import GPT, GPTConfig
from support import checkpoint as ckpt
from support import settings

ROOT = Path(__file__).parent.parent
SCRIPTS = {"train_expert": train_expert, "mix": mix, "finetune_router": finetune_router, "evaluate": evaluate,
           "sample": sample, "data.prepare": prepare, "budget": budget, "paper": paper, "regimes": regimes,
           "bench": bench, "grid": grid, "texts": texts}

# Commands without a mistake; what follows an option on the command line overrides it.
DATA = "--data_dir {tiny}/data --device cpu"
TRAIN = (f"train_expert {DATA} --data math --out new/o.pt --steps 2 "
         "--n_layer 1 --n_embd 16 --n_head 2 --d_ff 16 --block_size 32")
BRANCH = f"train_expert {DATA} --data math --out new/o.pt --steps 2 --init {{tiny}}/seed.pt"
FINETUNE = f"finetune_router {DATA} --data math --out new/o.pt --steps 2 --init {{tiny}}/btx_mixed.pt"
MIX = "mix {tiny}/seed.pt {tiny}/math.pt --out new/o.pt"
EVALUATE = f"evaluate {{tiny}}/math.pt {DATA} --out new/folder"
SAMPLE = "sample {tiny}/btx_mixed.pt --device cpu --tokens 3 --html new/o.html"
PREPARE = "data.prepare --domains math --train_tokens 300 --val_tokens 100 --tasks 2 --out new/data"
GOOD = {"new/o.pt": (TRAIN, BRANCH, FINETUNE, MIX), "new/folder/report.md": (EVALUATE,), "new/o.html": (SAMPLE,),
        "new/data/math/meta.json": (PREPARE,)}


def run(line, tiny):
    script, *argv = shlex.split(line.format(tiny=tiny))
    settings.run(lambda: SCRIPTS[script].main(last_counts(argv)))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: empty but for `file`, which holds some text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("only some text\n" * 20)
    return tmp_path


@pytest.fixture
def refused(tiny, folder, capsys):
    """A function that runs a command line which must be refused, and returns the line on stderr."""
    def snapshot():
        return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}

    def check(line):
        before = snapshot()
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            run(line, tiny)
        err = capsys.readouterr().err
        assert exit.value.code == 2
        assert err.endswith("\n") and err.count("\n") == 1, f"not one line: {err}"
        assert snapshot() == before, "something was written"
        return err
    return check


@pytest.mark.parametrize("made, line", [(made, line) for made, lines in GOOD.items() for line in lines])
def test_without_a_mistake_it_runs_and_creates_the_folder(made, line, tiny, folder):
    run(line, tiny)
    assert (folder / made).stat().st_size > 0


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_names_every_option(name, capsys):
    with pytest.raises(SystemExit) as exit:
        SCRIPTS[name].main(["--help"])
    out = capsys.readouterr().out
    assert exit.value.code == 0
    for f in fields(SCRIPTS[name].Settings):
        assert (f.name if f.metadata.get("positional") else f"--{f.name}") in out


class Evil:
    """Unpickled without care, it creates a file."""

    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return open, (self.file, "w")


PROCESSES = ["train_expert.py --out new/o.pt --data_dir {tiny}/data --data math --init {tmp}/evil.pt",
             "mix.py nowhere.pt --out new/o.pt", "-m data.prepare --tasks many", "sample.py {tiny}/math.pt --experts"]


@pytest.mark.parametrize("line", PROCESSES)
def test_a_process_exits_with_code_2_and_one_line(line, tiny, tmp_path):
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil(tmp_path / "created"), protocol=4))
    command = line.format(tiny=tiny, tmp=tmp_path).split()
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.endswith("\n") and done.stderr.count("\n") == 1, done.stderr
    script = "prepare.py" if command[0] == "-m" else command[0]
    assert done.stderr.startswith(f"{script}: ")
    assert [p.name for p in tmp_path.iterdir()] == ["evil.pt"] and not (ROOT / "new").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_a_full_standard_output_is_one_line(tiny):
    done = subprocess.run(f"{sys.executable} sample.py {tiny}/math.pt --tokens 3 --device cpu > /dev/full", shell=True, cwd=ROOT,
                          stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr == "sample.py: standard output: No space left on device\n"
    assert subprocess.run(f"{sys.executable} sample.py 2> /dev/full", shell=True, cwd=ROOT).returncode == 2


# ---- the command line ----------------------------------------------------------------------------------------------

LONG = "x" * 300
CASES = {  # a command without a mistake, and what makes it wrong: (more options, what the message must name)
    TRAIN: [
        ("--out new/o.state", "--out"), ("--data math=0.5,poems=0.5", "poems"), ("--data ''", "--data"),
        ("--data math,math", "math"), ("--data math=-1,code=2", "math=-1"), ("--data math=0,code=0", "zero"),
        ("--data math=half", "math=half"), ("--data math=nan", "math=nan"), ("--data math=inf,code=1", "math=inf"),
        ("--data math=1e308,code=1e308", "--data"), ("--data switch", "testing alone"), ("--data math=", "math="),
        ("--data math:0.5", "domain=weight"), ("--data math=0.5 general=0.5", "commas"), ("--data_dir nowhere", "nowhere"),
        ("--block_size 3000", "3000"), ("--batch_size 8 --grad_accum 3", "--grad_accum"),
        ("--n_head 3", "n_head"), ("--n_embd 6 --n_head 2", "n_embd"), ("--n_kv_head 5", "n_kv_head"),
        ("--device nosuch", "nosuch"), ("--device meta", "meta"), ("--device mkldnn", "mkldnn"), ("--block 32", "--block_size"),
        ("--init {tiny}/seed.pt --out {tiny}/seed.pt", "is an input"),
        ("--init {tiny}/seed.pt --n_layer 4", "--n_layer"), ("--shard", "--shard"), ("--data math=5e-324,code=3", "far apart"),
        ("--n_embd 200000000 --n_head 2", "--n_embd"), ("--device privateuseone", "privateuseone")],
    BRANCH: [("--block_size 3000", "3000"), ("--d_ff 32", "--d_ff")],
    FINETUNE: [
        ("--data poems", "poems"), ("--data math=-0.1", "math=-0.1"), ("--block_size 3000", "3000"),
        ("--data math=1,code=0", "code=0"), ("--out {tiny}/btx_mixed.pt", "is an input"), ("--init {tiny}/math.pt", "math.pt")],
    MIX: [
        ("--top_k 3", "--top_k"), ("--top_k -1", "--top_k"),
        ("--soup --routing sample", "--routing"), ("--soup --top_k 3", "--top_k"), ("--split 1000000000", "--split"),
        ("--split 3", "--split"), ("--split 2 --blend", "--split"), ("--split 2 --soup", "--soup"),
        ("--routing soft --top_k 3", "--top_k"), *((f"--router_data {names}", "--router_data") for names in ("math", "a,a", ",")),
        ("--router_data math,nosuch --data_dir {tiny}/data", "nosuch"), ("--router_data math,code --blend", "--blend")],
    EVALUATE: [
        ("--out file", "file"), ("--data_dir nowhere", "nowhere"), ("--btm code", "code"), ("--btm math,math", "twice"),
        ("--btm math --btm_methods vote:1", "vote:1"), ("--btm math --btm_methods bayes:0", "bayes:0"),
        ("--btm math --btm_methods bayes:2", "bayes:2"), ("--btm math --btm_methods bayes:1,bayes:1", "bayes"),
        ("--btm math --btm_methods tfidf:1 --data_dir nowhere", "nowhere"), ("--btm_methods tfidf:1", "--btm")],
    SAMPLE: [
        ("--html {tiny}/data", "data: "), (f"--prompt '{'word ' * 40}'", "--prompt"),
        ("--layer 3 --experts", "--layer"), ("--layer 1", "--experts")],
    PREPARE: [
        ("--domains ''", "--domains"), ("--tasks 2 math", "math"), ("--out file", "file"), ("--domains math,poems", "poems"),
        ("--domains '' --text a=~nosuch/x", "nosuch"), ("--domains math,math", "twice"), ("--init file", "file"),
        ("--tokenizer nosuch", "nosuch"), ("--text poems=nowhere", "nowhere"), ("--domains '' --text poems", "poems"),
        ("--domains '' --text poems=", "poems"), ("--domains '' --text poems=/dev/null", "/dev/null"),
        ("--domains '' --text math=file", "math"), ("--domains '' --text ../poems=file", "../poems"),
        ("--domains '' --text poems=*.nothing", "*.nothing"), ("--domains '' --text poems=file poems=nowhere", "nowhere")],
    "": [
        *((f"{line} {option} ''", option) for line, option in ((TRAIN, "--init"), (EVALUATE, "--out"), (PREPARE, "--init"))),
        ("evaluate {tiny}/math.pt {DATA} --out new/folder --btm ,", "--btm"), ("train_expert {DATA} --data math", "--out"),
        ("finetune_router {DATA} --data math --out new/o.pt", "--init"),
        ("mix {tiny}/seed.pt", "--out"), ("mix --out new/o.pt", "checkpoints"), ("evaluate {DATA}", "checkpoints"),
        ("sample --device cpu", "one checkpoint"), ("sample {tiny}/math.pt {tiny}/code.pt --device cpu", "one checkpoint"),
        ("mix {tiny}/seed.pt {tiny}/btx_mixed.pt --out new/o.pt", "btx_mixed.pt"),
        ("mix {tiny}/btx_mixed.pt {tiny}/seed.pt --soup --out new/o.pt", "--soup"),
        ("mix {tiny}/btx_mixed.pt {tiny}/seed.pt --routing topk --out new/o.pt", "--routing"),
        ("mix {tiny}/btx_mixed.pt {tiny}/seed.pt --top_k 2 --out new/o.pt", "--top_k"),
        ("mix {tiny}/btx_mixed.pt {tiny}/btx_mixed.pt --out new/o.pt", "btx_mixed.pt"),
        ("mix {tiny}/btx_mixed.pt --out new/o.pt", "btx_mixed.pt"), ("mix {tiny}/seed.pt --soup --out new/../o.pt", "new/.."),
        ("evaluate {tiny}/math.pt {tiny}/math.pt {DATA} --out new/folder", "math"),
        ("evaluate {tiny}/btx_mixed.pt {DATA} --out new/folder --btm btx_mixed", "btx_mixed"), ("evaluate 'a|b.pt'", "has a |"),
        ("mix {tiny}/seed.pt 'a\nb\x1b[2J.pt' --out new/o.pt", "a\\nb\\x1b[2J.pt"), ("mix no.state --out new/o.pt", "no.state"),
        ("mix {tiny}/seed.pt {tiny}/math.pt --out {tiny}/math.pt", "math.pt"),
        ("mix {tiny}/seed.pt {tiny}/math.pt --out {tiny}/nowhere/../math.pt", "is an input"),
        (f"{PREPARE} --domains '' --text poems=file songs=file", "share a file"),
        ("sample {tiny}/btx_mixed.pt --html {tiny}/btx_mixed.pt", "btx_mixed.pt"),
        ("sample {tiny}/seed.pt {tiny}/math.pt --html new/o.html", "--btm"),
        ("sample {tiny}/seed.pt {tiny}/btx_mixed.pt --btm bayes:1", "btx_mixed.pt"),
        ("sample {tiny}/seed.pt {tiny}/math.pt --btm bayes", "bayes"), ("mix {tiny}/seed.pt no.pt --out o.pt", "no.pt"),
        ("sample {tiny}/seed.pt {tiny}/math.pt --btm tfidf:1 --data_dir nowhere", "--data_dir"),
        ("mix {tiny}/seed.pt {tiny}/seed.pt {tiny}/seed.pt --blend --out new/o.pt", "--blend"),
        ("budget {tiny}/seed.pt {tiny}/math.pt --like {tiny}/math.pt --since {tiny}/seed.pt", "one checkpoint"),
        ("budget {tiny}/seed.pt --since {tiny}/seed.pt", "--like"),
        ("budget {tiny}/btx_mixed.pt --like {tiny}/math.pt --since {tiny}/seed.pt", "btx_mixed"), ("paper", "files of the runs"),
        ("paper nowhere --out new", "nowhere"), ("regimes", "folders"), ("regimes nowhere --out new", "nowhere"),
        *((f"{PREPARE} --tokenizer {name} --init {{tiny}}/seed.pt", "--tokenizer") for name in ("btx", "gpt2")),
        ("bench loader {DATA} --out {tiny}/data/math/meta.json", "is an input"),
        ("bench loader {DATA} --block_size 4000", "4000"),
        ("bench forward --n_expert 2 --top_k 3 --out new/b.json", "top_k"), ("grid nowhere", "nowhere"), ("grid", "folders"),
        ("texts nowhere", "nowhere"), ("texts", "folder"), ("bench branches --data_dir nowhere --out new/b.json", "branches"),
        (f"{EVALUATE} --figures --no-figures", "--figures"),
        ("sample {tiny}/math.pt --experts", "math.pt"), ("sample {tiny}/math.pt --html new/o.html", "math.pt")]}
WRITERS = [(TRAIN, "--out", ".pt"), (FINETUNE, "--out", ".pt"), (MIX, "--out", ".pt"), (EVALUATE, "--out", ""),
           (SAMPLE, "--html", ".html"), (PREPARE, "--out", "")]
WRONG = [(f"{base} {more}".replace("{DATA}", DATA).replace("{here}", __file__), named)
         for base, cases in CASES.items() for more, named in cases]
WRONG += [(f"{line} {option} {place}{ending}", place.removesuffix("/o"))
          for line, option, ending in WRITERS for place in ("file/o", "file/deep/o", "/dev/null/o", ".new/o", ".a.part/o", LONG)]
WRONG += [(f"{line} --out {{tiny}}/data", "--out") for line in (TRAIN, FINETUNE, MIX)]


@pytest.mark.parametrize("line", [SAMPLE, EVALUATE.replace("math.pt", "btx_mixed.pt"), EVALUATE + " --no-figures"])
def test_a_model_that_breaks_on_the_way_leaves_no_folder(line, tiny, folder, monkeypatch):
    def forward(*arguments, **options):
        raise ValueError("broken")
    monkeypatch.setattr(GPT, "forward", forward)
    with pytest.raises(SystemExit):
        run(line, tiny)
    assert not Path("new").exists()


def test_compile_says_which_compiler_it_lacks(refused, monkeypatch):
    monkeypatch.setenv("CXX", "nosuch++")
    assert "nosuch++" in refused(TRAIN + " --compile")


@pytest.mark.parametrize("line,named", WRONG)
def test_wrong_commands(line, named, refused):
    assert named in refused(line)


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe"])
def test_empty_text_is_refused(content, refused, folder):
    (folder / "texts").mkdir()
    (folder / "texts" / "page").write_bytes(content)
    for path in ("texts", "texts/page"):
        assert path in refused(f"{PREPARE} --domains '' --text poems={path}")


def test_a_text_is_not_read_where_it_is_written(folder, refused):
    (folder / "out" / "poems").mkdir(parents=True)
    (folder / "out" / "poems" / "train.bin").write_text("a poem " * 20)
    for path in ("out/poems", "out", "out/poems/train.bin", "out/poems/t*", "o*"):
        assert "choose another --out" in refused(f"{PREPARE} --domains '' --text poems={path} --out out")
    (folder / "new").mkdir()
    (folder / "new" / "poems").symlink_to("../out/poems")
    assert "is a link" in refused(f"{PREPARE} --domains '' --text poems=out/poems --out new")


@pytest.mark.parametrize("line,name", [(TRAIN, "o.pt"), (MIX, "o.pt"), (EVALUATE, "folder/report.md"),
                                       (EVALUATE, "folder/figures/curves.png"), (SAMPLE, "o.html")])
@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
def test_what_is_no_file_is_not_written_over(line, name, make, folder, refused):
    (folder / "new" / name).parent.mkdir(parents=True)
    make(folder / "new" / name)
    assert Path(name).name in refused(line)


@pytest.mark.parametrize("line,name", [
    ("sample l.pt --html x.html --tokens 2 --device cpu", "x.html"), (f"evaluate l.pt {DATA} --out . --no-figures", "report.md"),
    *((line, f"new/{name}") for name in (".o.pt.part", ".o.pt.lock", ".o.state.part", "o.state")
      for line in (f"{BRANCH} --init l.pt", f"{FINETUNE} --init l.pt", "mix {tiny}/seed.pt l.pt --out new/o.pt")),
    *((f"{PREPARE} --domains '' --text a=file {more}", "new/data/a/.new/s.pt") for more in ("--init l.pt", "--text b=l.pt")),
    (f"{PREPARE} --init l.pt", "new/data/math/train.bin"), ("sample l.pt --html 'a\nb.html' --device cpu", ".a\nb.html.part")])
def test_an_input_by_another_name_is_not_written_over(line, name, tiny, folder, refused):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(tiny / ("btx_mixed.pt" if re.match("sample|fine", line) else "math.pt"), folder / name)
    (folder / "l.pt").symlink_to(name)
    assert re.search("is an input|temporary files|was left", refused(line))


@pytest.mark.parametrize("line,out", [(TRAIN, "o.pt"), (FINETUNE, "o.pt"), (MIX + " --router_data general,math", "o.pt"),
                                      (EVALUATE, "folder/figures/curves.png"), (SAMPLE, "o.html"), ("bench --out new/b", "b")])
def test_data_is_not_written_over(line, out, tiny, folder, refused):
    shutil.copytree(tiny / "data", folder / "data")
    (folder / "new" / out).parent.mkdir(parents=True)
    (folder / "data" / "wiki" / "val.bin").rename(folder / "new" / out)
    (folder / "data" / "wiki" / "val.bin").symlink_to(folder / "new" / out)
    assert "is an input" in refused(f"{line} --data_dir data")


@pytest.mark.parametrize("line,out", [(TRAIN, "o.pt"), (MIX, "o.pt"), (EVALUATE, "folder/figures/curves.png"), (SAMPLE, "o.html"),
                                      (PREPARE + " --domains math,wiki", "data/wiki/meta.json")])
def test_what_cannot_be_replaced_is_told_before_anything_is_written(line, out, tiny, folder, refused, monkeypatch):
    run(line, tiny)
    real = os.open

    def fail(path, flags, *mode):
        if Path(path) == Path("new", out) and flags & os.O_WRONLY:  # as of an immutable file, or another user's
            raise PermissionError(1, "Operation not permitted")
        return real(path, flags, *mode)
    monkeypatch.setattr(os, "open", fail)
    assert "Operation not permitted" in refused(line)


@pytest.mark.parametrize("line,name", [(MIX, "new/.o.pt.part"), (PREPARE, "new/data/math/.new")])
def test_a_link_in_place_of_a_temporary_file_is_not_followed(line, name, folder, tiny):
    (folder / name).parent.mkdir(parents=True)
    for target in ("file", "precious"):
        (folder / "precious").mkdir(exist_ok=True)
        (folder / "precious" / "train.bin").write_text("mine")
        (folder / name).symlink_to(folder / target)
        before = {p: p.read_bytes() for p in (folder / "file", folder / "precious" / "train.bin")}
        run(line, tiny)
        assert before == {p: p.read_bytes() for p in before} and not [*folder.glob("new/**/.*"), *folder.glob("precious/[!t]*")]


def test_a_tokenizer_that_cannot_be_downloaded(refused, monkeypatch):
    def offline(name):
        raise ConnectionError("no network\nat all")
    monkeypatch.setattr(tokenizer.tiktoken, "get_encoding", offline)
    assert "gpt2" in refused(f"{PREPARE} --tokenizer gpt2")


def options():
    """(script, name of the option, its default, what is said of it) of all scripts, from their dataclasses."""
    for script, module in SCRIPTS.items():
        for f in fields(module.Settings):
            if not f.metadata.get("positional"):
                yield script, f.name, f.default_factory() if f.default is MISSING else f.default, f.metadata


def wrong_values():
    """(script, option, arguments of the wrong type, number or choice) of all options of all scripts."""
    for script, name, default, about in options():
        if isinstance(default, bool):
            yield script, name, [f"--{name}=maybe"]
            continue
        yield script, name, [f"--{name}"]  # without a value
        words = {int: ["x", "1.5", "", "nan", "1e3"], float: ["x", "", "1,5"]}.get(type(default), [])
        if isinstance(default, float) and about.get("low") is not None:
            words.append("nan")
        if about.get("low") is not None:
            words.append(str(about["low"] - 1))
        if type(default) in (int, float):
            words.append(str(about.get("high", settings.MAX) + 1))
        words += ["inf"] * isinstance(default, float)
        if "choices" in about:
            words.append("3" if isinstance(default, int) else "nosuch")
        for word in words:
            yield script, name, [f"--{name}", word]


def test_every_number_has_bounds():
    assert [(script, name) for script, name, default, about in options() if type(default) in (int, float)
            and about.get("low") is None and "choices" not in about] == []


@pytest.mark.parametrize("script, name, arguments", list(wrong_values()), ids=str)
def test_wrong_values(script, name, arguments, refused):
    assert f"--{name}" in refused(shlex.join([script, *arguments]))


@pytest.mark.parametrize("arguments", ["--steps 1e3", "--out", "--dtype float16", "--lr -1"])
def test_known_options_are_not_answered_with_another(arguments, refused):
    assert "did you mean" not in refused(f"train_expert {arguments}")


@pytest.mark.parametrize("script, name", [option[:2] for option in options()])
def test_unknown_options_are_answered_with_the_nearest(script, name, refused):
    misspelt = f"--{name[0]}{name}"
    err = refused(f"{script} {misspelt} 1")
    assert misspelt in err and f"did you mean --{name}?" in err


def test_an_option_that_is_given_twice_is_refused(tiny, tmp_path):
    for more in (["--data", "code"], ["--data=code"]):
        with pytest.raises(settings.BadInput, match="--data is given more than once"):
            train_expert.main(["--out", str(tmp_path / "o.pt"), "--data", "math", *more])


# ---- checkpoints ---------------------------------------------------------------------------------------------------

# `bad.pt` is made of math.pt, for finetune_router of btx_mixed.pt
READERS = {"train_expert": f"{BRANCH} --init bad.pt", "finetune_router": f"{FINETUNE} --init bad.pt",
           "mix": "mix bad.pt {tiny}/seed.pt --out new/o.pt", "mix, second": "mix {tiny}/seed.pt bad.pt --out new/o.pt",
           "evaluate": f"evaluate bad.pt {DATA} --out new/folder", "sample": "sample bad.pt --device cpu --tokens 3",
           "sample, second": "sample {tiny}/math.pt bad.pt --btm bayes:1 --device cpu --tokens 3"}
readers = pytest.mark.parametrize("reader", READERS)


def base(tiny, reader):
    return tiny / ("btx_mixed.pt" if reader == "finetune_router" else "math.pt")


def forged(good, change):
    """The bytes of a checkpoint whose header was changed, by a function that is called with it."""
    n = 8 + int.from_bytes(good[:8], "little")
    header = json.loads(good[8:n])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + good[n:]


def torch_saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def plainly(**values):
    """A change of the header's plain part."""
    def change(header):
        plain = json.loads(header["__metadata__"]["plain"]) | values
        header["__metadata__"]["plain"] = json.dumps(plain)
    return change


T = "model/blocks.0.attn.wq.weight"  # F32, (16, 16)
NOT_CHECKPOINTS = {  # what it is: its bytes, given those of a good checkpoint
    "empty": lambda good: b"",
    "a text": lambda good: b"only some text\n" * 20,
    "half of a checkpoint": lambda good: good[:len(good) // 2],
    "a checkpoint but for its end": lambda good: good[:-100],
    "a checkpoint but for its start": lambda good: good[100:],
    "a checkpoint and more": lambda good: good + b"x",
    "a malicious pickle": lambda good: pickle.dumps(Evil("created"), protocol=2),
    "a malicious one of torch": lambda good: torch_saved({"model": Evil("created")}),
    "a header of any length": lambda good: b"\xff" * 7 + good[7:],
    "a list for a header": lambda good: (2).to_bytes(8, "little") + b"[]",
    "a deep header": lambda good: (10**5).to_bytes(8, "little") + b"[" * 10**5,
    "no plain part": lambda good: forged(good, lambda h: h.pop("__metadata__")),
    "NaN in the plain part": lambda good: forged(good, plainly(experts=math.nan)),
    "no dictionary": lambda good: forged(good, lambda h: h["__metadata__"].update(plain="5")),
    "tensors in the plain part": lambda good: forged(good, plainly(model=5)),
    "what can be read, but not written": lambda good: forged(good, plainly(log=json.loads("[" * 900 + "]" * 900))),
    "integers": lambda good: forged(good, lambda h: h[T].update(dtype="I32")),
    "more numbers than there are": lambda good: forged(good, lambda h: h[T].update(shape=[10**12, 16])),
    "fewer numbers than there are": lambda good: forged(good, lambda h: h[T].update(shape=[16, 15])),
    "a negative shape": lambda good: forged(good, lambda h: h[T].update(shape=[-16, -16])),
    "no shape": lambda good: forged(good, lambda h: h[T].update(shape=None)),
    "half a row": lambda good: forged(good, lambda h: h[T].update(shape=[32, 8.0])),
    "overlapping numbers": lambda good: forged(good, lambda h: h[T].update(data_offsets=[0, 1024])),
    "a tensor of no part": lambda good: forged(good, lambda h: h.update({"config/x": h.pop(T)})),
}


@readers
def test_no_such_model(reader, folder, refused):
    assert "nowhere.pt" in refused(READERS[reader].replace("bad.pt", "nowhere.pt"))
    assert "/data'" in refused(READERS[reader].replace("bad.pt", "{tiny}/data"))
    (folder / "bad.pt").symlink_to("bad.pt")
    assert "bad.pt" in refused(READERS[reader])


@readers
@pytest.mark.parametrize("what", NOT_CHECKPOINTS)
def test_files_that_are_no_checkpoints(what, reader, tiny, folder, refused):
    (folder / "bad.pt").write_bytes(NOT_CHECKPOINTS[what](base(tiny, reader).read_bytes()))
    assert "bad.pt: not a checkpoint" in refused(READERS[reader])
    assert not (folder / "created").exists()


W = "blocks.0.attn.wq.weight"


def change(c, part, **values):
    c[part] |= values


UNFIT = {  # what is wrong: what to do to a good checkpoint
    "NaN": lambda c: c["model"][W].fill_(math.nan),
    "infinity": lambda c: c["model"][W].fill_(-math.inf),
    "a missing tensor": lambda c: c["model"].pop(W),
    "a tensor too many": lambda c: change(c, "model", extra=torch.zeros(2)),
    "a layer too many": lambda c: change(c, "model", **{W.replace("0", "2"): torch.zeros(16, 16)}),
    "a wrong shape": lambda c: change(c, "model", **{W: torch.zeros(16, 8)}),
    "no model": lambda c: c.pop("model"),
    "no log": lambda c: c.pop("log"),
    "more than a checkpoint has": lambda c: c.update(x=1),
    "moments beside the model": lambda c: c.update(moments={"0.exp_avg": torch.zeros(1)}),
    "a log of numbers": lambda c: c.update(log=[1]),
    "more of a tokenizer than there is": lambda c: change(c, "tokenizer", x=1),
    "weights that should be tied": lambda c: change(c, "config", tie_weights=True),
    "two experts of one name": lambda c: c.update(experts=["a", "a"]) or change(c, "config", n_expert=2),
    "a field too many": lambda c: change(c, "config", dropout=0.1),
    "text for a number": lambda c: change(c, "config", n_layer="1"),
    "unknown routing": lambda c: change(c, "config", routing="nosuch"),
    "more heads than fit": lambda c: change(c, "config", n_head=3),
    "negative experts": lambda c: change(c, "config", n_expert=-1),
    "a small claim": lambda c: change(c, "config", d_ff=17) or c["model"].pop(W),
    "a large claim": lambda c: change(c, "config", d_ff=10**12),
    "another vocabulary than the tokenizer's": lambda c: change(c, "tokenizer", vocab_size=512),
    "no fingerprint": lambda c: c["tokenizer"].pop("fingerprint"),
    "no block_size": lambda c: c["config"].pop("block_size"),
    "an empty lineage": lambda c: c.update(lineage=[]),
    "a lineage of numbers": lambda c: c.update(lineage=[3]),
    "a parent that is a number": lambda c: c["lineage"][-1].update(parents=3),
    "parents that are lists": lambda c: c["lineage"][-1].update(parents=[[1]]),
    "an id that is a list": lambda c: c["lineage"][-1].update(id=[1]),
    "no ranks": lambda c: c["lineage"][-1].update(ranks=0),
    "more ranks than numbers hold": lambda c: c["lineage"][-1].update(ranks=10**400),
    "a truth value for a number": lambda c: change(c, "config", n_layer=True),
    "a lineage without its parents": lambda c: c["lineage"][-1].update(parents=["0" * 12]),
    "too many experts": lambda c: c.update(experts=[*"abcd"]),
    "experts without names": lambda c: c.update(experts=[1, 2, 3]),
    **{f"an expert called {n[:9]!r}": lambda c, n=n: c.update(experts=[n, *c["experts"][1:]]) for n in ("", "\n", "x" * 300)},
    "a special token of megabytes": lambda c: change(c, "tokenizer", bpe={
        "pattern": tokenizer.PATTERN, "ranks": tokenizer.FILE.read_text(), "end": "x", "special": {"x": 1023, "y" * 9**7: 1024}}),
} | {f"bpe = {bpe}": lambda c, bpe=bpe: change(c, "tokenizer", bpe=bpe) for bpe in (5, None, [], {"pattern": "x"})
} | {f"{name} = 10**{n}": lambda c, name=name, n=n: change(c, "config", **{name: 10**n}) for n in (9, 30)
     for name in ("vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd", "d_ff", "n_expert")}


@pytest.fixture
def little_memory():
    """On Linux let this process grow by no more than 1 GB."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@readers
@pytest.mark.parametrize("what", UNFIT)
def test_checkpoints_whose_parts_do_not_fit(what, reader, tiny, folder, refused, little_memory):
    c = ckpt.read(base(tiny, reader))
    UNFIT[what](c)
    forge(folder / "bad.pt", c)
    start = time.perf_counter()
    err = refused(READERS[reader])
    assert "bad.pt: " in err and "alloc" not in err
    assert time.perf_counter() - start < 2, "took too long"


def test_models_of_different_seeds_are_refused_in_mix(tiny, folder, refused):
    c = ckpt.read(tiny / "math.pt")
    c["lineage"] = [c["lineage"][-1] | {"id": "0" * 12, "parents": []}]
    forge(folder / "bad.pt", c)
    for soup in ("", "--soup"):
        assert "seed" in refused(f"mix {{tiny}}/seed.pt bad.pt --out new/o.pt {soup}")


@readers
def test_another_tokenizer_is_refused(reader, tiny, folder, refused):
    c = ckpt.read(base(tiny, reader))
    change(c, "tokenizer", fingerprint="0" * 16)
    forge(folder / "bad.pt", c)
    err = refused(READERS[reader])
    assert "bad.pt" in err and "tokenizer" in err


OTHER_SHAPES = {"n_layer": 3, "n_head": 4, "n_kv_head": 1, "n_embd": 32, "d_ff": 32, "vocab_size": 512, "tie_weights": True,
                "rope_theta": 500.0, "norm_eps": 1e-3}


@pytest.mark.parametrize("name, value", OTHER_SHAPES.items())
def test_another_architecture_is_refused_in_mix(name, value, tiny, folder, refused):
    c = ckpt.read(tiny / "math.pt")
    model = GPT(GPTConfig(**c["config"] | {name: value}))
    c["tokenizer"]["vocab_size"] = model.config.vocab_size
    ckpt.save(folder / "bad.pt", ckpt.pack(model.state_dict(), model.config, c["tokenizer"], [], c["lineage"]))
    for models in ("{tiny}/seed.pt bad.pt", "bad.pt {tiny}/seed.pt", "{tiny}/seed.pt {tiny}/math.pt bad.pt"):
        for soup in ("", "--soup"):
            assert name in refused(f"mix {models} --out new/o.pt {soup}")


NOT_STATES = NOT_CHECKPOINTS | {"a checkpoint": lambda good: good, "any value": lambda good: forged(good, plainly(config=5)),
    **{f"plain {it}": lambda good, it=it: forged(b"\2" + bytes(7) + b"{}", lambda h: h.update(__metadata__={"plain": it}))
       for it in ("5", "null", "[]", '"model"', '{"model": 5}')},
    "a claim of much": lambda good: bytes(2**20).join((forged(b"\2" + bytes(7) + b"{}", lambda h: h.update({
        "__metadata__": {"plain": "{}"}, "model/x": {"dtype": "F32", "shape": [2**18], "data_offsets": [0, 2**20]}})), b""))}


@pytest.mark.parametrize("what", NOT_STATES)
def test_a_state_that_is_none_is_not_resumed_nor_written_over(what, tiny, folder, refused):
    (folder / "new").mkdir()
    (folder / "new" / "o.state").write_bytes(NOT_STATES[what]((tiny / "math.pt").read_bytes()))
    assert "o.state" in refused(f"{TRAIN} --resume")
    assert "--resume" in refused(TRAIN) and all("o.state" in refused(line) for line in (TRAIN, MIX, FINETUNE))
    replace(folder / "new" / "o.state", Path.symlink_to, "nowhere")
    assert all("o.state" in refused(line) for line in (TRAIN, f"{TRAIN} --resume"))


# ---- prepared data -------------------------------------------------------------------------------------------------


def edit(path, **values):
    """Change what a meta.json says of its tokenizer."""
    meta = json.loads(path.read_text())
    path.write_text(json.dumps(meta | {"tokenizer": meta["tokenizer"] | values}))


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def halve(path):
    os.truncate(path, path.stat().st_size // 2)


def replace(path, make, *arguments):
    path.unlink()
    make(path, *arguments)


EVERY = (TRAIN, BRANCH, FINETUNE, EVALUATE)
BROKEN_DATA = {  # what is wrong: (what to do to the folder data/, the commands that must notice)
    **{f"{what} of {name}": (lambda d, name=name, spoil_it=spoil_it: spoil_it(d / "math" / name), EVERY)
       for name in FILES for what, spoil_it in {"nothing": Path.unlink, "one bit": flip, "half": halve}.items()},
    "a text elsewhere": (lambda d: flip(d / "code/val.bin"), EVERY),
    "another tokenizer": (lambda d: edit(d / "math/meta.json", fingerprint="0" * 16), (BRANCH, FINETUNE, EVALUATE)),
    "two tokenizers": (lambda d: edit(d / "code/meta.json", fingerprint="0" * 16),
                       (*EVERY, *(f"{line} --data math,code" for line in (TRAIN, BRANCH, FINETUNE)))),
    "no tasks at all": (lambda d: [p.unlink() for p in d.glob("*/tasks.jsonl")], EVERY),
    "a token beyond the vocabulary": (lambda d: edit(d / "math/meta.json", vocab_size=900), EVERY),
    "a vocabulary that is not the tokenizer's": (lambda d: edit(d / "math/meta.json", vocab_size=2048), EVERY),
    **{f"{text[:5]} for a meta": (lambda d, text=text: (d / "math/meta.json").write_text(text), EVERY)
       for text in ("", "[]", "NaN", "[" * 10**5)},
    "no meta": (lambda d: (d / "math/meta.json").unlink(), EVERY),
    "a domain that is a link to nowhere": (lambda d: (d / "other").symlink_to("nowhere"), EVERY),
    "half of a meta": (lambda d: halve(d / "math/meta.json"), EVERY),
    "a pipe for the meta": (lambda d: replace(d / "math/meta.json", os.mkfifo), EVERY),
    "a pipe for a text": (lambda d: replace(d / "math/val.bin", os.mkfifo), EVERY),
    "an endless meta": (lambda d: replace(d / "math/meta.json", Path.symlink_to, "/dev/zero"), EVERY),
    "a meta that is itself": (lambda d: replace(d / "math/meta.json", Path.symlink_to, "meta.json"), EVERY),
    "files that are themselves": (lambda d: [replace(p, Path.symlink_to, p.name) for p in d.glob("math/*")], EVERY),
}


@pytest.mark.parametrize("what", BROKEN_DATA)
def test_broken_data(what, tiny, folder, refused):
    spoil_it, commands = BROKEN_DATA[what]
    shutil.copytree(tiny / "data", folder / "data")
    spoil_it(folder / "data")
    for command in commands:
        err = refused(f"{command} --data_dir data")
        assert "data" in err or "math" in err
