"use strict";
// The page is drawn from S, what the reader chose. A control changes the value of its name. Text never becomes markup.
const $ = id => document.getElementById(id);
const all = selector => [...document.querySelectorAll(selector)];
const data = JSON.parse($("data").textContent);
const tokenizer = load_tokenizer(data.definition);
const moe = data.models.at(-1), { experts } = moe, branches = experts.slice(1);
const domains = [...new Set(data.tasks.map(({ domain }) => domain))];
const LETTERS = experts.map((name, i) => experts.some((other, j) => j !== i && other[0] === name[0])
  ? String(i + 1) : name[0].toUpperCase());
let models = [];  // with their weights, once they are unpacked

const first_task = data.tasks.find(({ domain }) => domain === branches[0]) ?? data.tasks[0];
const DEFAULTS = { hero: first_task?.prompt ?? "", hero_off: "", hero_at: "",
                   text: data.tasks[0]?.prompt ?? "", text_off: "", text_at: "",
                   model: moe.name, k: String(moe.config.top_k), step: "0", branch: "0", tune: "0", tuned: "0" };
const S = { ...DEFAULTS };

const model_of = name => models.find(model => model.name === name);
const tasks_of = some => data.tasks.filter(({ domain }) => some.includes(domain));
const offs = name => S[name].split(",").filter(expert => experts.includes(expert));
const title = domain => domain === "switch" ? "changing" : domain;
const visible = token => tokenizer.piece(token).replaceAll("\n", "⏎").replaceAll(END, "[end]");
const quoted = ({ token } = { token: tokenizer.eot }) => `“${visible(token).replaceAll(" ", "␣")}”`;
const mean_gates = routings => routings.length ? expert_load(routings) : [];  // over tokens and layers
const write_at = (svg, x, y, text, anchor = "middle") => put(svg, "text", { x, y, "text-anchor": anchor }, text);
const color_of = name => data.colors[name] ?? "currentColor";
const tint = (name, share) => `color-mix(in srgb, ${color_of(name)} ${25 + 75 * share}%, white)`;
const ink = name => `light-dark(color-mix(in srgb, ${color_of(name)} 65%, black), ${color_of(name)})`;
const written = tokens => tokens.filter(token => token.written);
const written_text = tokens => tokenizer.decode(written(tokens).map(({ token }) => token));

function put(parent, tag, attributes = {}, text = "") {  // adds a child; inside an SVG it is an SVG element
  const made = document.createElementNS(tag === "svg" ? "http://www.w3.org/2000/svg" : parent.namespaceURI, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(text);
  parent.append(made);
  return made;
}

// ---- a question: { name: of a model, prompt, answer: how a right one begins, off: experts switched off, k }
let unanswered = [], rested = 0;  // the reader's newest question goes first; counting waits for all
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
  const { label, experts } = model_of(name), without = off.length ? `, ${off.join(" and ")} switched off` : "";
  return experts.length ? `${label}, k = ${k}${without}` : label;
}

function why_not({ name, prompt, off = [] }) {  // why it is not read
  const model = model_of(name);
  if (prompt.length > 1000) return `This text has ${prompt.length} characters. The page takes 1000 at most.`;
  const n = encode_prompt(tokenizer, prompt).length - 1, most = model.config.block_size - 10;
  if (n > most) return `This text has ${n} tokens. The page takes ${most} at most, so that 10 are left for the answer.`;
  return model.experts.length && off.length === experts.length ? "The router needs an expert: switch one on." : "";
}

// ---- a box: who answers, the text as it is written, and whether it is right
function make_box(box) {
  const part = (tag, name) => put(box, tag, { class: name }), has_picture = box.dataset.name;
  Object.assign(box, { tokens: [], who: part("p", "who"), prompt: part("div", "text") });
  if (has_picture) add_picture(box);
  Object.assign(box, { answer: has_picture ? part("div", "text") : box.prompt, verdict: part("p", "") });
}

