"use strict";
// All that is shown is a function of S, what the reader chose. A control sets the value in S that has its name, and
// draw() shows everything anew. All text is set as textContent, so none of it becomes markup.
const $ = id => document.getElementById(id), data = JSON.parse($("data").textContent);
const tokenizer = load_tokenizer(data.definition), { eot } = tokenizer;
const moe = data.models.at(-1), { experts } = moe, tasks_of = data.tasks;
const COLORS = ["#b4b4b4", "#56b4e9", "#ee8a3c", "#f0e442", "#cc79a7", "#00b38a", "#a9a1ff", "#ff9da7"];  // tell apart
const percent = x => (100 * x).toFixed(x && x < 0.0995 ? 1 : 0) + " %";
const visible = piece => piece.replaceAll("\n", "⏎").replaceAll(END, "[end]");
const quoted = piece => `“${visible(piece).replace(/^ +$/, "␣")}”`;
const tint = (i, share) => `color-mix(in srgb, ${COLORS[i % COLORS.length]} ${25 + 75 * share}%, white)`;
const initials = experts.map(name => name[0].toUpperCase()), is_unique = new Set(initials).size === initials.length;
const letters = experts.map((_, i) => is_unique ? initials[i] : String(i + 1));
let models = [];

const DEFAULTS = { model: moe.name, k: String(moe.config.top_k), off: "", text: "", at: "" };  // of the lab
const S = { ...DEFAULTS };
const offs = name => S[name].split(",").filter(expert => experts.includes(expert));
const sections = { lab: draw_lab }, seen = new Set();  // a section is drawn once it has come near the screen

function element(tag, text, parent, properties = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(text);
  parent.append(made);
  return made;
}

function key(parent, i) {  // an expert's letter on its colour, and its name
  element("span", letters[i], parent, { className: "key", style: `background: ${tint(i, 1)}`, ariaHidden: "true" });
  parent.append(" " + experts[i]);
}

let rested = 0;
async function pause() {  // lets the browser draw and answer keys, every few tokens
  if (performance.now() - rested < 12) return;
  await new Promise(resolve => setTimeout(resolve));
  rested = performance.now();
}

function describe({ name, off = [], k = moe.config.top_k }) {  // who answers
  const model = models.find(model => model.name === name);
  const without = off.length && model.experts.length ? `, ${off.join(" and ")} switched off` : "";
  return model.label + without + (model.experts.length && k !== moe.config.top_k ? `, k = ${k}` : "");
}

function answer_of({ name, prompt, off = [], k = moe.config.top_k }) {  // reads and writes up to 60 tokens
  const model = models.find(model => model.name === name), ids = encode_prompt(tokenizer, prompt);
  return read_and_write(model, ids, eot, 60, { top_k: k, off: off.map(expert => experts.indexOf(expert)) });
}

function why_not({ name, prompt, off = [] }) {  // why a text is not read
  const model = models.find(model => model.name === name);
  if (prompt.length > 1000) return `This text has ${prompt.length} characters. The page takes 1000.`;
  const n = encode_prompt(tokenizer, prompt).length - 1, most = model.config.block_size - 10;
  if (n > most) return `This text has ${n} tokens. The page takes ${most}, so that 10 are left for the answer.`;
  return model.experts.length && off.length === experts.length ? "The router needs an expert: switch one on." : "";
}

// Asks a model, and writes into a box as it goes: who answers, the text, and whether it is right. question: { name,
// prompt, answer: how a right one begins, off: experts, k, is_whole: whether the tokens of the prompt are shown, too }.
async function ask(box, question) {
  const asked = JSON.stringify(question);
  if (box.dataset.asked === asked) return choose(box);
  Object.assign(box.dataset, { asked, done: "" });
  const { prompt, answer, is_whole } = question;
  box.replaceChildren();
  element("p", describe(question), box, { className: "who" });
  const text = element("div", "", box, { className: "text" });
  const verdict = element("p", "", box, { className: "verdict", role: "status" });
  box.reads = [];
  const problem = why_not(question);
  if (problem) verdict.textContent = problem;
  else {
    if (!is_whole) element("div", visible(prompt).replaceAll("⏎", "\n"), text);
    for (const read of answer_of(question)) {
      box.reads.push(read);
      if (is_whole || read.written) write_token(text, read, box);
      await pause();
      if (box.dataset.asked !== asked) return;
    }
    judge(verdict, box, answer);
  }
  choose(box);
  box.dataset.done = "yes";
}

