"""Turn text into tokens, by the byte-level BPE shipped here, one trained on your own text, or an imported tokenizer.

The seed and all experts share one tokenizer, because their embeddings are averaged row by row. The shipped one was
trained on the five domains by `python -m data.tokenizer` of commit 3f3c832.
"""
import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import tiktoken

from cli import BadInput, digest

FILE = Path(__file__).parent / "btx.tiktoken"
END = "<|endoftext|>"
# words and punctuation, each with its leading space; single digits, as in Llama-2, so that numbers add up; white space
PATTERN = r" ?\p{L}+| ?[^\s\p{L}\p{N}]+|\p{N}|\s+"
NO_LIBRARY = "Hugging Face's packages are not installed; run .venv/bin/pip install -r requirements-hf.txt"


class Tokenizer(NamedTuple):
    """How text becomes tokens, and tokens become text."""
    encode: Callable  # text -> list of ids, without special tokens
    decode: Callable  # list of ids -> text
    eot: int  # the id of the end-of-text token
    vocab_size: int
    spec: dict  # what `load_tokenizer` needs to build it again; stored in checkpoints and in meta.json

    def encode_prompt(self, text):
        """The ids of a prompt. The end-of-text token comes first, and again wherever the text contains END."""
        ids = []
        for document in text.split(END):
            ids += [self.eot, *self.encode(document)]
        return ids


def train_bpe(texts, n_tokens):
    """Train a byte-level byte-pair encoding (Sennrich et al. 2016) of at most n_tokens. Returns {token: rank}.

    Tokens are strings of bytes. Uses the library `tokenizers`. Raises BadInput if it is not installed.
    """
    try:
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
        from transformers.convert_slow_tokenizer import bytes_to_unicode
    except ImportError:
        raise BadInput(f"--tokenizer: {NO_LIBRARY}") from None
    words = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # writes each byte as one letter
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
    trainer = trainers.BpeTrainer(vocab_size=n_tokens, min_frequency=2, initial_alphabet=letters.alphabet(),
                                  show_progress=False)
    bpe.train_from_iterator(texts, trainer)
    byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
    tokens = sorted(bpe.get_vocab().items(), key=lambda token: token[1])  # by rank; the library's order is random
    return {bytes(byte_of[letter] for letter in token): rank for token, rank in tokens}


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
            raise BadInput(NO_LIBRARY) from None
        imported = tokenizers.Tokenizer.from_str(spec["definition"])
        imported.encode_special_tokens = True  # text that looks like a special token stays text

        def encode(text):
            text = text.encode("utf-8", "replace").decode()  # the library refuses half of a surrogate pair
            return imported.encode(text, add_special_tokens=False).ids

        def decode(ids):
            return imported.decode(ids, skip_special_tokens=False)

        return Tokenizer(encode, decode, spec["eot"], spec["vocab_size"], spec)
    ranks = read_ranks(spec["definition"])
    bpe = tiktoken.Encoding(spec["name"], pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={END: len(ranks)})
    return Tokenizer(bpe.encode_ordinary, bpe.decode, bpe.eot_token, bpe.n_vocab, spec)
