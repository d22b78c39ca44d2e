"use strict";
// The mixture of experts in JavaScript: what model.py computes, one token at a time, in functions of the same names.
// A vector is an array of numbers, a matrix one array, row after row: `linear` knows the length of a row from x.
// Shapes in comments: D = n_embd, d = D / n_head, V = vocab_size, N = n_expert, k = top_k. (3.2): the paper's section.

function linear(x, w) {  // W x. x: (D,); w: (n, D). Returns (n,)
  return new Float32Array(w.length / x.length).map((_, i) => dot(w, i * x.length, x, 0, x.length));
}

function dot(a, a_start, b, b_start, length) {
  let sum = 0;
  for (let j = 0; j < length; j++) sum += a[a_start + j] * b[b_start + j];
  return sum;
}

const add = (a, b) => a.map((value, i) => value + b[i]);
const largest = x => x.reduce((a, b) => Math.max(a, b));
function softmax(x) {
  const max = largest(x);
  const powers = x.map(value => Math.exp(value - max));
  const total = powers.reduce((a, b) => a + b);
  return powers.map(power => power / total);
}

function rms_norm(x, weight, eps) {
  const scale = 1 / Math.sqrt(dot(x, 0, x, 0, x.length) / x.length + eps);
  return x.map((value, i) => value * scale * weight[i]);
}

function rope_angles(config, position) {  // position * theta^(-2j/d), for each pair j of a head: (d/2,)
  const d = config.n_embd / config.n_head;
  return Array.from({ length: d / 2 }, (_, j) => position * config.rope_theta ** (-2 * j / d));
}

function rope(x, angles) {  // turns the pair (x_j, x_{j+d/2}) of every head by its angle. x: (heads * d,)
  const half = angles.length;
  return x.map((value, i) => {
    const angle = angles[i % half];
    const turned = i % (2 * half) < half ? -x[i + half] : x[i - half];  // the pair after a quarter turn
    return value * Math.cos(angle) + turned * Math.sin(angle);
  });
}

function attention(x, [wq, wk, wv, wo], angles, cache, n_head) {  // causal: the cache ends with this token
  const q = rope(linear(x, wq), angles), d = q.length / n_head;
  cache.k.push(rope(linear(x, wk), angles));
  cache.v.push(linear(x, wv));
  const y = new Float32Array(q.length);
  for (let head = 0; head < q.length; head += d) {
    const scores = cache.k.map(k => dot(q, head, k, head, d) / Math.sqrt(d));  // one for each token so far
    softmax(scores).forEach((p, t) => {
      for (let j = 0; j < d; j++) y[head + j] += p * cache.v[t][head + j];
    });
  }
  return linear(y, wo);
}

function swiglu(x, w_gate, w_up, w_down) {  // w_down (silu(w_gate x) * w_up x)
  const up = linear(x, w_up);
  return linear(linear(x, w_gate).map((gate, i) => gate / (1 + Math.exp(-gate)) * up[i]), w_down);
}

function route_topk(logits, top_k) {  // g(W_l x) = SoftMax(TopK(W_l x)) (3.2)
  const on = [...logits.keys()].filter(i => logits[i] > -Infinity);
  const experts = on.sort((a, b) => logits[b] - logits[a]).slice(0, top_k);  // (k,)
  return { gates: softmax(experts.map(i => logits[i])), experts, probs: [...softmax(logits)] };
}

const dense_gates = ({ gates, experts, probs }) => probs.map((_, i) => gates[experts.indexOf(i)] ?? 0);  // (N,)

function expert_load(routings) {  // the mean gate of each expert over the given routings: tokens, layers or both
  return routings[0].probs.map((_, i) => routings.reduce((sum, r) => sum + dense_gates(r)[i], 0) / routings.length);
}

function ff_moe(x, routing, w_gate, w_up, w_down) {  // FF_MoE(x) = sum_i g_i(W_l x) FF_i(x) (3.2)
  const N = routing.probs.length;
  const of_expert = (w, i) => w.subarray(i * w.length / N, (i + 1) * w.length / N);
  let y = new Float32Array(x.length);
  routing.experts.forEach((i, choice) => {
    const FF_i = swiglu(x, of_expert(w_gate, i), of_expert(w_up, i), of_expert(w_down, i)), g_i = routing.gates[choice];
    y = add(y, FF_i.map(value => g_i * value));
  });
  return y;
}

// Reads one token. Returns the logits of the next, (V,), and the routing of each layer. off: experts switched off.
function forward({ config, state }, token, cache, { top_k = config.top_k, off = [] } = {}) {
  const angles = rope_angles(config, cache[0]?.k.length ?? 0);
  const norm = (x, name) => rms_norm(x, state[`${name}.weight`], config.norm_eps);
  const routing = [];
  let x = state["embed.weight"].slice(token * config.n_embd, (token + 1) * config.n_embd);  // (D,)
  for (let layer = 0; layer < config.n_layer; layer++) {
    const block = `blocks.${layer}`;
    const wq_to_wo = ["wq", "wk", "wv", "wo"].map(name => state[`${block}.attn.${name}.weight`]);
    const [w_gate, w_up, w_down] = ["w_gate", "w_up", "w_down"].map(name => state[`${block}.ff.${name}`]);
    cache[layer] ??= { k: [], v: [] };
    x = add(x, attention(norm(x, `${block}.attn_norm`), wq_to_wo, angles, cache[layer], config.n_head));
    const h = norm(x, `${block}.ff_norm`);
    if (config.n_expert) {
      const all = linear(h, state[`${block}.ff.router`]);  // (N,)
      routing.push(route_topk(all.map((logit, i) => off.includes(i) ? -Infinity : logit), top_k));
      x = add(x, ff_moe(h, routing[layer], w_gate, w_up, w_down));
    } else {  // a dense model
      x = add(x, swiglu(h, w_gate, w_up, w_down));
    }
  }
  const head = state[config.tie_weights ? "embed.weight" : "head.weight"];
  return { logits: linear(norm(x, "norm"), head), routing };
}

// Reads the prompt, then writes greedily. Yields each token after the first, if it was written, and what predicted it.
function* read_and_write(model, prompt, eot, max_new_tokens, switches) {
  const cache = [], end = Math.min(prompt.length + max_new_tokens, model.config.block_size + 1);
  let token = prompt[0];
  for (let t = 1; t < end; t++) {
    const { logits, routing } = forward(model, token, cache, switches), written = t >= prompt.length;
    token = written ? logits.indexOf(largest(logits)) : prompt[t];
    yield { token, written, logits, routing };
    if (written && token === eot) return;
  }
}