function judge(verdict, box, answer) {
  const written = tokenizer.decode(box.reads.filter(read => read.written).map(read => read.token));
  const is_right = written.startsWith(answer), cut = box.reads.at(-1).token === eot ? "" : " It is cut here.";
  if (answer !== undefined) verdict.classList.add(is_right ? "right" : "wrong");
  if (answer === undefined) verdict.textContent = `Not a test task: nobody knows the right answer.${cut}`;
  else verdict.textContent = is_right ? "✓ right" : `✗ wrong. Right:${answer.replace(END, "").trimEnd()}`;
}

function write_token(parent, read, box) {  // in the colour and with the letter of the largest gate, if any
  const piece = tokenizer.piece(read.token), gates = read.routing.length ? expert_load(read.routing) : [];
  const span = element("span", visible(piece), parent, { className: read.written ? "token written" : "token" });
  read.span = span;
  if (gates.length) {
    const top = gates.indexOf(Math.max(...gates));
    span.style.background = tint(top, gates[top]);
    span.dataset.letter = letters[top];
    span.title = `${experts[top]} ${percent(gates[top])}`;
    span.ariaLabel = `${visible(piece)}: ${span.title}`;
    span.role = "img";
  }
  if (piece.endsWith("\n")) element("br", "", parent);
  if (!box.dataset.at) return;
  Object.assign(span, { role: "button", tabIndex: -1 });
  const at = box.reads.length - 1, move = { ArrowRight: 1, ArrowLeft: -1 };
  span.onclick = span.onfocus = () => {
    S[box.dataset.at] = String(at);
    draw();
  };
  span.onkeydown = event => box.reads[at + move[event.key]]?.span.focus();
}

function choose(box) {  // shows the chosen token of a box, or the first written one; Tab reaches it
  if (!box.dataset.at || !box.reads) return;
  const read = box.reads[S[box.dataset.at] || -1] ?? box.reads.find(read => read.written) ?? box.reads[0];
  for (const { span } of box.reads) {
    span.classList.toggle("chosen", span === read.span);
    span.tabIndex = span === read.span ? 0 : -1;
  }
  show_token($(box.dataset.panel), read);
}

function show_token(panel, read) {  // the gates that predicted a token, and what else was likely
  panel.replaceChildren();
  if (!read) return;
  element("h3", `How ${quoted(tokenizer.piece(read.token))} was predicted`, panel);
  const gates = element("table", "", panel), list = element("ol", "", panel, { className: "formula" });
  const head = element("tr", "", gates);
  element("th", "gates", head);
  experts.forEach((_, i) => key(element("th", "", head), i));
  read.routing.forEach((layer, l) => {
    const line = element("tr", "", gates), chosen = layer.experts.map(i => (100 * layer.probs[i]).toFixed(1));
    element("th", `layer ${l + 1}`, line);
    dense_gates(layer).forEach((gate, i) => {
      const style = gate ? `background: ${tint(i, gate)}; color: #111` : "";
      element("td", gate ? percent(gate) : "–", line, { style });
    });
    const terms = layer.experts.map((i, choice) => `${layer.gates[choice].toFixed(2)} FF_${experts[i]}(x)`);
    const first_gate = `${chosen[0]} / (${chosen.join(" + ")}) = ${layer.gates[0].toFixed(2)}`;
    element("li", `${terms.join(" + ")}, as ${first_gate}`, list);
  });
  if (!read.routing.length) gates.replaceChildren("A dense model has no router and no gates.");
  const probs = softmax(read.logits), likeliest = [...probs.keys()].sort((a, b) => probs[b] - probs[a]).slice(0, 5);
  const names = likeliest.map(id => `${quoted(tokenizer.piece(id))} ${percent(probs[id])}`);
  element("p", `Likeliest here: ${names.join(", ")}.`, panel);
}

