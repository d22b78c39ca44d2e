"""A byte-level BPE of about 1,000 ranks for the synthetic domains, as a tiktoken Encoding; nothing is downloaded.

    python -m data.tokenizer          # trains it again and writes data/btx.tiktoken, the same bytes every time

One tokenizer serves the seed and all experts, or their embeddings could not be averaged.
"""
import base64
import random
from array import array
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import regex  # tiktoken's own dependency
import tiktoken

from data.task import DOMAINS, domain_module
from support.files import digest, has
from support.settings import BadInput

FILE = Path(__file__).parent / "btx.tiktoken"
N_RANKS = 1023  # with the end-of-text token 1,024 in all
END = "<|endoftext|>"
# words with their leading space; other signs likewise; single digits, as in Llama-2, so that numbers add up; white space
PATTERN = r" ?\p{L}+| ?[^\s\p{L}\p{N}]+|\p{N}|\s+"
# those of imported models: GPT-2's, GPT-2's after single digits were cut out (%s: characters to leave out), Llama 3's
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}%s]+|\s+(?!\S)|\s+"
DIGITS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}%s]+|\s+(?![^\s\p{N}])|\s+"
# a tokenizer may lack tokens for these bytes (SmolLM does): those of control codes, of planes of Unicode without characters, and
# those that UTF-8 does not have; the characters that start with them are skipped
SKIPPED = {**{b: chr(b) for b in (*range(9), *range(14, 32), 127)}, 0xF1: "\U00040000-\U0007ffff", 0xF2: "\U00080000-\U000bffff",
           **dict.fromkeys((0xC0, 0xC1, *range(0xF5, 0x100)), "")}
CHARACTERS = r" *[^ \n]+| +|\n"  # Llama 2's, whose tokens never go on behind a space that ends a word; see Characters
LONGEST = 256  # bytes of a token; longer ones would take too long to check
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|"
          r"\s+")


