"use strict";
// The page is drawn from S, what the reader chose. A control changes the value in S that has its name, and draw() shows
// all that was seen. Text is set as text, so none becomes markup.
const $ = id => document.getElementById(id);
const all = selector => [...document.querySelectorAll(selector)];
const data = JSON.parse($("data").textContent);
const tokenizer = load_tokenizer(data.definition);
const moe = data.models.at(-1), { experts } = moe, branches = experts.slice(1);
const domains = [...new Set(data.tasks.map(({ domain }) => domain))];
const single_domains = domains.filter(domain => domain !== "switch");
const COLORS = ["#b4b4b4", "#56b4e9", "#ee8a3c", "#f0e442", "#cc79a7", "#00b38a", "#a9a1ff", "#ff9da7"];  // tell apart
const begin_alike = name => experts.filter(other => other[0] === name[0]).length > 1;
const LETTERS = experts.map((name, i) => begin_alike(name) ? String(i + 1) : name[0].toUpperCase());
let models = [];  // with their weights, once they are unpacked

const first_of = domain => String(data.tasks.findIndex(task => task.domain === domain));
const DEFAULTS = { hero: first_of(branches[0]), hero_off: "", hero_at: "", step: "0", tune: "0", count: "",
                   seed: "0", branch: "0", mixed: "0", tuned: "0", two: "0",  // numbers of tasks
                   model: moe.name, k: String(moe.config.top_k), off: "", text: data.tasks[0]?.prompt ?? "", at: "" };
const S = { ...DEFAULTS };

const model_of = name => models.find(model => model.name === name);
const tasks_of = some => data.tasks.filter(({ domain }) => some.includes(domain));
const offs = name => S[name].split(",").filter(expert => experts.includes(expert));
const title = domain => domain === "switch" ? "two domains" : domain;
const visible = token => tokenizer.piece(token).replaceAll("\n", "⏎").replaceAll(END, "[end]");
const color_of = i => COLORS[i % COLORS.length];
const tint = (i, share) => `color-mix(in srgb, ${color_of(i)} ${25 + 75 * share}%, white)`;
const ink = i => `light-dark(color-mix(in srgb, ${color_of(i)} 65%, black), ${color_of(i)})`;
const others = domains.filter(domain => !experts.includes(domain));
const number_of = domain => experts.includes(domain) ? experts.indexOf(domain) : experts.length + others.indexOf(domain);
const written = tokens => tokens.filter(token => token.written);
const written_text = tokens => tokenizer.decode(written(tokens).map(({ token }) => token));
const mixtures = () => models.filter(model => model.experts.length);

function element(tag, text, parent, properties = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(text);
  parent.append(made);
  return made;
}

function shape(tag, parent, attributes, text = "") {  // an element of SVG
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(text);
  parent.append(made);
  return made;
}

// ---- a question: { name: of a model, prompt, answer: how a right one begins, off: experts switched off, k }
let unanswered = [], rested = 0;  // the reader's newest question goes first, and counting when there is none
async function* read({ name, prompt, off = [], k = moe.config.top_k, length = 60, is_count }) {  // and writes an answer
  const switches = { top_k: k, off: off.map(expert => experts.indexOf(expert)) };
  const ids = encode_prompt(tokenizer, prompt), me = {};
  if (!is_count) unanswered.push(me);
  const must_wait = () => is_count ? unanswered.length : unanswered.at(-1) !== me;
  try {
    for (const token of read_and_write(model_of(name), ids, tokenizer.eot, length, switches)) {
      yield token;
      while (must_wait() || performance.now() - rested > 12) {
        await new Promise(resolve => setTimeout(resolve));  // the browser draws, and answers keys
        rested = performance.now();
      }
    }
  } finally {
    unanswered = unanswered.filter(other => other !== me);
  }
}

function describe({ name, off = [], k = moe.config.top_k }) {  // who answers
  const model = model_of(name), without = off.length ? `, ${off.join(" and ")} switched off` : "";
  return model.experts.length ? `${model.label}, k = ${k}${without}` : model.label;
}

