"use strict";
// The sections of the article before the lab. Each is drawn from S, as the lab is.
const all_domains = ["general", "trivia", "math", "code", "wiki"], branches = experts.slice(1);
const in_turn = domains => {  // the first task of each domain, then the second of each, and so on
  const nth = i => domains.map(domain => ({ domain, ...tasks_of[domain][i] }));
  return tasks_of[domains[0]].flatMap((_, i) => nth(i));
};
const mixtures = data.models.filter(model => model.experts.length), dense = data.models.slice(0, experts.length);
const DEALT = { hero: in_turn(["math"]), seed: in_turn(all_domains), branch: in_turn(branches), task: in_turn(branches),
                tuned: in_turn(branches), two: in_turn(["switch"]), one: in_turn(branches) };
const SAMPLE = in_turn(all_domains).slice(0, 30);  // what rates are measured on
for (const id of Object.keys(DEALT)) DEFAULTS[id] = "0";
Object.assign(DEFAULTS, { hero_off: "", step: "10", mix: "", tune: "0", how: "only", break_k: DEFAULTS.k, run: "" });
DEFAULTS.token = "";

// What the page says of the tasks that it deals: who solves them, and who does not.
const CLAIMS = {
  hero: () => [[{}, true], [{ off: ["math"] }, false]],
  branch: ({ domain }) => branches.map(name => [{ name }, name === domain]),
  task: () => [[{ name: mixtures[0].name }, false], [{ name: "average" }, false]],
  tuned: () => [[{ name: mixtures[0].name }, false], [{}, true]],
};

const grades = new Map();
async function is_right(question) {  // reads no further than to the first wrong token
  const { answer } = question, asked = JSON.stringify(question), ids = [];
  let text = "";
  if (grades.has(asked)) return grades.get(asked);
  for (const read of answer_of(question)) {
    await pause();
    if (!read.written) continue;
    ids.push(read.token);
    text = tokenizer.decode(ids);
    if (text.startsWith(answer) || !answer.startsWith(text)) break;
  }
  grades.set(asked, text.startsWith(answer));
  return grades.get(asked);
}

async function holds(id, task) {
  for (const [who, right] of CLAIMS[id]?.(task) ?? []) {
    if (await is_right({ name: moe.name, ...task, ...who }) !== right) return false;
  }
  return true;
}

const started = new Set(), settled = new Set();
async function deal(id, from) {  // the first task, from this one on, of which all is true that the page says
  const list = DEALT[id];
  started.add(id);
  for (let i = from; i < from + list.length; i++) {
    if (!await holds(id, list[i % list.length])) continue;
    S[id] = String(i % list.length);
    settled.add(id);
    return draw();
  }
}

function dealt(id) {  // the task of a section, once there is one
  const number = Math.abs(Number.parseInt(S[id])) || 0;
  if (!started.has(id)) deal(id, number);
  return settled.has(id) && DEALT[id][number % DEALT[id].length];
}

function ask_dealt(box, id, who) {
  const task = dealt(id);
  if (task) ask(box, { name: moe.name, prompt: task.prompt, answer: task.answer, ...who });
}

async function rate(output, who) {  // how many tasks of SAMPLE are right, counted as one watches
  const asked = JSON.stringify(who);
  if (output.dataset.asked === asked) return;
  output.dataset.asked = asked;
  let right = 0;
  for (const [i, task] of SAMPLE.entries()) {
    right += await is_right({ ...task, ...who });
    if (output.dataset.asked !== asked) return;
    output.textContent = `Right in ${right} of ${i + 1} test tasks, dealt from ${all_domains.length} domains.`;
  }
}

sections.hero = () => ask_dealt($("hero_box"), "hero", { off: offs("hero_off") });
sections.seed = () => ask_dealt($("seed_box"), "seed", { name: "seed" });
sections.finetune = () => {
  const { name, steps } = mixtures[S.tune];
  $("tune_now").textContent = steps;
  ask_dealt($("tune_box"), "tuned", { name, is_whole: true });
  rate($("tune_rate"), { name });
};
sections.one = () => ask_dealt($("one_box"), "one", { is_whole: true });

// ---- branch and train: the losses in the logs; at step 0 all branches are the seed
const seed_losses = dense[0].log.at(-1)[1], logs = dense.slice(1).map(({ log }) => [[0, seed_losses], ...log]);
const mean_of_others = (losses, name) => {
  const others = all_domains.filter(domain => domain !== name);
  return others.reduce((sum, domain) => sum + losses[domain], 0) / others.length;
};

function line(svg, tag, attributes, text = "") {
  const made = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", tag));
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
}