async function ask(box, question) {
  const asked = JSON.stringify(question), { prompt, answer } = question, { pace, text } = box.dataset;
  if (box.dataset.asked === asked) return;
  box.style.minHeight = `${box.offsetHeight}px`;  // what is below stays where it is until the answer is whole
  Object.assign(box.dataset, { asked, text: prompt, done: "" });
  box.tokens = [];
  box.prompt.textContent = box.answer.textContent = box.verdict.className = "";
  box.who.textContent = describe(question);
  box.verdict.textContent = why_not(question);
  if (!box.verdict.textContent) {
    const right = encode_prompt(tokenizer, answer ?? "").slice(1), pause = Math.min(pace, 2500 / right.length);
    const is_slow = pace && text !== prompt && !matchMedia("(prefers-reduced-motion)").matches;
    for await (const token of is_slow ? await Array.fromAsync(read(question)) : read(question)) {
      const expected = token.written ? right[written(box.tokens).length] : undefined;  // also after the answer
      if (is_slow && expected !== undefined) await new Promise(resolve => setTimeout(resolve, pause));
      if (box.dataset.asked !== asked) return;
      const is_astray = expected !== undefined && expected !== token.token;
      box.tokens.push({ ...token, is_astray, span: write(token.written ? box.answer : box.prompt, token, is_astray) });
      if (is_slow && token.written) draw_picture(box);
    }
    const is_right = written_text(box.tokens).startsWith(answer);
    const verdict = is_right ? "✓ right" : `✗ wrong. Right:${answer?.replace(END, "").trimEnd()}`;
    box.verdict.className = answer === undefined ? "" : is_right ? "right" : "wrong";
    box.verdict.append(box.verdict.className ? verdict : "Not a test task: the page does not know the right answer.");
  }
  box.dataset.done = "yes";
  box.style.minHeight = "";
  const gates = mean_gates(written(box.tokens).flatMap(({ routing }) => routing));
  const shares = gates.map((gate, i) => `${experts[i]} ${Math.round(100 * gate)} %`);
  box.said = [...[box.who, box.answer, box.verdict].map(part => part.textContent), ...shares].join(". ");
  const section = box.closest("section"), boxes = [...section.querySelectorAll(".box:not([hidden])")];
  const is_ready = boxes.every(({ dataset }) => dataset.done) && section.contains(document.activeElement);
  if (is_ready) $("said").textContent = boxes.map(({ said }) => said).join(" ");
}

function write(text, token, is_astray) {  // in the color and with the letter of the largest gate
  const piece = visible(token.token), gates = mean_gates(token.routing), top = gates.indexOf(Math.max(...gates));
  const kind = `token ${token.written ? "written" : ""} ${is_astray ? "astray" : ""}`;
  const span = put(text, "span", { class: kind }, piece);
  if (gates.length) {
    span.style.background = tint(experts[top], gates[top]);
    span.dataset.letter = LETTERS[top];
    span.title = span.ariaDescription = `${experts[top]} ${Math.round(100 * gates[top])} %`;
  }
  if (piece.endsWith("⏎")) text.append("\n");
  return span;
}

function ask_dealt(box, number, name) {  // a task of the branches' domains
  const tasks = tasks_of(branches), { prompt, answer } = tasks[number % tasks.length] ?? tasks[0];
  return ask(box, { name, prompt, answer });
}

// ---- the picture: the layers at the token that the reader points at. A row is an expert, and a switch
function add_picture(box) {
  const off = `${box.dataset.name}_off`;
  box.picture = put(put(box, "div", { class: "scroll" }), "svg", { role: "group", "aria-label": "Experts" });
  if (LETTERS.some(Number)) put(box, "p", { class: "moe" }, experts.map((name, i) => `${LETTERS[i]} ${name}`).join(", "));
  box.lines = put(box.picture, "g");
  box.rows = experts.map(name => {
    const row = put(box.picture, "g", { role: "switch", tabindex: 0, "aria-label": name });
    row.onclick = () => draw({ [off]: experts.filter(one => offs(off).includes(one) !== (one === name)).join() });
    row.onkeydown = event => {
      if (![" ", "Enter"].includes(event.key)) return;
      event.preventDefault();  // the page would scroll
      row.onclick();
    };
    return row;
  });
}

