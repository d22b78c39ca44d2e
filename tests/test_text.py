"""A domain of one's own text: what is read, how it is cut into training and validation, and that little is held in memory."""
import gzip
import json
import random
import subprocess
import sys

import numpy as np
import pytest
import regex
import tiktoken

import evaluate
import finetune_router
import mix
import sample
import train_expert
from data import prepare, text, tokenizer
from data.loader import read_domain
from support.settings import BadInput
from tests.tiny import ROOT, SHAPE

ENCODING = tokenizer.load()


def texts_in(folder):
    """The documents of training and of validation text, without what ends them."""
    kind = "<u2" if read_domain(folder.parent, folder.name)["tokenizer"]["vocab_size"] <= 2**16 else "<u4"
    parts = [ENCODING.decode(np.fromfile(folder / f"{part}.bin", kind).tolist()) for part in ("train", "val")]
    assert not parts[0] or parts[0].endswith(tokenizer.END) or not parts[1].startswith(tokenizer.END)
    return [part.split(tokenizer.END)[:-1] if part.endswith(tokenizer.END) else part.split(tokenizer.END) for part in parts]


def make(out, *paths, domains="", **options):
    prepare.main(["--domains", domains, "--out", str(out), "--text", *(f"own={path}" for path in paths),
                  *(word for name, value in options.items() for word in (f"--{name}", str(value)))])
    return out / "own"


@pytest.mark.parametrize("folder", ["a", "a/*", "a/**/*"])
def test_files_folders_patterns_and_what_is_no_text(folder, tmp_path, capsys):
    (tmp_path / "a" / "deep").mkdir(parents=True)
    second = f"second {tokenizer.END} is no separator here: ünïcödé\r\n" * 5
    (tmp_path / "a" / "b.txt").write_bytes(second.encode())
    (tmp_path / "a" / "a.bin").write_bytes(b"the first \xff " * 9)
    (tmp_path / "a" / "half.txt").write_bytes("é".encode()[:1])
    (tmp_path / "a" / "deep" / "c.txt").write_text("third " * 9)
    (tmp_path / "a" / "empty.txt").write_text(" \n")
    (tmp_path / "a" / "deep" / "gone.txt").symlink_to("nowhere")
    (tmp_path / "a" / "deep" / "up").symlink_to("..")
    (tmp_path / "a" / "link").symlink_to("deep")
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b"fourth, packed" * 9))
    (tmp_path / "e.txt.gz").write_bytes(gzip.compress(b"cut" * 999)[:-9])
    lines = [json.dumps({"id": n, "body": f"line {n}\nof json"}) for n in range(3)]
    (tmp_path / "f.JSONL").write_text("\n".join(lines) + "\n\n")
    own = make(tmp_path / "out", *(tmp_path / name for name in (folder, "*.gz", "f.JSONL", "a/b.txt")), field="body")
    train, val = texts_in(own)
    wanted = [second, "third " * 9, "fourth, packed" * 9, *(f"line {n}\nof json" for n in range(3))]
    assert sorted(tokenizer.END.join(train + val).split(tokenizer.END)) == sorted(tokenizer.END.join(wanted).split(tokenizer.END))
    err = capsys.readouterr().err
    assert [line.split(": not a file in UTF-8")[0] for line in err.splitlines()] == [
        str(tmp_path / name) for name in ("a/deep/gone.txt", "a/deep/up", "a/link", "a/a.bin", "a/half.txt", "e.txt.gz")]
    assert (own / "tasks.jsonl").read_text() == ""


