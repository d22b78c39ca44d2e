"use strict";
// The weights of the page: unpacked, and mixed as mix.py does it.
function float16(bits) {
  const sign = bits >> 15 ? -1 : 1, exponent = bits >> 10 & 31, fraction = bits & 1023;
  return exponent ? sign * 2 ** (exponent - 25) * (1024 + fraction) : sign * 2 ** -24 * fraction;
}
const FLOATS = new Float32Array(2 ** 16).map((_, bits) => float16(bits));  // looking up is faster than computing

async function inflate(base64) {
  const text = atob(base64), bytes = new Uint8Array(text.length).map((_, i) => text.charCodeAt(i));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Sets each model's state from the bytes that `pack` in page/live.py made: first all high bytes, then all low ones.
function unpack(models, bytes) {
  const first = {}, low = bytes.length / 2;
  let at = 0;
  for (const model of models) {
    model.state = {};
    for (const [name, size] of model.tensors) {
      const before = first[name] ?? [0], bits = new Uint16Array(size), start = at;
      for (let i = 0; i < size; i++) {
        bits[i] = 256 * bytes[start + i] + bytes[low + start + i] + before[i % before.length];
      }
      first[name] ??= bits;
      model.state[name] = new Float32Array(size).map((_, i) => FLOATS[bits[i]]);
      at += size;
    }
  }
}

const average = tensors => tensors[0].map((_, i) => tensors.reduce((sum, w) => sum + w[i], 0) / tensors.length);
function stack(tensors) {
  const stacked = new Float32Array(tensors.length * tensors[0].length);
  tensors.forEach((tensor, i) => stacked.set(tensor, i * tensor.length));
  return stacked;
}

// Stage 2 (3.2): the feed-forwards of dense models are stacked, or averaged as the rest is. Without routers.
function mix(states, feed_forwards) {
  const mixed = {};
  for (const name of Object.keys(states[0])) {
    const tensors = states.map(state => state[name]);
    const is_stacked = name.includes(".ff.") && feed_forwards === "stacked";
    mixed[name] = is_stacked ? stack(tensors) : average(tensors);
  }
  return mixed;
}

// What the reader can choose from: the models of the page and, last, the average of all weights of the experts.
function list_models(stored) {
  const { experts } = stored.at(-1), dense = experts.map(name => stored.find(model => model.name === name));
  const is_whole = !dense.includes(undefined), states = dense.map(model => model?.state);
  const stacked = is_whole ? mix(states, "stacked") : {};  // an MoE is stored without what is made here
  const models = stored.map(model => {
    if (!model.experts.length) return { ...model, label: `${model.name} alone` };
    const [steps] = model.log.at(-1) ?? [0], label = steps ? `after ${steps} steps` : "before finetuning";
    return { ...model, state: { ...stacked, ...model.state }, steps, label: `mixture ${label}` };
  });
  const averaged = { ...dense[0], name: "average", label: "average of all weights" };
  return is_whole ? [...models, { ...averaged, state: mix(states, "averaged") }] : models;
}