function draw_lab() {
  const answer = Object.values(tasks_of).flat().find(task => task.prompt === S.text)?.answer;
  ask($("lab_box"), { name: S.model, prompt: S.text, answer, off: offs("off"), k: Number(S.k), is_whole: true });
}

function sync() {  // controls show S; S keeps only what a control accepts
  for (const control of document.querySelectorAll("input[name], select[name], textarea[name]")) {
    const { name, type, value } = control;
    if (type === "checkbox") control.checked = !offs(name).includes(value);
    else if (value !== S[name]) {
      control.value = S[name];
      if (control.selectedIndex === -1) control.value = DEFAULTS[name];  // an address named no model that is here
      S[name] = control.value;
    }
  }
  for (const button of document.querySelectorAll("button[data-set]")) {
    const wanted = [...new URLSearchParams(button.dataset.set)];
    button.ariaPressed = String(wanted.every(([name, value]) => S[name] === value));
  }
}

let later;
function draw() {
  sync();
  for (const id of seen) sections[id]();
  clearTimeout(later);  // browsers refuse to change the address too often
  later = setTimeout(() => {
    const changed = Object.entries(S).filter(([name, value]) => value !== DEFAULTS[name]);
    history.replaceState(null, "", "#" + new URLSearchParams(changed));
  }, 300);
}

function read_address() {
  Object.assign(S, DEFAULTS);
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) if (name in S) S[name] = value;
}

document.addEventListener("input", ({ target }) => {
  const is_off = box => !box.checked, { name, type, value } = target;
  S[name] = type === "checkbox" ? [...document.getElementsByName(name)].filter(is_off).map(b => b.value).join() : value;
  draw();
});
document.addEventListener("click", ({ target }) => {
  const button = target.closest("button[data-set]");
  if (!button) return;
  Object.assign(S, Object.fromEntries(new URLSearchParams(button.dataset.set)));
  draw();
});

function add_controls() {
  for (const fieldset of document.querySelectorAll("[data-off]")) {
    experts.forEach((value, i) => {
      const label = element("label", "", fieldset, { className: "switch" });
      element("input", "", label, { type: "checkbox", name: fieldset.dataset.off, value });
      key(label, i);
    });
  }
  for (const select of document.querySelectorAll("select.k")) {
    experts.forEach((_, i) => element("option", i + 1, select, { value: String(i + 1) }));
  }
  models.forEach(({ name, label }) => element("option", label, $("model"), { value: name }));
  for (const [domain, some] of Object.entries(tasks_of)) {
    let number = 0;
    element("button", domain === "switch" ? "two domains" : domain, $("deal"), { type: "button" }).onclick = () => {
      Object.assign(S, { text: some[number++ % some.length].prompt, at: "" });
      draw();
    };
  }
}

async function start() {
  unpack(data.models, await inflate(data.weights));
  models = list_models(data.models);
  DEFAULTS.text = (tasks_of.math ?? Object.values(tasks_of)[0] ?? [{ prompt: "" }])[0].prompt;
  read_address();
  add_controls();
  addEventListener("hashchange", () => { read_address(); draw(); });
  const observer = new IntersectionObserver(entries => {
    const near = entries.filter(entry => entry.isIntersecting).map(entry => entry.target.id);
    if (near.every(id => seen.has(id))) return;
    near.forEach(id => seen.add(id));
    draw();
  }, { rootMargin: "200px" });
  Object.keys(sections).forEach(id => observer.observe($(id)));
  $("loading").remove();
}
