"""The tokenizer is an honest BPE, tasks are right and not in the training text, batches depend on the step alone."""
import base64
import doctest
import errno
import importlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from functools import cache, reduce
from pathlib import Path

import numpy as np
import pytest
import regex
import tiktoken
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken._educational import bpe_train

import evaluate
from data import code, loader, prepare, tokenizer, wiki
from data.task import DOMAINS, Task, domain_module, held_out
from support import checkpoint as ckpt
from support import files, grading
from support.settings import BadInput
from train_expert import validate

ROOT = Path(__file__).parent.parent
ENCODING = tokenizer.load()
LEVELS = (1, 2)
texts = st.text(st.characters(exclude_categories=["Cs"]))  # any Unicode but lone surrogates
quick = settings(max_examples=200, deadline=None, database=None)


@cache
def documents(domain, level, n):
    rng = random.Random(f"documents {domain} {level}")
    return [domain_module(domain).document(rng, level) for _ in range(n)]


@cache
def tasks(domain, level, n, seed=0):
    rng = random.Random(f"tasks {domain} {level} {seed}")
    return [domain_module(domain).task(rng, level) for _ in range(n)]


@pytest.mark.parametrize("module", ["data.task", "data.general", "data.tokenizer", "support.settings", "support.btm", "model",
                                    "mix"])
