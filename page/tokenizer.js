"use strict";
// The byte-level BPE of data/tokenizer.py: text becomes ids, and ids become text. A string of bytes has one character,
// \x00 to \xff, for each.
const END = "<|endoftext|>";
const PATTERN = / ?\p{L}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{N}|\p{White_Space}+/gu; // tiktoken's \s is \p{White_Space}

function load_tokenizer(definition) {  // definition: lines of a token in base64 and its rank, which is its id
  const ranks = new Map();
  for (const line of definition.trim().split("\n")) ranks.set(atob(line.split(" ")[0]), Number(line.split(" ")[1]));
  const tokens = [...ranks.keys()], eot = ranks.size;
  const decode = ids => {
    const bytes = ids.map(id => id === eot ? END : tokens[id]).join("");
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes, c => c.charCodeAt(0)));
  };
  const hex = id => Array.from(tokens[id], c => "\\x" + c.charCodeAt(0).toString(16).padStart(2, "0")).join("");
  return {
    eot, decode,
    encode: text => (text.match(PATTERN) ?? []).flatMap(word => encode_word(to_bytes(word), ranks)),
    piece: id => decode([id]).includes("\ufffd") ? hex(id) : decode([id]),  // of a character: its bytes
  };
}

const to_bytes = text => Array.from(new TextEncoder().encode(text), byte => String.fromCharCode(byte)).join("");

function encode_word(word, ranks) {  // again and again merges the two neighbours that make the token of the lowest rank
  const parts = [...word];
  while (!ranks.has(word)) {
    const made = parts.slice(1).map((part, i) => ranks.get(parts[i] + part) ?? Infinity);
    const lowest = made.reduce((a, b) => Math.min(a, b), Infinity), i = made.indexOf(lowest);
    if (lowest === Infinity) return parts.map(part => ranks.get(part));
    parts.splice(i, 2, parts[i] + parts[i + 1]);
  }
  return [ranks.get(word)];
}

// The end-of-text token comes first, and wherever the text says END.
const encode_prompt = (tokenizer, text) => text.split(END).flatMap(part => [tokenizer.eot, ...tokenizer.encode(part)]);