function draw_curves(name, log, now) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const x = i => 22 + 19 * i, y = loss => 118 - 21 * loss;
  line(svg, "title", {}, `Loss of the branch ${name}: its own domain falls, the others rise`);
  const path = of => log.map(([, losses], i) => `${x(i)},${y(of(losses))}`).join(" ");
  const curves = { [name]: losses => losses[name], "the others": losses => mean_of_others(losses, name) };
  line(svg, "path", { d: "M22 8V118H214", "stroke-width": 0.7 });
  line(svg, "path", { d: `M${x(now)} 8V118`, "stroke-width": 1, "stroke-dasharray": "2 3" });
  for (const loss of [0, 2, 4]) line(svg, "text", { x: 8, y: y(loss) + 4, "font-size": 11 }, loss);
  for (const [label, of] of Object.entries(curves)) {
    line(svg, "polyline", { points: path(of), "stroke-width": 2, "stroke-dasharray": label === name ? "none" : "6 3" });
    line(svg, "text", { x: x(10) + 5, y: y(of(log.at(-1)[1])) + 4, "font-size": 12 }, label);
    line(svg, "circle", { cx: x(now), cy: y(of(log[now][1])), r: 3, fill: "currentColor" });
  }
  svg.setAttribute("viewBox", "0 0 280 124");
  svg.setAttribute("role", "img");
  element("div", svg, $("curves"));
}

sections.branch = () => {
  const table = $("losses"), now = Number(S.step);
  $("step_now").textContent = logs[0][now][0];
  $("curves").replaceChildren();
  table.replaceChildren();
  const head = element("tr", "", table);
  for (const text of ["branch", ...all_domains]) element("th", text, head);
  branches.forEach((name, i) => {
    const losses = logs[i][now][1], row = element("tr", "", table);
    draw_curves(name, logs[i], now);
    element("th", name, row);
    for (const domain of all_domains) {
      const change = losses[domain] - seed_losses[domain];
      element("td", losses[domain].toFixed(2) + (change > 0 ? " ▲" : change < 0 ? " ▼" : ""), row);
    }
  });
  experts.forEach((name, i) => ask_dealt($("branch_boxes").children[i], "branch", { name }));
};

// ---- mix
const WHY = {
  stacked: `All that the experts know is there, but the routers are new and random. So each token goes to experts that
    know little of it, and layers that were averaged meet experts that were not.`,
  average: "Each branch changed the same weights for its own domain. Their mean is nobody's feed-forward.",
};
const weights = tensors => tensors.reduce((sum, [, size]) => sum + size, 0) / 1e6;
sections.mix = () => {
  $("mixed").hidden = !WHY[S.mix];
  if (!WHY[S.mix]) return;
  const name = S.mix === "stacked" ? mixtures[0].name : "average", each = dense[0].tensors, N = experts.length;
  const whole = weights(each), ff = weights(each.filter(([part]) => part.includes(".ff.")));
  const mixed = S.mix === "stacked" ? whole - ff + N * ff + weights(mixtures[0].tensors) : whole;
  $("sizes").textContent = `${N} × ${whole.toFixed(2)} million weights become ${mixed.toFixed(2)} million. Of each model
    ${ff.toFixed(2)} million are feed-forwards, now ${S.mix === "stacked" ? "stacked" : "averaged as all others are"}.`;
  $("mix_why").textContent = WHY[S.mix];
  ask_dealt($("mix_box"), "task", { name });
  rate($("mix_rate"), { name });
};

// ---- break it
async function fill_table() {
  const asked = JSON.stringify([S.how, S.break_k, S.run]), table = $("table");
  if (table.dataset.asked === asked) return;
  table.dataset.asked = asked;
  table.replaceChildren();
  const head = element("tr", "", table), others = name => experts.filter(other => other !== name);
  const columns = [[], ...experts.map(name => S.how === "only" ? others(name) : [name])];
  for (const text of ["tasks", "all", ...experts.map(name => `${S.how} ${name}`)]) element("th", text, head);
  const lines = [...all_domains, "switch"].map(domain => {
    const row = element("tr", "", table);
    element("th", domain === "switch" ? "two domains" : domain, row);
    return columns.map(off => ({ domain, off, right: 0, cell: element("td", "–", row) }));
  });
  if (!S.run) return;
  for (let i = 0; i < tasks_of.math.length; i++) {
    for (const each of lines.flat()) {
      const task = tasks_of[each.domain][i];
      each.right += await is_right({ name: moe.name, ...task, off: each.off, k: Number(S.break_k) });
      if (table.dataset.asked !== asked) return;
      const share = each.right / (i + 1);
      each.cell.textContent = Math.round(100 * share);
      each.cell.style.background = `color-mix(in srgb, var(--fill) ${100 * share}%, transparent)`;
    }
    $("dealt").textContent = `Right answers in percent, ${S.how}: ${i + 1} tasks of each kind.`;
  }
}
sections.break = () => {
  ask_dealt($("two_box"), "two", { k: Number(S.break_k), is_whole: true });
  fill_table();
};

document.addEventListener("click", ({ target }) => {
  const id = target.dataset?.next;
  if (!id) return;
  if (id === "one") S.token = "";
  deal(id, Number(S[id]) + 1);
});
$("step").max = logs[0].length - 1;
$("tune").max = mixtures.length - 1;
experts.forEach(() => element("div", "", $("branch_boxes"), { className: "box" }));
