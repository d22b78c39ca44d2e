"use strict";
// The weights of the page: unpacked, and mixed as mix.py does it.
function float16(bits) {
  const sign = bits >> 15 ? -1 : 1, exponent = bits >> 10 & 31, fraction = bits & 1023;
  return exponent ? sign * 2 ** (exponent - 25) * (1024 + fraction) : sign * 2 ** -24 * fraction;
}

async function inflate(base64) {
  const bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Sets each model's state from the bytes that `pack` in support/live.py made: first all high bytes, then all low ones.
function unpack(models, bytes) {
  const first = {}, low = bytes.length / 2;
  let at = 0;
  for (const model of models) {
    model.state = {};
    for (const [name, size] of model.tensors) {
      const bits = Uint16Array.from({ length: size }, (_, i) => 256 * bytes[at + i] + bytes[low + at + i]);
      if (first[name]) bits.forEach((difference, i) => bits[i] = difference + first[name][i % first[name].length]);
      first[name] ??= bits;
      model.state[name] = Float32Array.from(bits, float16);
      at += size;
    }
  }
}

function average(tensors) {
  return tensors[0].map((_, i) => tensors.reduce((sum, tensor) => sum + tensor[i], 0) / tensors.length);
}

// Stage 2 (3.2): the feed-forwards of dense models are stacked, or averaged as the rest is. Without routers.
function mix(states, feed_forwards) {
  const mixed = {};
  for (const name of Object.keys(states[0])) {
    const tensors = states.map(state => state[name]);
    const stacked = name.includes(".ff.") && feed_forwards === "stacked";
    mixed[name] = stacked ? Float32Array.from(tensors.flatMap(tensor => [...tensor])) : average(tensors);
  }
  return mixed;
}

// What the reader can choose from: the MoE of the page and, of the dense models, their mixture, their average and each.
function list_models(stored) {
  const moe = stored.at(-1), dense = stored.filter(model => !model.experts.length);
  const states = dense.map(model => model.state);
  const all_mixed = stored.slice(dense.length, -1);  // before finetuning: they have routers only
  const kind = all_mixed.length ? "BTX, finetuned" : "the mixture";
  const models = [{ ...moe, label: `${kind} (${moe.name})` }];
  for (const mixed of all_mixed) {
    const state = { ...mix(states, "stacked"), ...mixed.state };
    models.push({ ...mixed, state, label: `BTX before finetuning (${mixed.name})`, before: true });
  }
  if (dense.length === moe.experts.length) {
    const label = "average of the dense models (soup), not finetuned";
    models.push({ ...dense[0], state: mix(states, "averaged"), label });
  }
  return [...models, ...dense.map(model => ({ ...model, label: `${model.name} alone` }))];
}
