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

const DEFAULTS = { hero_off: "", step: "0", tune: "0", count: "",
                   hero: "0", seed: "0", branch: "0", mixed: "0", tuned: "0", two: "0",  // numbers of tasks
                   model: moe.name, k: String(moe.config.top_k), off: "", text: data.tasks[0]?.prompt ?? "", at: "" };
const S = { ...DEFAULTS };

const model_of = name => models.find(model => model.name === name);
const tasks_of = some => data.tasks.filter(({ domain }) => some.includes(domain));
const offs = name => S[name].split(",").filter(expert => experts.includes(expert));
const title = domain => domain === "switch" ? "two domains" : domain;
const visible = token => tokenizer.piece(token).replaceAll("\n", "⏎").replaceAll(END, "[end]");
const color_of = i => COLORS[i % COLORS.length];
const tint = (i, share) => `color-mix(in srgb, ${color_of(i)} ${25 + 75 * share}%, white)`;
const written_text = tokens => tokenizer.decode(tokens.filter(({ written }) => written).map(({ token }) => token));
const mixtures = () => models.filter(model => model.experts.length);

function element(tag, text, parent, properties = {}) {
  const made = Object.assign(document.createElement(tag), properties);
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

// ---- a box: who answers, the text as it is written, and whether it is right
async function ask(box, question) {
  const asked = JSON.stringify(question), { prompt, answer, is_whole } = question;
  if (box.dataset.asked === asked) return;
  Object.assign(box.dataset, { asked, done: "" });
  box.tokens = [];
  box.replaceChildren();
  element("p", describe(question), box, { className: "who" });
  const text = element("div", is_whole ? "" : prompt.replaceAll(END, "[end]") + "\n", box, { className: "text" });
  const verdict = element("p", why_not(question), box);
  if (!verdict.textContent) {
    for await (const token of read(question)) {
      if (box.dataset.asked !== asked) return;
      if (is_whole || token.written) box.tokens.push({ ...token, span: write(text, token) });
    }
    const is_right = written_text(box.tokens).startsWith(answer);
    verdict.className = answer === undefined ? "" : is_right ? "right" : "wrong";
    if (answer === undefined) verdict.append("Not a test task: the page does not know the right answer.");
    else verdict.append(is_right ? "✓ right" : `✗ wrong. Right:${answer.replace(END, "").trimEnd()}`);
  }
  box.dataset.done = "yes";
  if (box.closest("section").contains(document.activeElement)) $("said").textContent = verdict.textContent;
}

function write(text, { token, written, routing }) {  // in the color and with the letter of the largest gate
  const piece = visible(token), span = element("span", piece, text, { className: written ? "token written" : "token" });
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

// ---- right answers to the tasks of a domain, counted one after the other while S.count is a button's value
const COLUMNS = {  // value of the button: who answers the tasks of a domain, [column's title, question]
  mix: domain => [["its branch", { name: domain }],
                  ["its expert alone", { name: "steps0", off: experts.filter(name => name !== domain) }],
                  ["random routers", { name: "steps0" }], ["everything averaged", { name: "average" }]],
  tune: () => mixtures().map(({ name, steps }) => [`${steps} steps`, { name }]),
  break: () => [["all experts", {}], ...experts.map(name => [`without ${name}`, { off: [name] }])],
};
let counted = "";
async function draw_count() {
  if (counted === S.count) return;
  const mine = counted = S.count, button = all("[name=count]").find(({ value }) => value === mine);
  if (!button) return;  // it was stopped
  const parent = button.closest("section").querySelector(".scroll"), table = element("table", "", parent);
  const head = element("tr", "", table), rows = mine === "mix" ? branches : domains;
  Object.assign(parent, { tabIndex: 0, role: "region", ariaLabel: button.textContent }).replaceChildren(table);
  for (const [name] of [["test tasks"], ...COLUMNS[mine]()]) element("th", name, head);
  for (const domain of rows) {
    const row = element("tr", "", table);
    element("th", title(domain), row);
    for (const [, who] of COLUMNS[mine](domain)) {
      const cell = element("td", "", row), tasks = tasks_of([domain]);
      let right = 0;
      for (const [i, task] of tasks.entries()) {
        right += await is_solved(task, who);
        if (counted !== mine) return;
        cell.textContent = `${right}/${i + 1}`;
        cell.style.background = `color-mix(in srgb, var(--good) ${100 * right / (i + 1)}%, Canvas)`;
      }
    }
  }
  draw({ count: "" });
}

async function is_solved({ prompt, answer }, who) {
  const tokens = [], length = encode_prompt(tokenizer, answer).length;
  for await (const token of read({ name: moe.name, prompt, length, is_count: true, ...who })) tokens.push(token);
  return written_text(tokens).startsWith(answer);
}

// ---- the sections
function draw_branch() {
  const now = Number(S.step), [, before] = model_of("seed").log.at(-1);
  const logs = branches.map(name => [[0, before], ...model_of(name).log]);  // at step 0 a branch is the seed
  $("step_now").textContent = logs[0][now][0];
  $("charts").replaceChildren(...logs.map((log, i) => draw_chart(log, now, i + 1)));
  $("between").hidden = now === 0 || now === logs[0].length - 1;
  $("branch_boxes").hidden = !$("between").hidden;
  all("#branch_boxes > *").forEach((box, i) => ask_dealt("branch", branches, { name: now ? experts[i] : "seed" }, box));
}

function draw_chart(log, now, i) {  // of the branch that became expert i
  const name = experts[i], rest = single_domains.filter(domain => domain !== name);
  const chart = document.querySelector("template").content.firstElementChild.cloneNode(true);
  const [key, numbers] = chart.querySelectorAll("span"), lines = chart.querySelectorAll("polyline");
  const x = t => 30 + 19 * t, y = loss => 128 - 21 * loss;
  [[name], rest].forEach((some, line) => {
    const losses = log.map(([, loss]) => some.reduce((sum, domain) => sum + loss[domain], 0) / some.length);
    lines[line].setAttribute("points", losses.map((loss, t) => `${x(t)},${y(loss)}`).join(" "));
    numbers.append(`${["", ", rest "][line]}${losses[now].toFixed(2)}`);
  });
  Object.assign(key, { textContent: `${name} branch`, style: `background: ${color_of(i)}` });
  lines[0].style.stroke = `light-dark(color-mix(in srgb, ${color_of(i)} 65%, black), ${color_of(i)})`;
  chart.querySelector(".thin").setAttribute("d", `M${x(now)} 18V128`);
  chart.querySelector("title").append(`Loss of the ${name} branch by training step`);
  chart.querySelector("text:last-child").append(log.at(-1)[0]);
  return chart;
}

function draw_finetune() {
  const { name, steps } = mixtures()[S.tune];
  $("tune_now").textContent = steps;
  ask_dealt("tuned", branches, { name, is_whole: true });
}

async function draw_lab() {
  const answer = data.tasks.find(({ prompt }) => prompt === S.text)?.answer;
  for (const control of all(".moe")) control.hidden = !model_of(S.model).experts.length;
  const who = { name: S.model, off: offs("off"), k: Number(S.k) };
  const answered = ask($("lab_box"), { prompt: S.text, answer, is_whole: true, ...who });
  explain();
  await answered;
  explain();
}

function explain() {  // how token S.at in the lab, or the first written one, was predicted
  const { tokens, dataset } = $("lab_box"), panel = $("inside");
  const chosen = tokens[S.at] ?? tokens.find(({ written }) => written) ?? tokens[0];
  panel.replaceChildren();
  if (!chosen) return panel.append(dataset.done ? "Nothing was read, so no token was predicted." : "");
  tokens.forEach(({ span }, i) => {
    span.classList.toggle("chosen", span === chosen.span);
    Object.assign(span, { role: "button", tabIndex: span === chosen.span ? 0 : -1 });
    span.onclick = span.onfocus = () => draw({ at: String(i) });
    span.onkeydown = ({ key }) => tokens[i + { ArrowRight: 1, ArrowLeft: -1 }[key]]?.span.focus();
  });
  const probs = softmax(chosen.logits), percent = token => `${(100 * probs[token]).toFixed(1)}\u00a0%`;
  const name = token => visible(token).replaceAll(" ", "␣");
  const likeliest = [...probs.keys()].sort((a, b) => probs[b] - probs[a]).slice(0, 5);
  const left = element("div", "", panel), right = element("div", "", panel), list = document.createElement("ol");
  left.append(`“${name(chosen.token)}” had ${percent(chosen.token)}. The five likeliest:`, list);
  for (const token of likeliest) {
    const row = element("li", "", list, { className: "bar", style: `--share: ${100 * probs[token]}%` });
    for (const text of [name(token), percent(token)]) element("span", text, row);
  }
  right.append(chosen.routing.length ? "The gates of the experts:" : "A dense model has no experts and no gates.");
  const scroll = element("div", "", right, { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Gates" });
  const table = element("table", "", scroll);
  chosen.routing.forEach(({ experts: asked, gates, probs }, layer) => {
    const row = element("tr", "", table), shares = asked.map(i => (100 * probs[i]).toFixed(1));
    element("th", `layer\u00a0${layer + 1}`, row);
    asked.forEach((i, choice) => {
      const style = `background: ${tint(i, gates[choice])}; color: #111`;
      element("td", `${gates[choice].toFixed(2)} ${experts[i]}`, row, { style });
    });
    element("td", `${gates[0].toFixed(2)} = ${shares[0]} / (${shares.join(" + ")})`, row);
  });
}

const SECTIONS = {
  hero: () => ask_dealt("hero", ["math"], { off: offs("hero_off") }),
  seed: () => ask_dealt("seed", single_domains, { name: "seed" }),
  branch: draw_branch,
  mix: () => ask_dealt("mixed", branches, { name: "steps0" }),
  finetune: draw_finetune,
  break: () => ask_dealt("two", ["switch"], { is_whole: true }),
  lab: draw_lab,
};

// ---- S and the controls
const seen = new Set();  // sections
let later;
function draw(changes) {
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
  const words = location.hash.slice(1), chosen = [...new URLSearchParams(words)].filter(([name]) => name in DEFAULTS);
  draw($(words) ? {} : { ...DEFAULTS, ...Object.fromEntries(chosen) });  // {}: it is a link to a section
}

function add_controls() {
  for (const fieldset of all("fieldset[name]")) {
    experts.forEach((value, i) => {
      const label = element("label", "", fieldset, { className: "switch" });
      element("input", "", label, { type: "checkbox", name: fieldset.name, value });
      element("span", `${LETTERS[i]} ${value}`, label, { className: "key", style: `background: ${tint(i, 1)}` });
    });
  }
  experts.forEach((_, i) => element("option", i + 1, $("k")));
  for (const { name, label } of models) element("option", label, $("model"), { value: name });
  for (const button of all("button[name]")) {  // with a value it can be pressed again; without, it is for the next task
    button.onclick = () => {
      const { name, value } = button, now = S[name];
      draw({ [name]: value ? (now === value ? "" : value) : String(Number(now) + 1) });
    };
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