@pytest.mark.parametrize("others", [["own/../own"], ["link"], ["own/*.txt", "link/**/*.txt"], ["own/**/*.txt", "l*"]])
def test_a_text_is_read_once_whatever_leads_to_it(others, tmp_path, monkeypatch):
    """Links that lead back into a folder would else be followed for ever, and validation text be in training text, too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    for n in range(40):
        (tmp_path / "own" / f"{n}.txt").write_text(f"The document of number {n}. " * 5)
    (tmp_path / "link").symlink_to("own")
    for name in ("a", "b"):
        (tmp_path / "own" / name).symlink_to(".")
    train, val = texts_in(make(tmp_path / "out", "own", tmp_path / "own", *others, val_tokens=200))
    assert len(train) + len(val) == 40 and val and not {*train} & {*val}


def test_a_file_of_two_names_is_read_by_the_one_that_says_how(tmp_path):
    """As where Hugging Face keeps files: the text lies under a name of letters, and links to it are called what it is."""
    own = tmp_path / "own"
    own.mkdir()
    lines = "".join(json.dumps({"text": f"The document of number {n}. " * 5}) + "\n" for n in range(40))
    (own / "0a1b").write_text(lines)
    (own / "snapshot.jsonl").symlink_to("0a1b")
    (own / "1a1b").write_bytes(gzip.compress(b"a packed text of many words " * 9))
    (own / "b.txt.gz").hardlink_to(own / "1a1b")
    train, val = texts_in(make(tmp_path / "out", own, val_tokens=200))
    assert len(train) + len(val) == 41 and any(text.startswith("a packed") for text in train + val)


@pytest.mark.parametrize("piece", [16, text.PIECE])
def test_validation_is_of_whole_documents_from_everywhere(piece, tmp_path, monkeypatch):
    monkeypatch.setattr(text, "PIECE", piece)
    lines = [f"document {n}: " + "word " * (n % 50) for n in range(4000)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    train, val = texts_in(make(tmp_path / "out", tmp_path / "own.jsonl", val_tokens=5000))
    assert sorted(train + val) == sorted(lines) and not set(train) & set(val)
    places = [lines.index(document) / len(lines) for document in val]
    assert min(places) < 0.1 and max(places) > 0.5 and len(val) > 50
    meta = read_domain(tmp_path / "out", "own")
    assert 2500 < len(meta["val.bin"]) <= 5000


@pytest.mark.parametrize("name", ["own.txt", "own.jsonl"])
def test_a_text_larger_than_a_piece(name, tmp_path, monkeypatch):
    """Its tokens are those of the whole text, which are never there all at once."""
    whole = "".join(f"line {n} of a long text, with  spaces\n\n" * (n % 3) + f"{n}\n" for n in range(300))
    (tmp_path / name).write_text(whole if name == "own.txt" else json.dumps({"text": whole}))
    monkeypatch.setattr(text, "PIECE", 100)
    assert all(len(piece) <= 200 for piece, _ in text.documents([tmp_path / name], "text"))
    own = make(tmp_path / "out", tmp_path / name, val_tokens=50)
    tokens = np.concatenate([np.fromfile(own / f"{part}.bin", "<u2") for part in ("train", "val")])
    assert tokens[-1] == ENCODING.eot_token and len(np.fromfile(own / "val.bin", "<u2")) == 50
    assert tokens[:-1].tolist() == ENCODING.encode_ordinary(whole)


@pytest.mark.parametrize("pattern", [tokenizer.PATTERN, tokenizer.GPT2 % "", tokenizer.DIGITS % "", tokenizer.LLAMA3,
                                     tokenizer.CHARACTERS])
@pytest.mark.parametrize("parts", [["the", "Word", "'s", "12345", "_", "...", "/", "é", " ", "  ", "\n", "\r\n", "\t", "\u00a0"],
                                   ["中", "文", "の", "。", "。\n", "。\n\n"]])
def test_pieces_end_where_tokens_of_every_pattern_do(pattern, parts, tmp_path, monkeypatch):
    monkeypatch.setattr(text, "PIECE", 400)
    rng = random.Random(0)
    whole = "".join(rng.choices(parts, k=9999))
    (tmp_path / "own.txt").write_text(whole, newline="")
    pieces = [piece for piece, _ in text.documents([tmp_path / "own.txt"], "text")]
    assert "".join(pieces) == whole and len(pieces) > 30 and max(map(len, pieces)) <= 800
    assert [word for piece in pieces for word in regex.findall(pattern, piece)] == regex.findall(pattern, whole)


def test_a_long_text_beside_a_short_one_gives_its_end_to_validation(tmp_path):
    (tmp_path / "long.txt").write_text("word and word again\n" * 9000)
    (tmp_path / "short.txt").write_text("a short text of a few words\n")
    make(tmp_path / "out", tmp_path / "*.txt")
    domain = read_domain(tmp_path / "out", "own")
    sizes = [len(domain[f"{part}.bin"]) for part in ("train", "val")]
    assert sizes[1] == -(-sum(sizes) // 10)


def test_one_text_of_less_than_ten_documents_has_its_end_for_validation(tmp_path):
    (tmp_path / "poem.txt").write_text(" " * 1000 + "Tyger Tyger, burning bright, 1794\n" * 9)
    domain = (make(tmp_path / "out", tmp_path / "poem.txt"), read_domain(tmp_path / "out", "own"))[1]
    sizes = [len(domain[f"{part}.bin"]) for part in ("train", "val")]
    assert sizes[1] == -(-sum(sizes) // 10)


@pytest.mark.parametrize("line", ['{"body": "x"}', '{"text": 3}', "[1]", "no json"])
def test_a_line_without_its_field(line, tmp_path, capsys):
    good = '{"text": "a line that is good, and long enough to be read, word by word by word"}'
    (tmp_path / "own.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(BadInput, match="own.jsonl"):
        make(tmp_path / "out", tmp_path / "own.jsonl", domains="math", train_tokens=300)
    assert not list((tmp_path / "out").rglob("*.bin")) and capsys.readouterr().out == ""


def test_ids_beyond_16_bits(tmp_path, monkeypatch):
    """As of Llama 3's 128,256 tokens: ours, with all ids of two bytes moved up."""
    ranks = {token: rank + 70_000 * (len(token) > 1) for token, rank in ENCODING._mergeable_ranks.items()}
    wide = tiktoken.Encoding("wide", pat_str=tokenizer.PATTERN, mergeable_ranks=ranks, special_tokens={tokenizer.END: 80_000})
    monkeypatch.setattr(tokenizer, "load", lambda name: wide)
    (tmp_path / "own.txt").write_text("the cat and the dog " * 50)
    domain = (make(tmp_path / "out", tmp_path / "own.txt"), read_domain(tmp_path / "out", "own"))[1]
    both = np.concatenate([domain["train.bin"], domain["val.bin"]])
    assert both.dtype == np.dtype("<u4") and both[-1] == 80_000 and wide.decode(both[:-1].tolist()) == "the cat and the dog " * 50