function draw_picture({ tokens, picture, lines, rows, dataset: { name, done } }) {  // returns the token
  const at = `${name}_at`, away = offs(`${name}_off`), layers = moe.config.n_layer;
  const standing = tokens.find(({ is_astray }) => is_astray) ?? written(tokens)[0] ?? tokens[0];
  const chosen = tokens[S[at]] ?? (done ? standing : tokens.at(-1)), number = tokens.indexOf(chosen);
  tokens.forEach(({ span }, i) => {
    span.classList.toggle("chosen", i === number);
    Object.assign(span, { role: "button", tabIndex: i === number ? 0 : -1, ariaLabel: quoted(tokens[i]) });
    span.onclick = span.onfocus = span.onmouseenter = () => S[at] === String(i) || draw({ [at]: String(i) });
    span.onkeydown = event => {
      const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tokens.length - 1 }[event.key];
      if (to !== undefined) event.preventDefault();  // the page would scroll
      tokens[to]?.span.focus();
    };
  });
  const width = Math.max(picture.parentNode.clientWidth || 300, 24 + 44 * layers);  // 0: it is hidden
  const column = (width - 24) / layers, wide = Math.min(110, .62 * column), bend = (column - wide) / 4;
  const middle = 18 + 20 * rows.length, bottom = 2 * middle - 4;
  Object.assign(picture.style, { width: `${width}px`, height: `${bottom + 20}px` });
  for (const group of [lines, ...rows]) group.replaceChildren();
  for (let layer = 0; layer < layers; layer++) {
    const start = 12 + layer * column, center = start + column / 2, left = center - wide / 2;
    const gates = chosen?.routing[layer] ? dense_gates(chosen.routing[layer]) : [];
    write_at(lines, center, 10, column > 90 ? `layer ${layer + 1}` : layer + 1);
    experts.forEach((expert, i) => {
      const y = 38 + 40 * i, up = y - middle, gate = gates[i] ?? 0, is_off = away.includes(expert);
      const curve = height => `c${bend} 0 ${bend} ${height} ${2 * bend} ${height}`;
      const d = `M${start} ${middle}${curve(up)}h${wide}${curve(-up)}`, style = `--layer: ${layer}; --gate: ${gate}`;
      if (!is_off) put(lines, "path", { d, class: gate ? "line" : "thin", style: `${style}; stroke: ${ink(expert)}` });
      if (gate) put(lines, "path", { d, class: "dot", style, pathLength: 1 });
      const cell = put(rows[i], "g", { class: gate ? "key" : "" }), fill = gate ? `fill: ${tint(expert, gate)}` : "";
      put(cell, "rect", { x: left, y: y - 16, width: wide, height: 32, rx: 6, style: fill });
      const short = wide < 8 * Math.min(6, expert.length) ? LETTERS[i] : expert.slice(0, wide / 7);
      write_at(cell, center, gate && wide > 26 ? y - 2 : y + 4, short);
      if (gate && wide > 26) write_at(cell, center, y + 12, gate.toFixed(2));
      rows[i].setAttribute("aria-checked", !is_off);
    });
    put(lines, "circle", { cx: start, cy: middle, r: 6, fill: "currentColor" });
  }
  put(lines, "path", { d: `M12 ${middle}V${bottom}M${width - 12} ${middle}V${bottom}l-4 -7m4 7l4 -7` });
  if (chosen) write_at(lines, 2, bottom + 16, `reads ${quoted(tokens[number - 1])}`, "start");
  if (chosen) write_at(lines, width - 2, bottom + 16, `${chosen.written ? "writes" : "next"} ${quoted(chosen)}`, "end");
  return chosen;
}

// ---- how many tasks are solved: as PyTorch counted, and again here
const n_tasks = domain => tasks_of([domain]).length;
const solves = (task, name = moe.name, off = []) => data.counts.find(count =>
  count.name === name && String(count.off) === String(off)).solved[data.tasks.indexOf(task)] === "1";
const count_right = (domain, ...who) => tasks_of([domain]).filter(task => solves(task, ...who)).length;

function add_bars(id, some, rows) {  // rows: of a domain, [label, name of a model, experts switched off]
  for (const domain of some) {
    const list = put(put($(id), "div", {}, title(domain)), "ol", { "aria-label": title(domain) });
    for (const [label, name = moe.name, off = []] of rows(domain)) {
      const n = count_right(domain, name, off), bar = add_bar(put(list, "li"), label, n, n / n_tasks(domain), "button");
      bar.onclick = () => show_task(domain, name, off.join());
    }
  }
}