def test_examples_in_docstrings(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0 and result.failed == 0


# ---- tokenizer -----------------------------------------------------------------------------------------------------


def naive_bpe(text, ranks):
    """What byte-level BPE means: in each word join the adjacent pair of lowest rank, leftmost first, to the end."""
    tokens = []
    for word in regex.findall(tokenizer.PATTERN, text):
        parts = [bytes([b]) for b in word.encode()]
        while pairs := [(ranks[parts[i] + parts[i + 1]], i) for i in range(len(parts) - 1)
                        if parts[i] + parts[i + 1] in ranks]:
            i = min(pairs)[1]
            parts[i:i + 2] = [parts[i] + parts[i + 1]]
        tokens += [ranks[part] for part in parts]
    return tokens


@pytest.mark.long
def test_training_again_gives_the_shipped_file():
    assert tokenizer.to_lines(tokenizer.train(tokenizer.training_texts(), tokenizer.N_RANKS)) == tokenizer.FILE.read_text()


def test_shipped_file_is_a_vocabulary():
    lines = [line.split() for line in tokenizer.FILE.read_text().splitlines()]
    tokens = [base64.b64decode(token) for token, _ in lines]
    assert [int(rank) for _, rank in lines] == list(range(tokenizer.N_RANKS))
    assert tokens[:256] == [bytes([b]) for b in range(256)] and len(set(tokens)) == len(tokens)
    assert all(any(t[:i] in tokens[:rank] and t[i:] in tokens[:rank] for i in range(1, len(t)))
               for rank, t in enumerate(tokens) if rank >= 256), "every token joins two earlier ones"
    assert ENCODING.n_vocab == 1024 and ENCODING.eot_token == 1023 and ENCODING.decode([1023]) == tokenizer.END


def test_training_agrees_with_tiktokens_where_no_pairs_tie():
    rng = random.Random(2)  # a text found by trial: up to 280 tokens no two pairs are equally frequent
    words = ["".join(rng.choices("abcdefgh", [30, 20, 14, 9, 6, 4, 2, 1], k=rng.randint(1, 8))) for _ in range(1500)]
    ours = tokenizer.train([" ".join(words)], 280)
    theirs = bpe_train(" ".join(words), 280, tokenizer.PATTERN, visualise=None)
    assert list(ours.items()) == list(theirs.items()) and len(ours) == 280


@pytest.mark.parametrize("words", [["ab", "cd"], ["cd", "ab"], ["cdab"], ["zab"], ["abab", "cdcd"]])
def test_ties_go_to_the_smallest_bytes(words):
    assert list(tokenizer.train(2 * words, 257))[-1] == b"ab"


def test_the_more_frequent_pair_comes_before_the_smaller_one():
    assert list(tokenizer.train(["ab", "ab", "cd", "cd", "cd"], 258))[256:] == [b"cd", b"ab"]


def test_training_stops_when_no_pair_is_there_twice():
    assert len(tokenizer.train(["ab", "ab"], 300)) == 257 and len(tokenizer.train(["ab"], 300)) == 256


@quick
@given(texts)
def test_tiktoken_with_our_ranks_is_a_naive_bpe(text):
    tokens = ENCODING.encode_ordinary(text)
    assert tokens == naive_bpe(text, ENCODING._mergeable_ranks) and ENCODING.decode(tokens) == text


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("level", LEVELS)
def test_documents_through_tiktoken_and_a_naive_bpe(domain, level):
    for text in documents(domain, level, 100):
        tokens = ENCODING.encode_ordinary(text)
        assert tokens == naive_bpe(text, ENCODING._mergeable_ranks)
        assert ENCODING.decode(tokens) == text


def test_digits_are_single_tokens():
    for text in ("1234567890", "12 apples", "x2y", "3.14", "a1 22\n333"):
        pieces = [ENCODING.decode([t]) for t in ENCODING.encode_ordinary(text)]
        assert [p for p in pieces if re.search(r"\d", p)] == re.findall(r"\d", text)
    assert not [t for t in ENCODING._mergeable_ranks if re.search(rb"\d", t) and len(t) > 1]


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("level", LEVELS)
def test_prompt_and_answer_do_not_grow_together(domain, level):
    for task in tasks(domain, level, 300):
        apart = ENCODING.encode_ordinary(task.prompt) + ENCODING.encode_ordinary(task.answer)
        assert apart == ENCODING.encode_ordinary(task.prompt + task.answer), task


def test_fingerprint_changes_with_all_that_matters():
    ranks, pattern, special = dict(ENCODING._mergeable_ranks), ENCODING._pat_str, {tokenizer.END: 1023}
    last, before = sorted(ranks, key=ranks.get)[:-3:-1]
    swapped = ranks | {last: ranks[before], before: ranks[last]}
    longer = {t: r for t, r in ranks.items() if t != last} | {last + b"qq": ranks[last]}
    variants = [(ranks, pattern, special), (swapped, pattern, special), (longer, pattern, special),
                (ranks, pattern.replace(r"\p{N}", r"\p{N}{1,3}"), special), (ranks, pattern, {"<end>": 1023}),
                (ranks, pattern, {tokenizer.END: 2000})]
    prints = [tokenizer.fingerprint(tiktoken.Encoding("x", pat_str=p, mergeable_ranks=r, special_tokens=s))
              for r, p, s in variants]
    assert prints[0] == tokenizer.fingerprint(tokenizer.load()), "the name alone does not matter"
    assert len(set(prints)) == len(prints)


# ---- domains -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain, n", [("math", 20_000), ("code", 3_000)])
@pytest.mark.parametrize("level", LEVELS)
def test_no_test_task_occurs_in_the_training_text(domain, n, level):
    text = "\n\n".join(documents(domain, level, n))
    assert [t.prompt for t in tasks(domain, level, 1000) if t.prompt in text] == []


@pytest.mark.parametrize("level", LEVELS)
def test_no_general_test_task_occurs_in_the_training_text(level):
    """Not even as the end of a longer story: of all documents, look at all that lies between two sentences."""
    prompts, found = {t.prompt for t in tasks("general", level, 5000)}, set()
    for d in documents("general", level, 60_000):
        starts = [0, *(m.end() for m in re.finditer(r"[.?:] ", d))]
        found |= prompts.intersection(d[a:b - 1] for i, a in enumerate(starts) for b in starts[i + 1:])
    assert found == set()


@pytest.mark.parametrize("level", LEVELS)
def test_no_test_problem_occurs_under_another_name(level):
    """Math with other people and things, and code with another function name, would be the same problem."""
    solutions = {d.split("?")[1] for d in documents("math", level, 20_000)}
    assert not solutions & {t.answer for t in tasks("math", level, 1000)}
    docstrings = {d.split('"""')[1] for d in documents("code", level, 3_000)}
    assert not docstrings & {t.prompt.split('"""')[1] for t in tasks("code", level, 500)}


def test_one_key_in_ten_is_held_out():
    share = sum(held_out(["key", i]) for i in range(20_000)) / 20_000
    assert 0.09 < share < 0.11


@pytest.mark.parametrize("domain", DOMAINS)
def test_level_2_is_longer(domain):
    means = [np.mean([len(ENCODING.encode_ordinary(d)) for d in documents(domain, level, 300)]) for level in LEVELS]
    assert means[1] > 1.1 * means[0]
    means = [np.mean([len(ENCODING.encode_ordinary(t.prompt)) for t in tasks(domain, level, 300)]) for level in LEVELS]
    assert means[1] > 1.1 * means[0]


@pytest.mark.parametrize("domain", DOMAINS)
def test_text_depends_on_the_rng_alone(domain):
    module = domain_module(domain)
    for make in (module.document, module.task):
        assert make(random.Random(3), 2) == make(random.Random(3), 2)
        assert len({repr(make(random.Random(seed), 2)) for seed in range(50)}) > 40


SIGNS = {"+": r"buys (\d+) more|gives \w+ (\d+) more|finds another (\d+)",
         "-": r"loses (\d+)|gives away (\d+)|sells (\d+)",
         "*": r"has (\d+) times as many|turns each into (\d+)"}


def solve(problem):
    """Read a word problem's story: the numbers it goes through, and its operations as (sign, number)."""
    first, *steps, question = re.findall(r"[^.?]+[.?]", problem)
    assert question.strip().startswith("How many ")
    numbers, operations = [int(re.search(r"\d+", first)[0])], []
    for step in steps:
        (sign, n), = [(sign, int(next(filter(None, found.groups())))) for sign, pattern in SIGNS.items()
                      if (found := re.search(pattern, step))]
        total = numbers[-1]
        numbers.append(total + n if sign == "+" else total - n if sign == "-" else total * n)
        operations.append((sign, n))
    return numbers, operations


@pytest.mark.parametrize("level", LEVELS)
def test_math_is_right(level):
    pairs = [(t.prompt, t.answer) for t in tasks("math", level, 1000)]
    pairs += [(d[:d.index("?") + 1], d[d.index("?") + 1:]) for d in documents("math", level, 1000)]
    for problem, answer in pairs:
        numbers, operations = solve(problem)
        steps = re.fullmatch(r" (.+)\.", answer)[1].split(", ")
        right = [f"{numbers[i]} {sign} {n} = {numbers[i + 1]}" for i, (sign, n) in enumerate(operations)]
        assert steps == right, problem
        assert min(numbers) >= 0 and len(steps) in ((1, 2) if level == 1 else (2, 3, 4))


def grade(pairs):
    """The verdicts on (task, body of the function)."""
    return [grading.right(t.prompt, body, t.cases) for t, body in pairs]


@pytest.mark.parametrize("level", LEVELS)
def test_code_answers_are_graded_right(level):
    assert all(t.kind == "code" and len(t.cases) >= 5 for t in tasks("code", level, 200))
    assert all(grade([(t, t.answer) for t in tasks("code", level, 200)]))


MEANING = {  # what the words of a docstring do to a list, by hand
    r"put them in order": lambda xs: sorted(xs),
    r"order them downwards": lambda xs: sorted(xs)[::-1],
    r"turn them around": lambda xs: list(reversed(xs)),
    r"skip the first (\d)": lambda xs, k: xs[k:],
    r"leave out the last (\d)": lambda xs, k: xs[:max(0, len(xs) - k)],
    r"keep only the first (\d)": lambda xs, k: xs[:k],
    r"keep only the last (\d)": lambda xs, k: xs[max(0, len(xs) - k):],
    r"take every second one": lambda xs: [x for i, x in enumerate(xs) if i % 2 == 0],
    r"double each": lambda xs: [x + x for x in xs],
    r"square each": lambda xs: [x ** 2 for x in xs],
    r"raise each by (\d)": lambda xs, k: [x + k for x in xs],
    r"lower each by (\d)": lambda xs, k: [x - k for x in xs],
    r"flip the sign of each": lambda xs: [0 - x for x in xs],
    r"keep the even ones": lambda xs: [x for x in xs if x // 2 * 2 == x],
    r"keep the odd ones": lambda xs: [x for x in xs if x // 2 * 2 != x],
    r"keep those above (\d)": lambda xs, k: [x for x in xs if x > k],
    r"keep those below (\d)": lambda xs, k: [x for x in xs if x < k],
    r"say all of it twice": lambda xs: xs + xs,
    r"return the list": list,
    r"return their total": sum,
    r"return how many there are": len,
    r"return the largest or 0": lambda xs: max(xs) if xs else 0,
    r"return the smallest or 0": lambda xs: min(xs) if xs else 0,
    r"return whether any is left": bool,
}


@pytest.mark.parametrize("level", LEVELS)
def test_code_cases_are_what_the_docstring_says(level):
    seen = set()
    for t in tasks("code", level, 300):
        steps = re.search('"""(.+)\\."""', t.prompt)[1].lower().replace(", or 0", " or 0").split(", ")
        for (xs,), expected in t.cases:
            for step in steps:
                (found, do), = [(m, do) for words, do in MEANING.items() if (m := re.fullmatch(words, step))]
                xs = do(xs, *map(int, found.groups()))
                seen.add(found.re.pattern)
            assert grading.same(xs, expected), t
    assert seen == set(MEANING)


WRONG = ["\n    return [{0}]\n", "\n    return None\n", "\n    pass\n", "\n    return str({0})\n", "\n    {0}\n", "\n",
         "\n    return {0\n", "\n    return undefined({0})\n", "\n    return {0}\n\nprint(1)\n"]


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_code_is_refused(wrong):
    answers = [(t, wrong.replace("{0}", t.answer.removeprefix("\n    return ").strip())) for t in tasks("code", 1, 20)]
    assert not any(grade(answers))


@pytest.mark.parametrize("level", LEVELS)
def test_no_answer_passes_that_does_not_do_what_is_asked(level):
    """Constants, the input itself, and the returns of the domain without any step before them."""
    rng = random.Random(0)
    drawn = [prepare.draw_task("code", rng, level) for _ in range(200)]
    constants = {repr(expected) for t in drawn for _, expected in t.cases}
    for answer in ["xs", "xs[:]", *(e.format("xs") for e in code.LAST_STEPS.values()), *constants]:
        assert not any(grade([(t, f"\n    return {answer}\n") for t in drawn])), answer


CHANGES = [(r"\d", "3"), (r"\d", "1"), ("x > ", "x < "), ("sum", "len"), ("min", "max"), ("max", "min"),
           (r" \+ ", " - "), (r"x \* x", "x * 2"), ("== 0", "== 1"), ("-x", "x"), (r"\[::-1\]", "[::2]"),
           (", reverse=True", "")]


def with_a_step_left_out(task):
    """The task's expression without one of its steps, for each of them but the last."""
    steps = {phrase.format(k=k): step.replace("{k}", str(k)) for phrase, step in (code.LIST_STEPS | code.LAST_STEPS).items()
             for k in range(1, 6)}
    doc = re.search(r'"""(.*)\."""', task.prompt)[1]
    phrases = re.split(", (?!or 0)", doc[0].lower() + doc[1:])
    for i in range(len(phrases) - 1):
        yield reduce(lambda xs, phrase: steps[phrase].format(xs), phrases[:i] + phrases[i + 1:], "xs")


def test_cases_tell_an_expression_from_its_neighbours():
    """Change one number, sign or name in an answer, or leave out a step: what random lists tell apart, the cases should, too."""
    rng, mutants = random.Random(0), {}
    lists = [[rng.randint(-9, 12) for _ in range(rng.randint(0, 8))] for _ in range(100)]
    for t in tasks("code", 1, 300):
        right = t.answer.removeprefix("\n    return ").strip()
        for wrong in {re.sub(pattern, new, right, count=1) for pattern, new in CHANGES} - {right} | {*with_a_step_left_out(t)}:
            f, g = (eval(f"lambda xs: {expression}") for expression in (right, wrong))
            mutants[right, wrong] = t, np.mean([not grading.same(f(xs), g(xs)) for xs in lists])
    for share, most_accepted in ((0.5, 0.0), (0.1, 0.03)):
        pairs = [(t, f"\n    return {wrong}\n") for (_, wrong), (t, differs) in mutants.items() if differs > share]
        assert len(pairs) > 200 and np.mean(grade(pairs)) <= most_accepted


@cache
def kind_of_word():
    """Which word is a plant, a beast and so on, learnt from the training text; no word may be of two kinds."""
    found = set()
    for level in LEVELS:
        for d in documents("general", level, 30_000):
            found |= {(word, kind) for kind, word in re.findall(r"Which is a (\w+)\? The (\w+)\.", d)}
    assert len(found) == len({word for word, _ in found})
    return dict(found)


def read_story(story, question):
    """The kind of a story and the answer to a question about it, following it line by line; None if unknown."""
    if words := re.fullmatch(r"Say again: ([\w ]+)\.", story):
        return ("repeat", f"{words[1]}.") if question == "I say:" else None
    if words := re.fullmatch(r"Think of (.+)\.", story):
        kind = re.fullmatch(r"Which is a (\w+)\?", question)[1]
        word, = [w for w in words[1].split(", ") if kind_of_word()[w] == kind]
        return "which_is", f"The {word}."
    if words := re.fullmatch(r"In a row: (.+)\.", story):
        place = {"first": 0, "second": 1, "third": 2, "last": -1}[re.fullmatch(r"Which is the (\w+)\?", question)[1]]
        return "order", f"The {words[1].split(', ')[place]}."
    first, where, mover = {}, {}, {}
    for line in story.removesuffix(".").split(". "):
        if found := re.fullmatch(r"(?:The )?(\w+) is in the (\w+)", line):
            first[found[1]] = where[found[1]] = found[2]
        elif found := re.fullmatch(r"(\w+) moved the (\w+) to the (\w+)", line):
            assert found[2] in where, "only what is somewhere can be moved"
            mover[found[2]], where[found[2]] = found[1], found[3]
        else:
            return None
    kind = "moved" if story.startswith("The ") else "who_is_where"
    if found := re.fullmatch(r"Where is (?:the )?(\w+)\?", question):
        return kind, f"In the {where[found[1]]}."
    if found := re.fullmatch(r"Where was the (\w+) at first\?", question):
        return kind, f"In the {first[found[1]]}."
    if found := re.fullmatch(r"Who moved the (\w+) last\?", question):
        return kind, f"{mover[found[1]]} did."
    if found := re.fullmatch(r"Who is in the (\w+)\?", question):
        who, = [who for who, place in where.items() if place == found[1]]
        return kind, f"{who} is."


@pytest.mark.parametrize("level", LEVELS)
def test_general_tasks_are_answered_right(level):
    kinds = Counter()
    for t in tasks("general", level, 1000):
        story, question = re.fullmatch(r"(.+\.) ([^.]+[?:])", t.prompt).groups()
        if read := read_story(story, question):
            kinds[read[0]] += 1
            assert t.answer == f" {read[1]}", t
    assert min(kinds[kind] for kind in ("repeat", "moved", "who_is_where")) > 80, kinds


@pytest.mark.parametrize("level", LEVELS)
def test_general_documents_are_answered_right(level):
    answered = 0
    for d in documents("general", level, 1000):
        pairs = re.findall(r"([^.?:]+[?]|I say:) ([^.]+\.)", d)
        story = d[:d.index(pairs[0][0])].strip()
        assert d == " ".join([story, *(f"{question.strip()} {answer}" for question, answer in pairs)])
        for question, answer in pairs:
            if read := read_story(story, question.strip()):
                answered += 1
                assert read[1] == answer, d
    assert answered > 1000


def asked(document):
    """The (question, answer) pairs of a wiki document."""
    return re.findall(r"([A-Z][^.?]+\?)( [^.]+\.)", document)


@pytest.mark.parametrize("level", LEVELS)
def test_wiki_subjects_told_in_prose_are_never_asked_in_training(level):
    text = documents("wiki", level, 30_000)
    questions = {q for d in text for q, _ in asked(d)}
    names = [name for name, _, _ in wiki.world(level)]
    in_questions = {word for q in questions for word in re.findall(r"\w+", q)}
    assert not in_questions & set(names[1::2])
    assert len(in_questions & set(names[::2])) > (0.99 if level == 1 else 0.6) * len(names[::2])
    share = np.mean([t.prompt in questions for t in tasks("wiki", level, 1000)])
    assert 0.3 < share < 0.6, "about half of the test questions were asked in training, no more"


def test_all_wiki_facts_that_tasks_ask_are_told():
    told = {}  # subject -> the words of all sentences about it
    prose = set(wiki.world(1)[i][0] for i in range(1, len(wiki.world(1)), 2))
    for d in documents("wiki", 1, 30_000):
        for sentence in d.split(". "):
            words = set(re.findall(r"\w+", sentence))
            for word in words:
                if word[0].isupper():
                    told.setdefault(word, set()).update(words)
    for t in tasks("wiki", 1, 2000):
        subject, = [w for w in re.findall(r"\w+", t.prompt)[1:] if w[0].isupper()]
        assert t.answer.strip(" .") in told[subject], t
    assert {w for t in tasks("wiki", 1, 2000) for w in re.findall(r"\w+", t.prompt)} & prose, "and some are only told"


@pytest.mark.parametrize("level", LEVELS)
def test_wiki_facts_are_the_same_for_every_rng(level):
    facts = {}
    for seed in range(3):
        for t in tasks("wiki", level, 2000, seed):
            assert facts.setdefault(t.prompt, t.answer) == t.answer
    for d in documents("wiki", level, 30_000):
        for question, answer in asked(d):
            assert facts.get(question, answer) == answer
    names = [name for name, values, _ in wiki.world(level)]
    assert len(set(names)) == len(names)


# ---- prepare -------------------------------------------------------------------------------------------------------

SMALL = ["--train_tokens", "3000", "--val_tokens", "600", "--tasks", "6"]  # as in the fixture `tiny`


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def test_same_seed_same_bytes_in_another_process(tiny, tmp_path):
    subprocess.run([sys.executable, "-m", "data.prepare", "--out", str(tmp_path), *SMALL], check=True, cwd=ROOT,
                   env=os.environ | {"PYTHONHASHSEED": "7"}, stdout=subprocess.DEVNULL)
    assert contents(tmp_path) == contents(tiny / "data")
    names = {"train.bin", "val.bin", "tasks.jsonl", "meta.json"}
    assert set(contents(tmp_path)) == {f"{d}/{name}" for d in (*DOMAINS, "switch") for name in names}


def test_another_seed_other_bytes(tiny, tmp_path):
    prepare.main(["--out", str(tmp_path), "--seed", "1", *SMALL])
    old, new = contents(tiny / "data"), contents(tmp_path)
    assert [name for name in old if old[name] == new[name]] == ["switch/train.bin"]  # empty: nobody trains on switch
    assert old["switch/train.bin"] == b""


def test_a_domain_does_not_depend_on_the_others_and_grows_at_its_end(tiny, tmp_path):
    prepare.main(["--out", str(tmp_path), "--domains", "math", "--train_tokens", "1000", "--val_tokens", "600",
                  "--tasks", "3"])
    old, new = contents(tiny / "data"), contents(tmp_path)
    assert len(new) == 4 and len(new["math/train.bin"]) == 2000
    assert old["math/train.bin"].startswith(new["math/train.bin"]) and old["math/val.bin"] == new["math/val.bin"]
    assert old["math/tasks.jsonl"].startswith(new["math/tasks.jsonl"])


@pytest.mark.parametrize("domain", DOMAINS)
def test_what_is_written(tiny, domain):
    folder = tiny / "data" / domain
    train, val = (np.fromfile(folder / f"{split}.bin", "<u2") for split in ("train", "val"))
    assert len(train) == 3000 and len(val) == 600 and max(train.max(), val.max()) == ENCODING.eot_token
    assert not np.array_equal(train[:600], val)
    *whole, _ = ENCODING.decode(train).split(tokenizer.END)
    rng = random.Random(f"0/{domain}/train")
    assert whole == [domain_module(domain).document(rng, 1) for _ in whole] and len(whole) > 10
    found = [Task(**json.loads(line)) for line in (folder / "tasks.jsonl").read_text().splitlines()]
    assert len(found) == 6 and all(t.prompt and t.answer for t in found)
    meta = json.loads((folder / "meta.json").read_text())
    assert {name: files.digest((folder / name).read_bytes()) for name in loader.FILES} == meta.pop("files")
    assert meta == {"tokenizer": tokenizer.describe(ENCODING), "level": 1, "seed": 0}


def test_data_prepared_anew_and_killed_halfway_is_no_data(tiny, tmp_path, monkeypatch):
    """Over old data, at each write: either it is refused, or it is whole, all old or all new."""
    whole = {}
    for seed in ("0", "7"):
        prepare.main(["--out", str(tmp_path / seed), "--domains", "math", "--seed", seed, *SMALL])
        whole[seed] = contents(tmp_path / seed / "math")
    real, left = Path.replace, [0]

    def replace(*arguments):
        if not left[0]:
            os._exit(9)
        left[0] -= 1
        real(*arguments)
    for n in range(10):  # meta.json is renamed when all are written, four old files go, then four new ones come
        shutil.copytree(tmp_path / "0", tmp_path / f"killed{n}")
        left[0] = n
        child = os.fork()
        if not child:
            try:
                monkeypatch.setattr(Path, "replace", replace)
                prepare.main(["--out", str(tmp_path / f"killed{n}"), "--domains", "math", "--seed", "7", *SMALL])
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        if n < 2:
            loader.read_domain(tmp_path / f"killed{n}", "math")
        else:
            if n < 9:
                assert loader.prepared(tmp_path / f"killed{n}") == ["math"]  # or it would be left out in silence
                with pytest.raises(BadInput, match="meta.json"):
                    loader.read_domain(tmp_path / f"killed{n}", "math")
            prepare.main(["--out", str(tmp_path / f"killed{n}"), "--domains", "math", "--seed", "7", *SMALL])
            assert contents(tmp_path / f"killed{n}" / "math") == whole["7"]


def test_a_folder_that_may_not_be_read_is_named_and_not_left_out(tiny, monkeypatch):
    real = os.listdir

    def listdir(path):
        if Path(path).name == "code":
            raise PermissionError(13, "Permission denied")
        return real(path)
    monkeypatch.setattr(os, "listdir", listdir)  # permission bits say nothing to root
    with pytest.raises(BadInput, match="data/code: cannot be read .Permission denied"):
        loader.prepared(tiny / "data")


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize("name", [*loader.FILES, "meta.json"])
def test_a_domain_that_cannot_be_replaced_costs_no_other(name, interrupted, tmp_path, monkeypatch):
    """As one that is mounted, or another user's in a sticky folder. Nor does Ctrl-C."""
    line, real = ["--out", str(tmp_path), "--domains", "math,code", *SMALL], Path.replace
    prepare.main(line)
    before = contents(tmp_path)

    def replace(path, target):
        if path == tmp_path / "code" / name:
            if interrupted:
                real(path, target)
                raise KeyboardInterrupt("busy")
            raise OSError(errno.EBUSY, "Device or resource busy")
        return real(path, target)
    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt if interrupted else OSError, match="busy"):
        prepare.main([*line, "--seed", "7"])
    assert contents(tmp_path) == before


def test_validation_code_is_of_functions_that_training_never_shows(tmp_path):
    size = ["--train_tokens", "100000", "--val_tokens", "5000", "--tasks", "1"]
    prepare.main(["--out", str(tmp_path), "--domains", "code", *size])
    texts = [set(ENCODING.decode(np.fromfile(tmp_path / "code" / f"{split}.bin", "<u2")).split(tokenizer.END)[:-1])
             for split in ("train", "val")]
    assert min(map(len, texts)) > 30 and not texts[0] & texts[1]


def test_switch_tasks_have_a_document_and_a_task_of_different_domains(monkeypatch):
    class Fake:
        def __init__(self, name):
            self.name = name

        def document(self, rng, level):
            return f"{self.name} text {level}"

        def task(self, rng, level):
            return Task(f"{self.name} prompt {level}", f"{self.name} answer", "code", [self.name])

    monkeypatch.setattr(prepare, "domain_module", Fake)
    rng, seen = random.Random(0), Counter()
    for _ in range(500):
        t = prepare.draw_task("switch", rng, 2)
        before, prompt = t.prompt.split(tokenizer.END)
        first, second = before.split()[0], prompt.split()[0]
        assert first != second and {first, second} <= set(DOMAINS)
        assert t == Task(f"{first} text 2{tokenizer.END}{second} prompt 2", f"{second} answer", "code", [second])
        seen[first, second] += 1
    assert len(seen) == 20 and min(seen.values()) > 10
    stream = prepare.documents("switch", rng, 1)
    names = [next(stream).split()[0] for _ in range(500)]
    assert set(names) == set(DOMAINS) and all(a != b for a, b in zip(names, names[1:], strict=False))


def test_switch_tasks_as_written(tiny):
    for line in (tiny / "data" / "switch" / "tasks.jsonl").read_text().splitlines():
        assert ENCODING.encode(Task(**json.loads(line)).prompt, allowed_special="all").count(ENCODING.eot_token) == 1


# ---- loader --------------------------------------------------------------------------------------------------------

RAMPS = {"a": np.arange(1000, dtype="<u2"), "b": np.arange(5000, 5800, dtype="<u2")}  # every token says where it lies
HALVES = {"a": 0.5, "b": 0.5}


def batch(seed=0, step=0, tokens=RAMPS, weights=HALVES, block_size=8, batch_size=12, **rank):
    return loader.get_batch(tokens, weights, block_size, batch_size, seed, step, **rank)


def test_a_batch_is_a_function_of_seed_and_step():
    forward = {(seed, step): batch(seed, step) for seed in range(3) for step in range(5)}
    np.random.seed(1)
    torch.manual_seed(1)
    for key in sorted(forward, key=lambda key: hash((key, 3))):
        assert all(torch.equal(a, b) for a, b in zip(batch(*key), forward[key], strict=True))
    assert len({tuple(x.flatten().tolist()) for x, _ in forward.values()}) == len(forward), "and of each of them"


def test_targets_are_the_inputs_shifted_by_one():
    x, y = batch(batch_size=50)
    assert x.shape == y.shape == (50, 8) and x.dtype == y.dtype == torch.int64
    assert torch.equal(x[:, 1:], y[:, :-1])
    assert torch.equal(y, x + 1), "on a ramp the next token is one more"


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_share_one_batch(world_size):
    for step in range(5):
        whole = torch.stack(batch(step=step))
        parts = [torch.stack(batch(step=step, rank=r, world_size=world_size)) for r in range(world_size)]
        assert all(p.shape[1] == 12 // world_size for p in parts)
        assert torch.equal(torch.stack(parts, dim=2).flatten(1, 2), whole), "each rank has every world_size-th row"


def test_mixture_proportions():
    weights = {"a": 0.1923, "b": 0.3016, "c": 0.4031, "d": 0.103}
    tokens = {name: np.full(100, i, "<u2") for i, name in enumerate(weights)}
    drawn = torch.cat([batch(7, step, tokens, weights, 4, 64)[0][:, 0] for step in range(400)])
    for i, p in enumerate(weights.values()):
        assert abs((drawn == i).float().mean().item() - p) < 4 * (p * (1 - p) / len(drawn)) ** 0.5
    assert (batch(0, 0, tokens, {"b": 1.0}, 4, 64)[0] == 1).all()


def test_all_places_are_drawn_alike_and_none_beyond_the_end():
    tokens = {"a": np.arange(20, dtype="<u2")}
    starts = torch.cat([batch(1, step, tokens, {"a": 1.0}, 10, 64)[0][:, 0] for step in range(100)])
    counts = starts.bincount().tolist()
    assert len(counts) == 10, "from 0 to 9, where the last target is 19"
    assert all(abs(n - 640) < 4 * (640 * 0.9) ** 0.5 for n in counts)


def test_a_text_of_one_window_is_enough(tmp_path):
    tokens = {"a": loader.text_of({"a": {"train.bin": np.arange(9, dtype="<u2")}}, "a", "train", 8)}
    assert batch(0, 0, tokens, {"a": 1.0})[1][:, -1].tolist() == [8] * 12


def test_first_windows_lie_side_by_side(tiny):
    text = np.fromfile(tiny / "data" / "math" / "val.bin", "<u2")
    windows = loader.first_windows(text, 32, 10)
    text = torch.from_numpy(text.astype(np.int64))
    assert windows.shape == (10, 33) and torch.equal(windows[:, :-1].flatten(), text[:320])
    assert torch.equal(windows[:, 1:].flatten(), text[1:321]), "every token is predicted once"
    assert torch.equal(loader.first_windows(text.numpy(), 32, 4), windows[:4])
    assert len(loader.first_windows(text.numpy(), 32, 10**6)) == 599 // 32


def test_validation_does_not_depend_on_the_batch_size(tiny):
    model = ckpt.build(ckpt.load(tiny / "btx_mixed.pt"))
    windows = loader.first_windows(loader.read_domain(tiny / "data", "math")["val.bin"], 32, 10)
    losses = [validate(model, windows, "cpu", batch_size=n) for n in (1, 3, 10, 16)]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-5)
    with torch.inference_mode():
        halves = [evaluate.score_texts(model, windows, n) for n in (1, 3, 10)]
    for second, routing in halves:
        torch.testing.assert_close(second, halves[0][0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(torch.tensor(routing["share"]), torch.tensor(halves[0][1]["share"]), rtol=1e-4, atol=1e-5)


BPE = {"pattern": tokenizer.PATTERN, "ranks": tokenizer.FILE.read_text(), "special": {tokenizer.END: 1023}, "end": tokenizer.END}


@pytest.mark.parametrize("change", [{"pattern": "a*"}, {"pattern": ""}, {"pattern": r"(a+)+b"}, {"pattern": r"(?<=a)z|[^z]"},
                                    {"special": {tokenizer.END: 1023, "": 1024}}, {"special": {"x": 1023}, "end": "none"},
                                    {"ranks": "\n".join(tokenizer.FILE.read_text().splitlines()[1:])},
                                    {"special": {tokenizer.END: 2**25}}, {"special": {"a": 1023, "b": 1023}, "end": "a"},
                                    {"ranks": tokenizer.FILE.read_text() + base64.b64encode(b"x" * 2000).decode() + " 1023\n",
                                     "special": {tokenizer.END: 1024}}])
def test_a_tokenizer_from_a_file_that_could_hang_or_fail_is_refused(change):
    """An unknown expression, an empty token, none that ends a text or for a byte, an id without one or with two, a long one."""
    tokenizer.build("own", **BPE)
    model = BPE | {"special": {tokenizer.END: 1023, "stop": 1024}, "end": "stop"}
    assert tokenizer.build("own", **model).eot_token == 1024  # of a model that uses the name for something else
    with pytest.raises(ValueError):
        tokenizer.build("own", **BPE | change)


def test_an_id_that_no_token_has_is_no_text():
    ranks = {bytes([b]): b for b in range(256)}
    encoding = tiktoken.Encoding("x", pat_str=".", mergeable_ranks=ranks, special_tokens={"e": 1500})
    assert tokenizer.piece(encoding, 1200) == b"" and tokenizer.piece(encoding, 97) == b"a"


def test_a_new_tokenizer_for_own_text(tmp_path, monkeypatch):
    """Trained on the texts; data, checkpoint and sample have the same."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("the quick brown fox jumps over the lazy dog. " * 200 + ("─" * 200 + "\n") * 300)
    prepare.main(["--domains", "", "--tokenizer", "280", "--text", "a=a.txt", "--out", "d"])
    about = loader.read_domain("d", "a")
    encoding = tokenizer.of(about["tokenizer"], "d")
    assert encoding.n_vocab == 280 and encoding.decode(about["train.bin"][:9].tolist()).startswith("the quick brown")
    for bad in ("20", "100000", "400", "9" * 5000):
        with pytest.raises(BadInput, match="tokenizer"):
            prepare.main(["--domains", "", "--tokenizer", bad, "--text", "a=a.txt", "--out", "e"])