def test_every_script_takes_it(tmp_path, monkeypatch, capsys):
    """From three texts to a mixture, evaluated by loss and bits per byte."""
    monkeypatch.chdir(tmp_path)
    for name, sentence in (("cats", "The cat sat on the mat. "), ("code", "x = f(y)\n")):
        (tmp_path / f"{name}.txt").write_text(sentence * 60)
    (tmp_path / "dogs.jsonl").write_text("".join(f'{{"text": "A dog barks at {n} cars. "}}\n' for n in range(60)))
    prepare.main(["--domains", "", "--out", "data", "--text", "cats=cats.txt", "dogs=dogs.jsonl", "python=code.txt"])
    train_expert.main(["--data", "cats,dogs,python", "--data_dir", "data", "--out", "seed.pt", *SHAPE])
    for name in ("cats", "dogs"):
        train_expert.main(["--init", "seed.pt", "--data", name, "--data_dir", "data", "--out", f"{name}.pt", "--steps", "2"])
    mix.main(["seed.pt", "cats.pt", "dogs.pt", "--out", "mixed.pt"])
    finetune_router.main(["--init", "mixed.pt", "--data", "cats,dogs,python", "--data_dir", "data", "--out", "btx.pt",
                          "--steps", "2"])
    evaluate.main(["seed.pt", "btx.pt", "--data_dir", "data", "--out", "out"])
    results = json.loads((tmp_path / "out" / "results.json").read_text())["models"]
    encoded = read_domain("data", "dogs")["val.bin"]
    windows = encoded[:(len(encoded) - 1) // 32 * 32 + 1]
    targets = np.concatenate([windows[i * 32 + 17:i * 32 + 33] for i in range(len(windows) // 32)])
    assert ENCODING.eot_token in targets  # 13 bytes long, which are in no text
    n_bytes = len(ENCODING.decode_bytes([t for t in targets.tolist() if t != ENCODING.eot_token]))
    loss, bits = (results["btx"][key]["dogs"] for key in ("loss", "bits_per_byte"))
    assert bits == pytest.approx(loss * len(targets) / n_bytes / np.log(2))
    report = (tmp_path / "out" / "report.md").read_text()
    assert results["seed"]["accuracy"] == {} and "bits" in report and "| mean" not in " ".join(report.split())
    assert (tmp_path / "out" / "figures" / "routing.png").exists()
    sample.main(["btx.pt", "--prompt", "A dog", "--tokens", "3"])


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the memory that was used")
def test_little_is_held_in_memory(tmp_path):
    """400 MB of text in less than 300 MB, of which torch has 230."""
    documents = [path.read_text() for path in ROOT.glob("*/*.py")]
    with open(tmp_path / "own.txt", "w") as file:
        while file.tell() < 4e8:
            file.write("\n".join(random.Random(file.tell()).sample(documents, len(documents))))
    code = (f"from data import prepare; prepare.main(['--domains', '', '--out', r'{tmp_path}/out', '--text', "
            f"r'own={tmp_path}/own.txt']); print([w for w in open('/proc/self/status') if 'VmHWM' in w][0].split()[1])")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 300_000