function show_task(domain, model, text_off) {  // in the lab: the same task for another model, else the next
  const prompts = tasks_of([domain]).map(({ prompt }) => prompt), at = prompts.indexOf(S.text), { k } = DEFAULTS;
  const is_seen = S.model === model && S.text_off === text_off && S.k === k;
  draw({ text: prompts[at < 0 || is_seen ? (at + 1) % prompts.length : at], model, text_off, k });
  location.hash = "lab";
}

function add_bar(list, label, value, share, tag = "li") {
  const bar = put(list, tag, { class: "bar", style: `--share: ${100 * share}%` });
  for (const text of [label, value]) put(bar, "span", {}, text);
  return bar;
}

async function count_here(button) {
  const total = data.counts.length * data.tasks.length, now = $("count_now");
  let n = 0, same = 0;
  button.disabled = true;
  for (const { name, off, solved } of data.counts) {
    for (const [i, { prompt, answer }] of data.tasks.entries()) {
      const question = { name, prompt, off, length: encode_prompt(tokenizer, answer).length, is_count: true };
      const is_solved = written_text(await Array.fromAsync(read(question))).startsWith(answer);
      same += is_solved === (solved[i] === "1");
      now.textContent = `${n += 1} of ${total} answers counted, ${same} as in PyTorch`;
    }
  }
  $("said").textContent = now.textContent;
}

// ---- charts
function add_axes(parent, label, x_ticks, y_ticks, y, width, height, role = "img") {  // x_ticks: [place, text]
  const svg = put(parent, "svg", { viewBox: `0 0 ${width} ${height}`, role, "aria-label": label });
  put(svg, "path", { d: `M30 8V${height - 22}H${width - 4}` });
  for (const [x, text] of x_ticks) write_at(svg, x, height - 8, text);
  for (const n of y_ticks) write_at(svg, 26, y(n) + 4, n, "end");
  return svg;
}

function draw_lines(parent, label, steps, now, ticks, y, lines) {  // lines: [name, value at each step]
  const x = t => 36 + 200 * t / (steps.length - 1), last = ([, values]) => y(values.at(-1));
  const shown = [...steps.entries()].filter(([t]) => t % Math.ceil(steps.length / 6) === 0);
  const values_now = lines.map(([name, values]) => `${title(name)} ${values[now]}`).join(", ");
  const figure = put(parent, "figure", {}, `${label}: ${values_now}`);
  const svg = add_axes(figure, label, shown.map(([t, step]) => [x(t), step]), ticks, y, 320, 200);
  put(svg, "path", { class: "thin", d: `M${x(now)} 8V178M30 ${y(ticks[0])}H240` });
  let free = 0;  // from here on no name is at the end of a line
  for (const line of lines.sort((a, b) => last(a) - last(b))) {
    const [name, values] = line, points = values.map((value, t) => `${x(t)},${y(value)}`).join(" ");
    put(svg, "polyline", { points, style: `stroke: ${ink(name)}; stroke-width: 3` });
    free = Math.max(free + 12, last(line) + 4);
    write_at(svg, 242, free, title(name), "start");
  }
}

function add_results() {  // one chart for texts of one domain, one for changing texts
  const x = tflop => 36 + 20 * tflop, y = percent => 372 - 3.5 * percent;
  const rows = JSON.parse($("results").textContent);
  ["texts of one domain", "changing texts"].forEach((label, panel) => {
    const figure = put($("results_plots"), "figure", {}, `Solved tasks in %, ${label}`);
    const svg = add_axes(figure, label, [0, 5, 10, 15].map(n => [x(n), n]), [40, 60, 80, 100], y, 360, 280, "group");
    write_at(svg, 356, 252, "TFLOP in sequence", "end");
    for (const [name, tflop, weights, ...panels] of rows) {
      const [percent, spread, dx, dy, anchor] = panels[panel], [, , , ...seed] = rows[0];
      put(svg, "path", { opacity: .3, d: `M${x(0)} ${y(seed[panel][0])}L${x(tflop)} ${y(percent)}` });
      put(svg, "path", { d: `M${x(tflop)} ${y(percent - spread)}V${y(percent + spread)}` });
      const numbers = `${name}: ${percent} ± ${spread} %, ${tflop} TFLOP in sequence, ${weights} million weights.`;
      const mark = put(svg, "g", { role: "button", tabindex: 0, "aria-label": numbers });
      mark.onclick = mark.onfocus = mark.onmouseenter = () => { $("numbers").textContent = numbers; };
      put(mark, "circle", { cx: x(tflop), cy: y(percent), r: 8 * Math.sqrt(weights), class: "point" });
      write_at(mark, x(tflop) + dx, y(percent) + dy, name, anchor);
    }
  });
}