function why_not({ name, prompt, off = [] }) {  // why it is not read
  const model = model_of(name);
  if (prompt.length > 1000) return `This text has ${prompt.length} characters. The page takes 1000.`;
  const n = encode_prompt(tokenizer, prompt).length - 1, most = model.config.block_size - 10;
  if (n > most) return `This text has ${n} tokens. The page takes ${most}, so that 10 are left for the answer.`;
  return model.experts.length && off.length === experts.length ? "The router needs an expert: switch one on." : "";
}

// ---- a box: who answers, the text as it is written, and whether it is right. With data-off it has the picture
function make_box(box) {
  const part = (tag, className) => element(tag, "", box, { className });
  Object.assign(box, { tokens: [], who: part("p", "who"), prompt: part("div", "text") });
  if (box.dataset.off) add_machine(box);
  box.answer = box.dataset.off ? part("div", "text") : box.prompt;
  box.verdict = part("p", "");
}

async function ask(box, question) {
  const asked = JSON.stringify(question), { prompt, answer, is_whole } = question, old = box.dataset.prompt;
  if (box.dataset.asked === asked) return;
  Object.assign(box.dataset, { asked, prompt, done: "" });
  box.style.minHeight = `${box.offsetHeight}px`;  // so that nothing below it moves until the answer is whole
  box.tokens = [];
  box.who.textContent = describe(question);
  box.answer.textContent = "";
  box.prompt.textContent = is_whole ? "" : prompt.replaceAll(END, "[end]") + "\n";
  Object.assign(box.verdict, { textContent: why_not(question), className: "" });
  if (!box.verdict.textContent) {
    const right = encode_prompt(tokenizer, answer ?? "").slice(1), is_slow = box.dataset.pace && old !== prompt;
    for await (const token of is_slow ? slowly(read(question), box.dataset.pace) : read(question)) {
      if (box.dataset.asked !== asked) return;
      if (!is_whole && !token.written) continue;
      const expected = token.written ? right[written(box.tokens).length] : undefined;
      const is_astray = expected !== undefined && expected !== token.token;
      box.tokens.push({ ...token, is_astray, span: write(token.written ? box.answer : box.prompt, token, is_astray) });
      if (is_slow && token.written) draw_machine(box);
    }
    const is_right = written_text(box.tokens).startsWith(answer);
    box.verdict.className = answer === undefined ? "" : is_right ? "right" : "wrong";
    if (answer === undefined) box.verdict.append("Not a test task: the page does not know the right answer.");
    else box.verdict.append(is_right ? "✓ right" : `✗ wrong. Right:${answer.replace(END, "").trimEnd()}`);
  }
  box.dataset.done = "yes";
  box.style.minHeight = "";
  if (box.closest("section").contains(document.activeElement)) $("said").textContent = say(box);
}

async function* slowly(tokens, pace) {  // so that the eye can follow them, but when all have been computed
  const all = [];
  for await (const token of tokens) all.push(token);
  for (const token of all) {
    if (token.written) await new Promise(resolve => setTimeout(resolve, pace));
    yield token;
  }
}

function say({ who, tokens, verdict }) {  // what a screen reader reads out
  const routings = written(tokens).flatMap(({ routing }) => routing), gates = routings.length ? expert_load(routings) : [];
  const shares = gates.map((gate, i) => `${experts[i]} ${Math.round(100 * gate)} %`);
  return [who.textContent, written_text(tokens), shares.join(", "), verdict.textContent].join(". ");
}

function write(text, { token, written, routing }, is_astray) {  // in the color and with the letter of the largest gate
  const piece = visible(token), span = element("span", piece, text, {
    className: `token${written ? " written" : ""}${is_astray ? " astray" : ""}` });
  if (routing.length) {
    const gates = expert_load(routing), top = gates.indexOf(largest(gates));
    span.style.background = tint(top, gates[top]);
    span.dataset.letter = LETTERS[top];
    span.title = `${experts[top]} ${Math.round(100 * gates[top])} %`;
    span.setAttribute("aria-description", span.title);
  }
  if (piece.endsWith("⏎")) text.append("\n");
  return span;
}

