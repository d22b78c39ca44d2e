"use strict";
// The page is drawn from S, what the reader chose. A control changes the value in S that has its name, and draw() shows
// everything anew. All text is set as text, so none of it becomes markup.
const $ = id => document.getElementById(id);
const all = selector => [...document.querySelectorAll(selector)];
const data = JSON.parse($("data").textContent);
const tokenizer = load_tokenizer(data.definition);
const moe = data.models.at(-1), { experts } = moe, branches = experts.slice(1);
const domains = [...new Set(data.tasks.map(({ domain }) => domain))];
const single_domains = domains.filter(domain => domain !== "switch");
const COLORS = ["#b4b4b4", "#56b4e9", "#ee8a3c", "#f0e442", "#cc79a7", "#00b38a", "#a9a1ff", "#ff9da7"];  // tell apart
let models = [];  // with their weights, once they are unpacked

const DEFAULTS = { hero_off: "", step: "10", mix: "", tune: "0", how: "", token: "",
                   hero: "0", seed: "0", branch: "0", mixed: "0", tuned: "0", two: "0", one: "0",  // numbers of tasks
                   model: moe.name, k: String(moe.config.top_k), off: "", text: data.tasks[0]?.prompt ?? "", at: "" };
const S = { ...DEFAULTS };

const model_of = name => models.find(model => model.name === name);
const tasks_of = some => data.tasks.filter(({ domain }) => some.includes(domain));
const offs = name => S[name].split(",").filter(expert => experts.includes(expert));
const mean = values => values.reduce((a, b) => a + b) / values.length;
const title = domain => domain === "switch" ? "two domains" : domain;
const visible = piece => piece.replaceAll("\n", "⏎").replaceAll(END, "[end]");
const tint = (i, share) => `color-mix(in srgb, ${COLORS[i % COLORS.length]} ${25 + 75 * share}%, white)`;
const written_text = tokens => tokenizer.decode(tokens.filter(({ written }) => written).map(({ token }) => token));

function element(tag, text, parent, properties = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(text);
  parent.append(made);
  return made;
}

