// Runs the page's own JavaScript in node: node live.js PAGE FUNCTION < VALUES. Prints what a function of this file
// returns for the values, as JSON.
const fs = require("fs"), vm = require("vm");
const [path, name] = process.argv.slice(2), page = fs.readFileSync(path, "utf8");
vm.runInThisContext(page.match(/<script>\n([^]*?)<\/script>/)[1]);  // the page's functions that need no browser
const data = JSON.parse(page.match(/<script type="application.json" id="data">(.*)<.script>/)[1]);

async function load_models() {
  unpack(data.models, await inflate(data.weights));
  return list_models(data.models);
}

async function answers({ names, prompts, eot, top_k, off }) {
  const report = reads => ({
    tokens: reads.map(read => read.token),
    experts: reads.map(read => read.routing.map(layer => layer.experts)),
    load: reads.map(read => read.routing.length ? expert_load(read.routing) : []),
    logits: [...reads.at(-1).logits],
  });
  const answer = (model, ids) => report([...read_and_write(model, ids, eot, 12, { top_k, off })]);
  const models = (await load_models()).filter(model => names.includes(model.name));
  return models.map(model => [model.name, prompts.map(ids => answer(model, ids))]);
}

function tokens({ texts }) {
  const tokenizer = load_tokenizer(data.definition), ids = texts.map(text => encode_prompt(tokenizer, text));
  return [ids, ids.map(tokenizer.decode)];
}

const tasks = () => data.tasks;
const model_names = async () => (await load_models()).map(model => model.name);

(async () => {
  const main = { answers, tokens, tasks, model_names }[name];
  console.log(JSON.stringify(await main(JSON.parse(fs.readFileSync(0)))));
})();