function ask_dealt(id, some, who, box = $(`${id}_box`)) {  // task number S[id] of some domains
  const tasks = tasks_of(some), { prompt, answer } = tasks[S[id] % tasks.length] ?? tasks[0];
  return ask(box, { name: moe.name, prompt, answer, ...who });
}

// ---- the picture: the layers at the token that the reader points at. Each row is an expert, and a switch
function add_machine(box) {
  box.machine = shape("svg", box, { class: "machine", role: "group" });
  box.lines = shape("g", box.machine, {});
  box.rows = experts.map(name => {
    const row = shape("g", box.machine, { role: "switch", tabindex: 0, "aria-label": `${name} expert` });
    row.onclick = () => {
      const off = offs(box.dataset.off);
      draw({ [box.dataset.off]: (off.includes(name) ? off.filter(other => other !== name) : [...off, name]).join() });
    };
    row.onkeydown = event => {
      if (![" ", "Enter"].includes(event.key)) return;
      event.preventDefault();
      row.onclick();
    };
    return row;
  });
}

function draw_machine(box) {  // returns the token
  const { tokens, machine, lines, rows } = box, { at, off, done } = box.dataset, away = offs(off);
  const rest = tokens.find(({ is_astray }) => is_astray) ?? written(tokens)[0] ?? tokens[0];
  const chosen = tokens[S[at]] ?? (done ? rest : tokens.at(-1)), number = tokens.indexOf(chosen);
  tokens.forEach(({ span }, i) => {
    span.classList.toggle("chosen", i === number);
    Object.assign(span, { role: "button", tabIndex: i === number ? 0 : -1 });
    span.onclick = span.onfocus = span.onmouseenter = () => S[at] === String(i) || draw({ [at]: String(i) });
    span.onkeydown = ({ key }) => tokens[i + { ArrowRight: 1, ArrowLeft: -1 }[key]]?.span.focus();
  });
  const n_layer = moe.config.n_layer, width = machine.getBoundingClientRect().width, column = (width - 24) / n_layer;
  const box_width = Math.min(110, .56 * column), height = 40, middle = 18 + height * experts.length / 2;
  const bottom = 2 * middle - 10, routing = chosen?.routing ?? [];
  machine.style.height = `${bottom + 24}px`;
  lines.replaceChildren();
  rows.forEach((row, i) => {
    row.replaceChildren();
    row.setAttribute("aria-checked", !away.includes(experts[i]));
  });
  for (let layer = 0; layer < n_layer; layer++) {
    const start = 12 + layer * column, end = start + column, left = start + (column - box_width) / 2, bend = start + 3;
    const gates = routing[layer] ? dense_gates(routing[layer]) : [];
    shape("text", lines, { x: start + column / 2, y: 10 }, column > 90 ? `layer ${layer + 1}` : layer + 1);
    rows.forEach((row, i) => {
      const y = 18 + height * (i + .5), right = left + box_width, gate = gates[i] ?? 0, is_off = away.includes(experts[i]);
      const x = [(start + left) / 2, (right + end) / 2];
      const d = `M${start} ${middle}C${x[0]} ${middle} ${x[0]} ${y} ${left} ${y}H${right}`
        + `C${x[1]} ${y} ${x[1]} ${middle} ${end} ${middle}`;
      if (gate) shape("path", lines, { d, class: "gate", style: `stroke: ${ink(i)}; stroke-width: ${10 * gate}` });
      else if (!is_off) shape("path", lines, { d, class: "thin" });
      if (gate) shape("path", lines, { d, class: "dot", pathLength: 1, style: `--layer: ${layer}; stroke-width: ${5 + 9 * gate}` });
      const fill = gate ? tint(i, gate) : "var(--card)", name = box_width > 7.5 * experts[i].length + 4 ? experts[i] : LETTERS[i];
      shape("path", row, { d: `M${left} ${y - 16}h${box_width}v32h${-box_width}z`, style: `fill: ${fill}`, class: is_off ? "thin" : "" });
      const center = left + box_width / 2, style = gate ? "fill: #111" : is_off ? "text-decoration: line-through" : "";
      shape("text", row, { x: center, y: y - 2, style }, name);
      shape("text", row, { x: center, y: y + 12, style: gate ? "fill: #111" : "" }, is_off ? "off" : gate ? gate.toFixed(2) : "");
    });
    shape("circle", lines, { cx: start, cy: middle, r: 6, fill: "currentColor" });
  }
  const name = token => token === undefined ? "" : `“${visible(token)}”`, before = tokens[number - 1]?.token;
  shape("path", lines, { d: `M12 ${bottom + 6}V${middle}M${width - 12} ${middle}V${bottom + 6}l-4 -7m4 7l4 -7` });
  shape("text", lines, { x: 2, y: bottom + 22, style: "text-anchor: start" }, `reads ${name(before)}`);
  shape("text", lines, { x: width - 2, y: bottom + 22, style: "text-anchor: end" },
    `${chosen?.written ? "writes" : "next"} ${name(chosen?.token)}`);
  return chosen;
}