// ---- the sections
async function draw_hero() {
  const task = data.tasks.find(({ prompt }) => prompt === S.hero) ?? first_task, { domain, prompt, answer } = task;
  const off = offs("hero_off"), without = off.map(name => `, ${count_right(domain, moe.name, [name])} without ${name}`);
  const needed = experts.filter(name => !solves(task, moe.name, [name])).join(" or ");
  const heading = needed ? `Click ${needed}, and the ${domain === "math" ? "sum" : "answer"} goes wrong`
    : "A task that needs no single expert";
  $("hero_title").textContent = solves(task) ? heading : "A task that the mixture does not solve";
  $("hero_count").textContent = `It solves ${count_right(domain)} of ${n_tasks(domain)} such tasks${without.join("")}.`;
  await ask($("hero_box"), { name: moe.name, prompt, answer, off });
  draw_picture($("hero_box"));
}

function draw_branch() {
  const [, before] = model_of("seed").log.at(-1), steps = [0, ...model_of(branches[0]).log.map(([step]) => step)];
  const mean = (loss, some) => some.reduce((sum, domain) => sum + loss[domain], 0) / some.length;
  $("step_now").textContent = $("step").ariaValueText = steps[S.step];
  $("charts").replaceChildren();
  for (const name of branches) {
    const losses = [before, ...model_of(name).log.map(([, loss]) => loss)];
    const times = some => losses.map(loss => (mean(loss, some) / mean(before, some)).toFixed(2));
    const lines = [[name, times([name])], ["the rest", times(domains.filter(one => ![name, "switch"].includes(one)))]];
    draw_lines($("charts"), `${name} branch`, steps, S.step, [1, .5, 2, 4, 8], n => 120 - 34 * Math.log2(n), lines);
  }
  all("#branch_boxes > *").forEach((box, i) => {
    box.hidden = S.step === "0" && i > 0;  // at step 0 all are the seed
    ask_dealt(box, S.branch, S.step === "0" ? "seed" : experts[i]);
  });
}

function draw_finetune() {
  const mixtures = models.filter(model => model.experts.length), all_steps = mixtures.map(({ steps }) => steps);
  const lines = domains.map(domain => [domain, mixtures.map(({ name }) => count_right(domain, name))]);
  $("tune_now").textContent = $("tune").ariaValueText = all_steps[S.tune];
  $("tune_curve").replaceChildren();
  const ticks = [0, 10, 20, 30, 40];
  draw_lines($("tune_curve"), "Tasks solved out of 40", all_steps, S.tune, ticks, n => 178 - 4.2 * n, lines);
  ask_dealt($("tuned_box"), S.tuned, mixtures[S.tune].name);
}

