"""Turn text into tokens, by the byte-level BPE shipped here, one trained on your own text, or an imported tokenizer.

    python -m data.tokenizer          # train the shipped one again: writes data/btx.tiktoken, the same bytes every time

The seed and all experts share one tokenizer, because their embeddings are averaged row by row.
"""
import base64
import json
import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import regex  # installed with tiktoken
import tiktoken

from cli import BadInput
from data.task import DOMAINS, digest, domain_module

FILE = Path(__file__).parent / "btx.tiktoken"
END = "<|endoftext|>"
# words and punctuation, each with its leading space; single digits, as in Llama-2, so that numbers add up; white space
PATTERN = r" ?\p{L}+| ?[^\s\p{L}\p{N}]+|\p{N}|\s+"


class Tokenizer(NamedTuple):
    """How text becomes tokens, and tokens become text."""
    encode: Callable  # text -> list of ids, without special tokens
    decode: Callable  # list of ids -> text
    eot: int  # the id of the end-of-text token
    vocab_size: int
    special: list  # the names of its special tokens, such as "<|endoftext|>"; `encode` reads them as plain text
    spec: dict  # what `load_tokenizer` needs to build it again; stored in checkpoints and in meta.json


def train_bpe(texts, n_tokens):
    """Byte-pair encoding (Sennrich et al. 2016): merge the most frequent pair of neighbours until there are n_tokens.

    Tokens are strings of bytes, at first the 256 single bytes, and never extend beyond a word. Of equally frequent
    pairs, the one with the smallest bytes is merged, so the result depends on the texts alone. Returns {token: rank}.

    In "aaabdaaabac" the pair (a, a) occurs four times and becomes aa. Then (a, b) and after that (aa, ab) occur twice:

    >>> [token for token, rank in train_bpe(["aaabdaaabac"], 300).items() if rank >= 256]
    [b'aa', b'ab', b'aaab']
    """
    occurrences = Counter()
    for text in texts:
        occurrences.update(regex.findall(PATTERN, text))
    words = {}  # a word as a tuple of tokens -> how often it occurs
    for word, count in occurrences.items():
        words[tuple(bytes([b]) for b in word.encode("utf-8", "replace"))] = count
    pairs = Counter()  # two neighbours -> how often they occur

    def count_pairs(word, count):
        for pair in pairwise(word):
            pairs[pair] += count

    for word, count in words.items():
        count_pairs(word, count)
    ranks = {bytes([b]): b for b in range(256)}
    while len(ranks) < n_tokens:
        most = max(pairs.values(), default=0)
        if most < 2:
            break
        best = min(pair for pair, count in pairs.items() if count == most)
        ranks.setdefault(best[0] + best[1], len(ranks))  # two pairs can make the same token
        for word in [word for word in words if best[0] in word and best[1] in word]:  # other words do not change
            count = words.pop(word)
            count_pairs(word, -count)
            merged = merge(word, best)
            count_pairs(merged, count)
            words[merged] = count
    return ranks


def merge(word, pair):
    """Join every occurrence of the pair in a tuple of tokens, from the left.

    >>> merge((b"a", b"a", b"a"), (b"a", b"a"))
    (b'aa', b'a')
    """
    merged = [word[0]]
    for token in word[1:]:
        if (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return tuple(merged)


def new_bpe(ranks, name):
    """The `spec` of a byte-pair encoding {token: rank}, with its definition in tiktoken's file format."""
    definition = "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())
    return {"name": name, "kind": "bpe", "fingerprint": digest((PATTERN + definition).encode()),
            "vocab_size": len(ranks) + 1, "definition": definition}


def read_ranks(definition):
    """The {token: rank} of a definition in tiktoken's file format."""
    pairs = map(str.split, definition.splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def from_huggingface(definition, eot, name):
    """The `spec` of an imported tokenizer. definition: the text of tokenizer.json; eot: the id that ends a text.

    Padding and truncation, which some tools save in this file, are left out, since they do not change how text splits.
    """
    import tokenizers  # needed by imported models only
    definition = json.dumps(json.loads(definition) | {"padding": None, "truncation": None}, ensure_ascii=False)
    largest = max(tokenizers.Tokenizer.from_str(definition).get_vocab().values())
    return {"name": name, "kind": "huggingface", "fingerprint": digest(f"{definition} {eot}".encode()),
            "vocab_size": largest + 1, "definition": definition, "eot": eot}


def load_tokenizer(spec=None):
    """The Tokenizer that `spec` describes; without it, the shipped one."""
    spec = spec or new_bpe(read_ranks(FILE.read_text()), "btx")
    if spec["kind"] == "huggingface":
        try:
            import tokenizers
        except ImportError:
            raise BadInput("tokenizers is not installed; run .venv/bin/pip install -r requirements-hf.txt") from None
        imported = tokenizers.Tokenizer.from_str(spec["definition"])
        imported.encode_special_tokens = True  # text that looks like a special token stays text
        special = [token.content for token in imported.get_added_tokens_decoder().values() if token.special]

        def encode(text):
            text = text.encode("utf-8", "replace").decode()  # the library refuses half of a surrogate pair
            return imported.encode(text, add_special_tokens=False).ids

        def decode(ids):
            return imported.decode(ids, skip_special_tokens=False)

        return Tokenizer(encode, decode, spec["eot"], spec["vocab_size"], special, spec)
    ranks = read_ranks(spec["definition"])
    bpe = tiktoken.Encoding(spec["name"], pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={END: len(ranks)})
    return Tokenizer(bpe.encode_ordinary, bpe.decode, bpe.eot_token, bpe.n_vocab, [END], spec)


def encode_prompt(tokenizer, text):
    """The ids of a prompt. The end-of-text token comes first, and again wherever the text contains END."""
    ids = []
    for document in text.split(END):
        ids += [tokenizer.eot, *tokenizer.encode(document)]
    return ids


def training_texts():
    """The text that the shipped tokenizer is trained on: documents of all domains, mostly of level 1."""
    for name in DOMAINS:
        for level, n in ((1, 3000), (2, 1000)):
            rng = random.Random(f"tokenizer/{name}/{level}")
            for _ in range(n):
                yield domain_module(name).document(rng, level)


if __name__ == "__main__":
    FILE.write_text(new_bpe(train_bpe(training_texts(), 1023), "btx")["definition"])
    print(f"wrote {FILE}")