// ---- how many tasks are solved: as PyTorch counted, and again here while S.count is not ""
const n_tasks = domain => tasks_of([domain]).length;
function right(domain, name, off = []) {
  const { solved } = data.counts.find(count => count.name === name && String(count.off) === String(off));
  return data.tasks.filter((task, i) => task.domain === domain && solved[i] === "1").length;
}

function draw_bars(id, rows) {  // rows(domain): [[label, number of right answers]]
  const is_new = !$(id).children.length;
  for (const domain of is_new ? (id === "mix_bars" ? branches : domains) : []) {
    const part = element("div", title(domain), $(id)), list = element("ol", "", part);
    for (const [label, n] of rows(domain)) {
      const bar = element("li", "", list, { className: "bar", style: `--share: ${100 * n / n_tasks(domain)}%` });
      for (const text of [label, n]) element("span", text, bar);
    }
  }
}

let counted = "";
async function draw_count() {
  if (counted === S.count) return;
  const mine = counted = S.count, out = $("count_now");
  let n = 0, same = 0;
  for (const { name, off, solved } of mine ? data.counts : []) {
    for (const [i, task] of data.tasks.entries()) {
      same += await is_solved(task, { name, off }) === (solved[i] === "1");
      if (counted !== mine) return;
      out.textContent = `${n += 1} of ${data.counts.length * data.tasks.length} answers counted, ${same} as in PyTorch`;
    }
  }
  if (mine) draw({ count: "" });
  if (mine) $("said").textContent = out.textContent;
}

async function is_solved({ prompt, answer }, who) {
  const tokens = [], length = encode_prompt(tokenizer, answer).length;
  for await (const token of read({ prompt, length, is_count: true, ...who })) tokens.push(token);
  return written_text(tokens).startsWith(answer);
}