async function draw_lab() {
  const answer = data.tasks.find(({ prompt }) => prompt === S.text)?.answer, box = $("lab_box");
  const is_moe = model_of(S.model).experts.length > 0;
  for (const control of [...all(".moe"), box.picture]) control.toggleAttribute("hidden", !is_moe);
  await ask(box, { name: S.model, prompt: S.text, answer, off: offs("text_off"), k: Number(S.k) });
  const chosen = draw_picture(box), panel = $("inside");
  panel.replaceChildren();
  if (!chosen) return panel.append(box.dataset.done ? "Nothing was read, so no token was predicted." : "");
  const probs = softmax(chosen.logits), percent = p => `${(100 * p).toFixed(1)}\u00a0%`;
  const likeliest = [...probs.keys()].sort((a, b) => probs[b] - probs[a]).slice(0, 5);
  const sure = `${quoted(chosen)} had a probability of ${percent(probs[chosen.token])}. Likeliest:`;
  const list = put(put(panel, "div", {}, sure), "ol");
  for (const token of likeliest) add_bar(list, quoted({ token }), percent(probs[token]), probs[token]);
  const gates = put(panel, "div", {}, chosen.routing.length ? "The largest gates:" : "A dense model has no gates.");
  chosen.routing.forEach(({ experts: asked, gates: [largest], probs }, layer) => {
    const shares = asked.map(i => (100 * probs[i]).toFixed(1)), gate = largest.toFixed(2);
    put(gates, "p", {}, `layer ${layer + 1}, ${experts[asked[0]]}: ${gate} = ${shares[0]} / (${shares.join(" + ")})`);
  });
}

// ---- S and the controls
let later;
function draw(changes) {
  for (const name of ["hero", "text"]) if (name in changes) S[`${name}_at`] = "";  // it has other tokens now
  Object.assign(S, changes);
  for (const control of all("input[name], select[name], textarea[name]")) {
    control.value = S[control.name];
    if (control.selectedIndex === -1) control.value = DEFAULTS[control.name];  // the address named no model of the page
    S[control.name] = control.value;
  }
  clearTimeout(later);  // browsers refuse to change the address too often
  later = setTimeout(() => {
    const changed = Object.entries(S).filter(([name, value]) => value !== DEFAULTS[name]);
    history.replaceState(null, "", "#" + new URLSearchParams(changed));
  }, 300);
  draw_lab();  // what is on top asks last, so its question goes first
  if (!$("hero")) return;
  draw_finetune();
  draw_branch();
  draw_hero();
}

function read_address() {
  const words = location.hash.slice(1), chosen = [...new URLSearchParams(words)].filter(([name]) => name in DEFAULTS);
  draw($(words) ? {} : { ...DEFAULTS, ...Object.fromEntries(chosen) });  // {}: it is a link to a section
}

function add_article() {  // what does not change
  const n = Object.values(model_of(moe.name).state).reduce((sum, w) => sum + w.length, 0);
  $("size").textContent = (n / 1e6).toFixed(2);
  add_bars("mix_bars", branches, domain => [["the seed", "seed"], ["its branch", domain],
    ["its expert alone", "steps0", experts.filter(name => name !== domain)], ["the new mixture", "steps0"],
    ["everything averaged", "average"]]);
  const without = experts.map(name => [`without ${name}`, moe.name, [name]]);
  add_bars("break_bars", domains, () => [["all experts"], ...without]);
  add_results();
  $("count").onclick = () => count_here($("count"));
}

async function start() {
  unpack(data.models, await inflate(data.weights));
  models = list_models(data.models);
  if (!$("hero")) for (const model of models) if (model.steps !== undefined) model.label = `mixture ${model.name}`;
  for (const _ of $("hero") ? experts : []) put($("branch_boxes"), "div", { class: "box" });
  all(".box").forEach(make_box);
  experts.forEach((_, i) => put($("k"), "option", {}, i + 1));
  for (const { name, label } of models) put($("model"), "option", { value: name }, label);
  for (const group of all("[data-deal]")) {
    for (const domain of domains) {
      const { deal } = group.dataset;
      const prompts = tasks_of([domain]).map(({ prompt }) => prompt), button = put(group, "button", {}, title(domain));
      button.onclick = () => draw({ [deal]: prompts[(prompts.indexOf(S[deal]) + 1) % prompts.length] });
    }
  }
  const next_task = ({ currentTarget: { name } }) => draw({ [name]: String(Number(S[name]) + 1) });
  for (const button of all("button[name]")) button.onclick = next_task;
  document.addEventListener("input", ({ target: { name, value } }) => draw({ [name]: value }));
  if ($("hero")) add_article();
  read_address();
  addEventListener("resize", () => draw({}));
  addEventListener("hashchange", read_address);
  $("loading").remove();
}
start().catch(error => { $("loading").textContent = `This browser cannot run the page: ${error}`; });