// ---- a question: { name: of a model, prompt, answer: how a right one begins, off: experts switched off, k }
let rested = 0;
async function* read({ name, prompt, off = [], k = moe.config.top_k, length = 60 }) {  // and writes an answer
  const switches = { top_k: k, off: off.map(expert => experts.indexOf(expert)) };
  const ids = encode_prompt(tokenizer, prompt);
  for (const token of read_and_write(model_of(name), ids, tokenizer.eot, length, switches)) {
    yield token;
    if (performance.now() - rested < 12) continue;
    await new Promise(resolve => setTimeout(resolve));  // the browser draws, and answers keys
    rested = performance.now();
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

async function rate(output, some, who) {  // counts right answers to tasks while one watches
  const asked = JSON.stringify(who);
  if (output.dataset.asked === asked) return;
  output.dataset.asked = asked;
  output.textContent = "";
  let right = 0;
  for (const [i, { prompt, answer }] of some.entries()) {
    const tokens = [], length = encode_prompt(tokenizer, answer).length;
    for await (const token of read({ name: moe.name, prompt, length, ...who })) tokens.push(token);
    if (output.dataset.asked !== asked || !output.isConnected) return;
    right += written_text(tokens).startsWith(answer);
    output.textContent = `${right}/${i + 1}`;
    output.style.background = `color-mix(in srgb, var(--good) ${100 * right / (i + 1)}%, Canvas)`;
  }
}

// ---- a box: who answers, the text as it is written, and whether it is right
async function ask(box, question) {
  const asked = JSON.stringify(question), { prompt, answer, is_whole } = question;
  if (box.dataset.asked === asked) return choose(box);
  Object.assign(box.dataset, { asked, done: "" });
  box.tokens = [];
  box.replaceChildren();
  element("p", describe(question), box, { className: "who" });
  const text = element("div", is_whole ? "" : prompt.replaceAll(END, "[end]") + "\n", box, { className: "text" });
  const verdict = element("p", why_not(question), box, { role: "status" });
  if (!verdict.textContent) {
    for await (const token of read(question)) {
      if (box.dataset.asked !== asked) return;
      if (is_whole || token.written) box.tokens.push({ ...token, span: write(text, token) });
    }
    judge(verdict, written_text(box.tokens), answer);
  }
  choose(box);
  box.dataset.done = "yes";
}

function write(text, { token, written, routing }) {  // in the colour and with the letter of the largest gate
  const piece = visible(tokenizer.piece(token));
  const span = element("span", piece, text, { className: written ? "token written" : "token" });
  if (routing.length) {
    const gates = expert_load(routing), top = gates.indexOf(largest(gates));
    span.style.background = tint(top, gates[top]);
    span.dataset.letter = experts[top][0].toUpperCase();
    span.title = `${experts[top]} ${Math.round(100 * gates[top])} %`;
    Object.assign(span, { role: "img", ariaLabel: `${piece}: ${span.title}` });
  }
  if (piece.endsWith("⏎")) text.append("\n");
  return span;
}

function judge(verdict, written, answer) {
  if (answer === undefined) return verdict.append("Not a test task: nobody knows the right answer.");
  const is_right = written.startsWith(answer);
  verdict.className = is_right ? "right" : "wrong";
  verdict.append(is_right ? "✓ right" : `✗ wrong. Right:${answer.replace(END, "").trimEnd()}`);
}

function choose({ tokens, dataset: { at } }) {  // in a box with data-at: token S[at], or the first written one
  if (!at || !tokens.length) return;
  const chosen = tokens[S[at]] ?? tokens.find(({ written }) => written) ?? tokens[0];
  tokens.forEach(({ span }, i) => {
    span.classList.toggle("chosen", span === chosen.span);
    Object.assign(span, { role: "button", tabIndex: span === chosen.span ? 0 : -1 });
    span.onclick = span.onfocus = () => draw({ [at]: String(i) });
    span.onkeydown = ({ key }) => tokens[i + { ArrowRight: 1, ArrowLeft: -1 }[key]]?.span.focus();
  });
  explain($(`${at}_table`), chosen.routing);
}

function explain(table, routing) {  // the gates that predicted a token
  table.replaceChildren();
  routing.forEach(({ experts: chosen, gates, probs }, layer) => {
    const row = element("tr", "", table), shares = chosen.map(i => (100 * probs[i]).toFixed(1));
    element("th", `layer ${layer + 1}`, row);
    chosen.forEach((i, choice) => {
      const style = `background: ${tint(i, gates[choice])}; color: #111`;
      element("td", `${gates[choice].toFixed(2)} FF_${experts[i]}(x)`, row, { style });
    });
    element("td", `${gates[0].toFixed(2)} = ${shares[0]} / (${shares.join(" + ")})`, row);
  });
}

// ---- the sections
function ask_dealt(id, some, who, box = $(`${id}_box`)) {  // task number S[id] of some domains
  const tasks = tasks_of(some), { prompt, answer } = tasks[S[id] % tasks.length] ?? tasks[0];
  return ask(box, { name: moe.name, prompt, answer, ...who });
}

function draw_branch() {
  const [seed, ...trained] = experts.map(model_of), now = Number(S.step), before = seed.log.at(-1)[1];
  $("step_now").textContent = now ? trained[0].log[now - 1][0] : 0;
  $("charts").replaceChildren();
  for (const { name, log } of trained) {
    const losses = [before, ...log.map(([, loss]) => loss)];  // at step 0 a branch is the seed
    const x = i => 22 + 19 * i, y = loss => 118 - 21 * loss;
    const curve = some => losses.map((loss, i) => `${x(i)},${y(mean(some.map(domain => loss[domain])))}`).join(" ");
    const change = domain => ["▼", "", "▲"][1 + Math.sign(losses[now][domain] - before[domain])];
    const numbers = single_domains.map(domain => `${domain} ${losses[now][domain].toFixed(2)} ${change(domain)}`);
    const chart = $("chart").content.cloneNode(true), [own, others] = chart.querySelectorAll("polyline");
    own.setAttribute("points", curve([name]));
    others.setAttribute("points", curve(single_domains.filter(domain => domain !== name)));
    chart.querySelector(".now").setAttribute("d", `M${x(now)} 8V118`);
    chart.querySelector("figcaption").textContent = `${name} branch: ${numbers.join(", ")}`;
    $("charts").append(chart);
  }
  experts.forEach((name, i) => ask_dealt("branch", branches, { name }, $("branch_boxes").children[i]));
}

function draw_mix() {
  const mixed = model_of(S.mix);
  $("mixing").hidden = !mixed;
  if (!mixed) return;
  for (const name of ["steps0", "average"]) $(`why_${name}`).hidden = name !== S.mix;
  const millions = ({ state }) => (Object.values(state).reduce((sum, w) => sum + w.length, 0) / 1e6).toFixed(2);
  const [before, after] = [model_of("seed"), mixed].map(millions);
  $("sizes").textContent = `${experts.length} × ${before} million weights become ${after} million.`;
  ask_dealt("mixed", branches, { name: S.mix });
  rate($("mixed_rate"), tasks_of(single_domains).slice(0, 30), { name: S.mix });
}

function draw_finetune() {
  const { name, steps } = models.filter(model => model.experts.length)[S.tune];
  $("tune_now").textContent = steps;
  ask_dealt("tuned", branches, { name, is_whole: true });
  rate($("tuned_rate"), tasks_of(single_domains).slice(0, 30), { name });
}

function draw_break() {
  const table = $("table"), asked = `${S.how} ${S.k}`, k = Number(S.k);
  ask_dealt("two", ["switch"], { k, is_whole: true });
  if (!S.how || table.dataset.asked === asked) return;
  table.dataset.asked = asked;
  table.replaceChildren();
  const off_of = name => S.how === "without" ? [name] : experts.filter(expert => expert !== name);
  const columns = [["all", []], ...experts.map(name => [`${S.how} ${name}`, off_of(name)])];
  const head = element("tr", "", table);
  for (const text of ["", ...columns.map(([text]) => text)]) element("th", text, head);
  for (const domain of domains) {
    const row = element("tr", "", table);
    element("th", title(domain), row);
    for (const [, off] of columns) rate(element("td", "", row), tasks_of([domain]), { off, k });
  }
}

function draw_lab() {
  const answer = data.tasks.find(({ prompt }) => prompt === S.text)?.answer;
  ask($("lab_box"), { name: S.model, prompt: S.text, answer, off: offs("off"), k: Number(S.k), is_whole: true });
}

const SECTIONS = {
  hero: () => ask_dealt("hero", ["math"], { off: offs("hero_off") }),
  seed: () => ask_dealt("seed", single_domains, { name: "seed" }),
  branch: draw_branch, mix: draw_mix, finetune: draw_finetune, break: draw_break,
  one: () => ask_dealt("one", branches, { is_whole: true }),
  lab: draw_lab,
};

// ---- S and the controls
let later;
async function draw(changes) {
  Object.assign(S, changes);
  sync();
  clearTimeout(later);  // browsers refuse to change the address too often
  later = setTimeout(() => {
    const changed = Object.entries(S).filter(([name, value]) => value !== DEFAULTS[name]);
    history.replaceState(null, "", "#" + new URLSearchParams(changed));
  }, 300);
  for (const { id } of all("section")) await SECTIONS[id]();  // the first has its answer before the others begin
}

function sync() {  // controls show S
  for (const control of all("input[name], select[name], textarea[name]")) {
    const { name, type, value } = control;
    if (type === "checkbox") control.checked = !offs(name).includes(value);
    else {
      control.value = S[name];
      if (control.selectedIndex === -1) control.value = DEFAULTS[name];  // the address named a model that is not here
      S[name] = control.value;
    }
  }
  for (const button of all("button[value]")) button.ariaPressed = String(S[button.name] === button.value);
}

function read_address() {
  const chosen = [...new URLSearchParams(location.hash.slice(1))].filter(([name]) => name in DEFAULTS);
  draw({ ...DEFAULTS, ...Object.fromEntries(chosen) });
}

function add_controls() {
  for (const fieldset of all("fieldset[name]")) {
    experts.forEach((value, i) => {
      const label = element("label", "", fieldset, { className: "switch" });
      element("input", "", label, { type: "checkbox", name: fieldset.name, value });
      element("span", value, label, { className: "key", style: `background: ${tint(i, 1)}` });
    });
  }
  for (const select of all("select[name=k]")) experts.forEach((_, i) => element("option", i + 1, select));
  for (const { name, label } of models) element("option", label, $("model"), { value: name });
  for (const button of all("button[name]")) {  // one without a value asks for the next task
    button.onclick = () => draw({ [button.name]: button.value || String(Number(S[button.name]) + 1) });
  }
  for (const domain of domains) {
    element("button", title(domain), $("deal")).onclick = () => {
      const prompts = tasks_of([domain]).map(({ prompt }) => prompt);
      draw({ text: prompts[(prompts.indexOf(S.text) + 1) % prompts.length] });
    };
  }
  document.addEventListener("input", ({ target: { name, type, value } }) => {
    const off = all(`input[name=${name}]:not(:checked)`).map(box => box.value);
    draw({ [name]: type === "checkbox" ? off.join() : value });
  });
}

async function start() {
  unpack(data.models, await inflate(data.weights));
  models = list_models(data.models);
  add_controls();
  read_address();
  addEventListener("hashchange", read_address);
  $("loading").remove();
}
start().catch(error => { $("loading").textContent = `This browser cannot run the page: ${error}`; });