// ---- a plot; x and y: { at: from a value to its place, ticks: [[value, label]] }
function plot(parent, label, x, y, width = 240, height = 150) {
  const svg = shape("svg", parent, { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  shape("path", svg, { d: `M30 8V${height - 22}H${width - 4}` });
  for (const [value, text] of x.ticks) shape("text", svg, { x: x.at(value), y: height - 8, "text-anchor": "middle" }, text);
  for (const [value, text] of y.ticks) shape("text", svg, { x: 26, y: y.at(value) + 4, "text-anchor": "end" }, text);
  return svg;
}

// ---- the sections
function draw_branch() {
  const now = Number(S.step), [, before] = model_of("seed").log.at(-1);
  const logs = branches.map(name => [[0, before], ...model_of(name).log]);  // at step 0 a branch is the seed
  $("step_now").textContent = logs[0][now][0];
  $("charts").replaceChildren();
  logs.forEach((log, i) => draw_chart(log, now, i + 1));
  $("between").hidden = now === 0 || now === logs[0].length - 1;
  $("branch_boxes").hidden = !$("between").hidden;
  all("#branch_boxes > *").forEach((box, i) => {
    box.hidden = now === 0 && i > 0;  // at step 0 all are the seed
    ask_dealt("branch", branches, { name: now ? experts[i] : "seed" }, box);
  });
}

function draw_chart(log, now, i) {  // of the branch that became expert i: its loss as a multiple of the seed's
  const name = experts[i], rest = single_domains.filter(domain => domain !== name);
  const figure = element("figure", "", $("charts")), caption = element("figcaption", "", figure);
  element("span", `${name} branch`, caption, { className: "key", style: `background: ${color_of(i)}` });
  const x = { at: t => 34 + 19.5 * t, ticks: [[0, 0], [4, "training step"], [log.length - 1.6, log.at(-1)[0]]] };
  const y = { at: ratio => 94 - 25 * Math.log2(ratio), ticks: [[.5, "½"], [1, 1], [2, 2], [4, 4], [8, 8]] };
  const svg = plot(figure, `Loss of the ${name} branch, as a multiple of the seed's, by training step`, x, y);
  shape("path", svg, { class: "thin", d: `M30 ${y.at(1)}H236M${x.at(now)} 8V128` });
  for (const [some, dashes, label] of [[[name], "", ` ${name} × `], [rest, "6 3", ", rest × "]]) {
    const ratios = log.map(([, loss]) => mean_loss(loss, some) / mean_loss(log[0][1], some));
    const points = ratios.map((ratio, t) => `${x.at(t)},${y.at(ratio)}`).join(" ");
    shape("polyline", svg, { points, style: `stroke: ${dashes ? "" : ink(i)}; stroke-width: 3; stroke-dasharray: ${dashes}` });
    caption.append(label + ratios[now].toFixed(2));
  }
}
const mean_loss = (loss, some) => some.reduce((sum, domain) => sum + loss[domain], 0) / some.length;

function draw_finetune() {
  const { name, steps } = mixtures()[S.tune];
  $("tune_now").textContent = steps;
  $("tune_counts").textContent = `Solved of ${n_tasks(domains[0])} test tasks after ${steps} steps: `
    + domains.map(domain => `${title(domain)} ${right(domain, name)}`).join(", ");
  $("tune_curve").replaceChildren();
  const x = { at: i => 40 + 40 * i, ticks: mixtures().map(({ steps }, i) => [i, steps]) };
  const y = { at: n => 190 - 4.4 * n, ticks: [0, 10, 20, 30, 40].map(n => [n, n]) };
  const svg = plot($("tune_curve"), "Solved test tasks by domain and steps", x, y, 330, 212);
  shape("path", svg, { class: "thin", d: `M${x.at(S.tune)} 8V190` });
  const lines = domains.map(domain => [domain, mixtures().map(({ name }) => y.at(right(domain, name)))]);
  let free = 0;  // from here down there is no name yet
  for (const [domain, heights] of lines.sort(([, a], [, b]) => a.at(-1) - b.at(-1))) {
    const i = number_of(domain), points = heights.map((height, i) => `${x.at(i)},${height}`).join(" ");
    shape("polyline", svg, { points, style: `stroke: ${ink(i)}; stroke-width: 2.5` });
    shape("text", svg, { x: 246, y: free = Math.max(free + 12, heights.at(-1) + 4) }, title(domain));
  }
  ask_dealt("tuned", branches, { name, is_whole: true });
}

function draw_results() {  // one plot for texts of one domain, one for texts that change it
  const x = { at: tflop => 36 + 18.5 * tflop, ticks: [0, 5, 10, 15].map(n => [n, n]) };
  const y = { at: percent => 330 - 3.2 * percent, ticks: [40, 60, 80, 100].map(n => [n, n]) };
  const rows = JSON.parse($("results").textContent);
  ["texts of one domain", "texts that change their domain"].forEach((label, panel) => {
    const figure = element("figure", "", $("results_plots"));
    element("figcaption", `Solved of ${label}, in %`, figure);
    const svg = plot(figure, `Solved ${label} by TFLOP in sequence`, x, y, 340, 262);
    shape("text", svg, { x: 336, y: 236, "text-anchor": "end" }, "TFLOP in sequence since the seed");
    for (const [name, tflop, weights, ...panels] of rows) {
      const [percent, spread, dx, dy, anchor] = panels[panel], at = [x.at(tflop), y.at(percent)];
      shape("path", svg, { class: "thin", d: `M${x.at(0)} ${y.at(rows[0][3 + panel][0])}L${at.join(" ")}` });
      shape("path", svg, { d: `M${at[0]} ${y.at(percent - spread)}V${y.at(percent + spread)}` });
      shape("circle", svg, { cx: at[0], cy: at[1], r: 8 * Math.sqrt(weights), class: name === "BTX" ? "point btx" : "point" });
      shape("text", svg, { x: at[0] + dx, y: at[1] + dy, "text-anchor": anchor }, name);
    }
  });
}

async function draw_lab() {
  const answer = data.tasks.find(({ prompt }) => prompt === S.text)?.answer, is_moe = model_of(S.model).experts.length > 0;
  for (const control of all(".moe")) control.hidden = !is_moe;
  $("lab_box").machine.toggleAttribute("hidden", !is_moe);
  await ask($("lab_box"), { name: S.model, prompt: S.text, answer, is_whole: true, off: offs("off"), k: Number(S.k) });
  explain(draw_machine($("lab_box")));
}

function explain(chosen) {  // how a token in the lab was predicted
  const panel = $("inside");
  panel.replaceChildren();
  if (!chosen) return panel.append($("lab_box").dataset.done ? "Nothing was read, so no token was predicted." : "");
  const probs = softmax(chosen.logits), percent = token => `${(100 * probs[token]).toFixed(1)}\u00a0%`;
  const name = token => visible(token).replaceAll(" ", "␣");
  const likeliest = [...probs.keys()].sort((a, b) => probs[b] - probs[a]).slice(0, 5);
  const left = element("div", "", panel), right = element("div", "", panel), list = document.createElement("ol");
  left.append(`“${name(chosen.token)}” had ${percent(chosen.token)}. The five likeliest:`, list);
  for (const token of likeliest) {
    const row = element("li", "", list, { className: "bar", style: `--share: ${100 * probs[token]}%` });
    for (const text of [name(token), percent(token)]) element("span", text, row);
  }
  right.append(chosen.routing.length ? "The largest gate in each layer:" : "A dense model has no experts and no gates.");
  const table = element("table", "", right);
  chosen.routing.forEach(({ experts: [top, ...more], gates, probs }, layer) => {
    const row = element("tr", "", table), shares = [top, ...more].map(i => (100 * probs[i]).toFixed(1));
    element("th", `${layer + 1} ${experts[top]}`, row);
    element("td", `${gates[0].toFixed(2)} = ${shares[0]} / (${shares.join(" + ")})`, row);
  });
}

function draw_hero() {
  const { domain, prompt, answer } = data.tasks[S.hero] ?? data.tasks[DEFAULTS.hero], off = offs("hero_off");
  const solved = `Of ${n_tasks(domain)} test tasks of ${domain} this mixture solves ${right(domain, moe.name)}`;
  $("hero_count").textContent = solved + (off.length === 1 ? `, without ${off} ${right(domain, moe.name, off)}.` : ".");
  ask($("hero_box"), { name: moe.name, prompt, answer, off, is_whole: true }).then(() => draw_machine($("hero_box")));
}

function draw_mix() {
  const alone = domain => experts.filter(name => name !== domain);
  draw_bars("mix_bars", domain => [["the seed", right(domain, "seed")], ["its branch", right(domain, domain)],
    ["its expert alone", right(domain, "steps0", alone(domain))], ["random routers", right(domain, "steps0")],
    ["everything averaged", right(domain, "average")]]);
  ask_dealt("mixed", branches, { name: "steps0" });
}

function draw_break() {
  draw_bars("break_bars", domain => [["all experts", right(domain, moe.name)],
    ...experts.map(name => [`without ${name}`, right(domain, moe.name, [name])])]);
  ask_dealt("two", ["switch"], { is_whole: true });
}

const SECTIONS = {
  hero: draw_hero,
  seed: () => ask_dealt("seed", single_domains, { name: "seed" }),
  branch: draw_branch,
  mix: draw_mix,
  finetune: draw_finetune,
  break: draw_break,
  lab: draw_lab,
};

// ---- S and the controls
const seen = new Set();  // sections
let later;
function draw(changes) {
  if ("text" in changes) S.at = "";
  if ("hero" in changes) S.hero_at = "";
  Object.assign(S, changes);
  sync();
  clearTimeout(later);  // browsers refuse to change the address too often
  later = setTimeout(() => {
    const changed = Object.entries(S).filter(([name, value]) => value !== DEFAULTS[name]);
    history.replaceState(null, "", "#" + new URLSearchParams(changed));
  }, 300);
  for (const id of seen) SECTIONS[id]();
  draw_count();
}

function sync() {  // controls and S agree: a value that a control does not have is its default
  for (const control of all("input[name], select[name], textarea[name]")) {
    control.value = S[control.name];
    if (control.selectedIndex === -1) control.value = DEFAULTS[control.name];  // the address named no model of the page
    S[control.name] = control.value;
  }
  for (const button of all("button[value]")) button.ariaPressed = String(S[button.name] === button.value);
}

function read_address() {
  const words = location.hash.slice(1), chosen = [...new URLSearchParams(words)].filter(([name]) => name in DEFAULTS);
  draw($(words) ? {} : { ...DEFAULTS, ...Object.fromEntries(chosen) });  // {}: it is a link to a section
}

function add_controls() {
  experts.forEach((_, i) => element("option", i + 1, $("k")));
  for (const { name, label } of models) element("option", label, $("model"), { value: name });
  for (const button of all("button[name]")) {  // with a value it can be pressed again; without, it is for the next task
    button.onclick = () => {
      const { name, value } = button, now = S[name];
      draw({ [name]: value ? (now === value ? "" : value) : String(Number(now) + 1) });
    };
  }
  const next = (domain, i) => {  // the number of the domain's next task
    const numbers = [...data.tasks.keys()].filter(j => data.tasks[j].domain === domain);
    return numbers.find(j => j > i) ?? numbers[0];
  };
  for (const domain of domains) {
    const now = () => data.tasks.findIndex(({ prompt }) => prompt === S.text);
    element("button", title(domain), $("deal")).onclick = () => draw({ text: data.tasks[next(domain, now())].prompt });
  }
  for (const button of all("[data-deal]")) {
    button.onclick = () => draw({ hero: String(next(button.dataset.deal, Number(S.hero))) });
  }
  document.addEventListener("input", ({ target: { name, value } }) => draw({ [name]: value }));
}

async function start() {
  unpack(data.models, await inflate(data.weights));
  models = list_models(data.models);
  all(".box").forEach(make_box);
  add_controls();
  if ($("results")) draw_results();
  read_address();
  addEventListener("resize", () => draw({}));
  addEventListener("hashchange", read_address);
  const observer = new IntersectionObserver(entries => {
    for (const { target } of entries.filter(entry => entry.isIntersecting).reverse()) {
      seen.add(target.id);
      SECTIONS[target.id]();  // of several sections the topmost asks last, so its question goes first
    }
  });
  for (const id of Object.keys(SECTIONS)) if ($(id)) observer.observe($(id));
  $("loading").remove();
}
start().catch(error => { $("loading").textContent = `This browser cannot run the page: ${error}`; });
