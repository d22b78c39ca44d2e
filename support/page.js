"use strict";
// How live.html draws tokens, gates and probabilities. All text is set as textContent, so none of it becomes markup.
const $ = id => document.getElementById(id), data = JSON.parse($("data").textContent);

function element(tag, text, parent, style = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  Object.assign(made.style, style);
  parent.append(made);
  return made;
}
const visible = piece => piece.replaceAll("\n", "⏎").replaceAll("<|endoftext|>", "[end]") || "·";  // "·": no text
const quoted = piece => visible(piece).replace(/^ $/, "␣");
const percent = x => {  // two digits; 100 % only for all, but for rounding
  if (x > 0.995 && x < 1 - 1e-6) return ">99 %";
  return (100 * x).toFixed(x < 0.0995 ? 1 : 0) + " %";
};
const alpha = strength => Math.round(40 + 150 * strength).toString(16).padStart(2, "0");  // never invisible, nor opaque
const tint = (expert, strength) => data.colors[expert % data.colors.length] + alpha(strength);

function letters(experts) {  // one for each expert, or numbers if two begin alike
  const first = experts.map(name => name[0].toUpperCase());
  return new Set(first).size === first.length ? first : experts.map((_, i) => String(i + 1));
}

function key(parent, experts, i) {  // an expert's letter on its colour, and its name
  element("span", letters(experts)[i], parent, { background: tint(i, 1) }).className = "key";
  parent.append(" " + experts[i]);
}

function write_token(parent, piece, experts, gates) {  // in the colour and with the letter of the largest gate, if any
  const span = element("span", visible(piece), parent), top = gates.indexOf(Math.max(...gates));
  span.className = "token";
  element("b", gates.length ? letters(experts)[top] : "", span).setAttribute("aria-hidden", "true");
  if (gates.length) span.style.background = tint(top, gates[top]);
  if (piece.endsWith("\n")) element("br", "", parent);
  return span;
}

function bar(table, share, background) {  // a line with a bar. Returns its first cell, which is empty
  const line = element("tr", "", table), name = element("td", "", line), wide = element("td", "", line);
  wide.className = "wide";
  element("span", "", wide, { width: 100 * share + "%", background }).className = "bar";
  element("td", percent(share), line);
  return name;
}

function show_shares(experts, shares) {
  $("shares").replaceChildren();
  shares.forEach((share, i) => key(bar($("shares"), share, tint(i, 1)), experts, i));
}

function show_gates(piece, experts, layers, probs) {  // layers: each one's gates; probs: of its router, if known
  $("what").textContent = "“" + quoted(piece) + "”";
  $("gates").replaceChildren();
  if (!layers.length) return;  // a dense model
  const head = element("tr", "", $("gates"));
  element("th", "layer", head);
  letters(experts).forEach((letter, i) => element("th", letter, head).title = experts[i]);
  layers.forEach((gates, layer) => {
    const line = element("tr", "", $("gates"));
    element("td", layer + 1, line);
    gates.forEach((gate, i) => {
      const cell = element("td", gate ? percent(gate) : "–", line, { background: gate ? tint(i, gate) : "" });
      if (probs) element("small", percent(probs[layer][i]), cell);
    });
  });
}

// likeliest: five pairs of a token and its probability. The token itself comes sixth if it is not among them. Tokens
// are pieces, or ids if text_of knows their pieces.
function show_likeliest(token, p, likeliest, text_of = piece => piece) {
  $("next").replaceChildren();
  for (const [other, q] of likeliest.some(([other]) => other === token) ? likeliest : [...likeliest, [token, p]]) {
    const name = bar($("next"), q, "#888");
    name.textContent = quoted(text_of(other));
    name.className = "piece";
    name.parentNode.className = other === token ? "true" : "";
  }
}