def train(texts, n_ranks, pattern=PATTERN):
    """Byte-pair encoding (Sennrich et al. 2016) over bytes: merge the most frequent adjacent pair until n_ranks tokens exist, or
    no pair is there twice. Words are cut, so that no token is longer than LONGEST.

    Ties go to the pair with the smallest bytes, so the result depends on the texts alone. Returns {bytes: rank}.

    >>> [t for t, rank in train(["aaabdaaabac"], 259).items() if rank >= 256]
    [b'aa', b'ab', b'aaab']
    """
    counts = Counter(word[:LONGEST // 4] for text in texts for word in regex.findall(pattern, text))
    words = [tuple(bytes([b]) for b in word.encode("utf-8", "replace")) for word in counts]
    ranks, pairs, places = {bytes([b]): b for b in range(256)}, Counter(), defaultdict(set)

    def add(i, sign):
        for pair in pairwise(words[i]):
            pairs[pair] += sign * count_of[i]
            places[pair].add(i)
    count_of = [*counts.values()]
    for i in range(len(words)):
        add(i, 1)
    while len(ranks) < n_ranks and (most := max(pairs.values(), default=0)) > 1:
        best = min(pair for pair, count in pairs.items() if count == most)
        ranks.setdefault(best[0] + best[1], len(ranks))
        for i in sorted(places.pop(best)):  # only words with this pair change
            add(i, -1)
            words[i] = merge(words[i], best)
            add(i, 1)
        del pairs[best]
    return ranks


def merge(word, pair):
    """Join every occurrence of the pair in a tuple of tokens, from the left.

    >>> merge((b"a", b"a", b"a"), (b"a", b"a"))
    (b'aa', b'a')
    """
    out, i = [], 0
    while i < len(word):
        if word[i:i + 2] == pair:
            out.append(pair[0] + pair[1])
            i += 2
        else:
            out.append(word[i])
            i += 1
    return tuple(out)


def load(name="btx"):
    """The tokenizer shipped here ("btx"), or any of tiktoken's own by its name ("gpt2"), which tiktoken then downloads.

    Raises BadInput for an unknown name, or without a network.
    """
    if name != "btx":
        try:
            return tiktoken.get_encoding(name)
        except ValueError:
            raise BadInput(f"tokenizer {name[:50]!r} is neither btx nor one of tiktoken's") from None
        except OSError:
            raise BadInput(f"tokenizer {name!r} could not be downloaded") from None
    return build("btx", PATTERN, FILE.read_text(), {END: N_RANKS})


def build(name, pattern, ranks, special, end=END):
    """An Encoding. ranks: see to_lines; special: {token: id}; end: which of them ends a text, and is called END here.

    Raises ValueError for an unknown pattern, which could take for ever, and for tokens that are none.
    """
    ranks = {base64.b64decode(token): int(rank) for token, rank in map(str.split, ranks.splitlines())}
    special = {END if token == end else f"<|token {i}|>" if token == END else token: i for token, i in special.items()}
    if sorted([*ranks.values(), *special.values()]) != [*range(len(ranks) + len(special))]:
        raise ValueError("two of its tokens have one id, or an id has none")
    if "" in special or END not in special or not all(type(i) is int for i in special.values()) or sum(map(len, special)) > 2**18:
        raise ValueError("one of its special tokens is empty or has no whole number, none ends a text, or they are too long")
    if pattern == CHARACTERS:
        return Characters(name, ranks, special)
    missing = [b for b in range(256) if bytes([b]) not in ranks]
    if not SKIPPED.keys() >= set(missing) or max(map(len, ranks)) > LONGEST:
        raise ValueError(f"it has no token for some bytes, or one of more than {LONGEST} bytes")
    whole = {PATTERN, LLAMA3, LLAMA3.replace("{1,3}", "")} if not missing else set()
    if pattern not in {GPT2 % skipped(missing), DIGITS % skipped(missing), *whole}:  # an unknown one may take for ever
        raise ValueError("its pattern is not one that is known here")
    return tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)


class Characters:
    """What is used here of an Encoding, for tokens of whole characters, as Llama 2's (sentencepiece) are.

    A character without a token is spelled in bytes, by the special tokens <0x00> to <0xFF>. tiktoken joins the two neighbours
    that make the token of lowest rank: first bytes to characters, then characters to tokens in their order, which is not that
    of their ids. What it leaves of other characters, bytes and beginnings, is spelled. The methods are those of tiktoken's that
    are used here; of special tokens in a text `encode` knows END alone. A "▁" is read as a space, which sentencepiece writes so.
    """

    def __init__(self, name, pieces, special):
        """pieces: {bytes: id}, in order; special: {token: id}. Raises ValueError for what is no such tokenizer."""
        for token in pieces:
            text = token.decode()
            if not regex.fullmatch(CHARACTERS, text) or "▁" in text or len(token) > LONGEST:
                raise ValueError(f"its token {token[:50]!r} has over {LONGEST} bytes, a ▁, or more behind a space or line")
        if missing := [token for token in map(byte_token, range(256)) if token not in special]:
            raise ValueError(f"it has no token {missing[0]}")
        byte = [special[byte_token(b)] for b in range(256)]
        characters = [token for token in pieces if len(token.decode()) == 1]
        starts = sorted({c[:n] for c in characters for n in range(2, len(c))}, key=len)
        parts = dict.fromkeys([*(bytes([b]) for b in range(256)), *starts, *characters, *pieces])
        self.core = tiktoken.Encoding(name, pat_str=CHARACTERS, mergeable_ranks={part: i for i, part in enumerate(parts)},
                                      special_tokens={})
        self.spelled = [[pieces[part]] if part in pieces else [byte[b] for b in part] for part in parts]
        self.bytes = ({i: token.encode() for token, i in special.items()} | {i: bytes([b]) for b, i in enumerate(byte)}
                      | {i: token for token, i in pieces.items()})
        self.name, self.n_vocab, self.eot_token = name, len(self.bytes), special[END]
        self._mergeable_ranks, self._pat_str, self._special_tokens = pieces, CHARACTERS, dict(sorted(special.items()))

    def encode_ordinary(self, text):
        return [i for part in self.core.encode_ordinary(text.replace("▁", " ")) for i in self.spelled[part]]

    def encode(self, text, allowed_special="all"):
        return [i for part in text.split(END) for i in (self.eot_token, *self.encode_ordinary(part))][1:]

    def decode_single_token_bytes(self, token):
        return self.bytes[token]

    def decode(self, tokens):
        return b"".join(map(self.bytes.get, tokens)).decode("utf-8", "replace")


def byte_token(b):
    """The name of the token for a byte in a tokenizer of characters."""
    return f"<0x{b:02X}>"


def skipped(missing):
    """What GPT2 and DIGITS have in place of %s if these bytes have no token: the characters that start with one of them."""
    return "".join(SKIPPED[b] for b in missing)


def piece(encoding, token):
    """The bytes of a token; none of an id that no token has (cl100k_base has such ids)."""
    try:
        return encoding.decode_single_token_bytes(token)
    except KeyError:
        return b""


def of(about, path):
    """The tokenizer that a checkpoint, found at `path`, says it has: {"name", "fingerprint", "vocab_size"}. Raises BadInput.

    One that was imported or made of own text is there itself, as "bpe", the arguments of `build`.
    """
    try:
        encoding = build(about["name"], **about["bpe"]) if "bpe" in about else load(about["name"])
    except Exception as error:  # whatever a file may hold
        raise BadInput(f"{path}: {error}") from None
    if (fingerprint(encoding), encoding.n_vocab) != (about["fingerprint"], about["vocab_size"]):
        raise BadInput(f"{path} has another tokenizer than today's {about['name']}")
    return encoding


def fingerprint(encoding):
    """A short hash of all that decides how text becomes tokens; stored in checkpoints, compared before mixing."""
    ranks = encoding._mergeable_ranks.items()
    ranks = [*ranks] if encoding._pat_str == CHARACTERS else sorted(ranks)
    return digest(repr((ranks, encoding._pat_str, encoding._special_tokens)).encode())


def describe(encoding):
    """What checkpoints and data say of a tokenizer; one that was imported or made of own text also has "bpe", see `of`."""
    return {"name": encoding.name, "fingerprint": fingerprint(encoding), "vocab_size": encoding.n_vocab}


def is_description(value):
    """Whether a value looks like what `describe` returns, with "bpe" or without."""
    types = {"name": str, "fingerprint": str, "vocab_size": int}
    return has(value, types) and value.keys() - {"bpe"} == types.keys()


def id_size(vocab_size):
    """The bytes of an id in train.bin and val.bin."""
    return 2 if vocab_size <= 2**16 else 4


def ids(encoding, text):
    """The tokens of a text, an array of ids of that size; no special ones."""
    return array({2: "H", 4: "I"}[id_size(encoding.n_vocab)], encoding.encode_ordinary(text))


def training_texts():
    """What ranks are trained on: documents of all domains, mostly of level 1."""
    for name in DOMAINS:
        for level, n in ((1, 3000), (2, 1000)):
            rng = random.Random(f"tokenizer/{name}/{level}")
            yield from (domain_module(name).document(rng, level) for _ in range(n))


def to_lines(ranks):
    """tiktoken's file format: base64 of the token, a space, its rank."""
    return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())


if __name__ == "__main__":
    FILE.write_text(to_lines(train(training_texts(), N_RANKS)))
    print(f"wrote {FILE}")
