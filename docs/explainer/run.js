"use strict";
// Runs the page's model without the page: node docs/explainer/run.js [data.js] < request.json
//
// {"encode": [text, …]}     -> [{ids, decoded, pieces}, …]
// {"translate": [text, …]}  -> [{ids, encoder, decoder, logits, finished}, …]: states, attentions

const { readFileSync } = require("node:fs");
const { join } = require("node:path");
const { runInThisContext } = require("node:vm");

const dataFile = process.argv[2] ?? join(__dirname, "data.js");
for (const file of ["weights.js", "tokenizer.js", "transformer.js", "beam_search.js"].map((f) =>
  join(__dirname, f),
)) {
  runInThisContext(readFileSync(file, "utf8"), file);
}
runInThisContext(readFileSync(dataFile, "utf8"), dataFile);

async function main() {
  const request = JSON.parse(readFileSync(0, "utf8"));
  const tokenizer = new Tokenizer(DATA);
  if (request.encode) return request.encode.map((text) => encode(tokenizer, text));
  const model = new Transformer(DATA.config, await readWeights(DATA));
  return request.translate.map((text) => translate(model, tokenizer, text));
}

function encode(tokenizer, text) {
  const ids = tokenizer.encode(text);
  return { ids, decoded: tokenizer.decode(ids), pieces: ids.map((id) => tokenizer.show(id)) };
}

function translate(model, tokenizer, text) {
  const ids = tokenizer.encode(text);
  const encoded = model.encode(ids);
  const settings = searchSettings(DATA, ids.length);
  const search = new BeamSearch(model, encoded.output, settings);
  while (!search.step());
  const finished = search.finished.map((node) => ({
    ids: tokensOf(node),
    score: node.rank,
    text: tokenizer.decode(tokensOf(node)),
  }));
  const decoded = model.decode(
    [settings.start, ...finished[0].ids.slice(0, -1)],
    model.start(encoded.output),
  );
  return {
    ids,
    encoder: trace(encoded),
    decoder: trace(decoded),
    logits: decoded.output.map((state) => Array.from(model.logits(state))),
    finished,
  };
}

/** All states of a stack, and the weights of its attentions: [layer][head][query][key]. */
function trace({ embedded, layers, output }) {
  const rows = (states) => states.map((state) => Array.from(state));
  const weights = (name) =>
    layers.filter((layer) => layer[name]).map((layer) => layer[name].heads.map((head) => head.weights));
  return {
    embedded: rows(embedded.output),
    layers: layers.map((layer) => rows(layer.output)),
    output: rows(output),
    self: weights("self"),
    cross: weights("cross"),
  };
}

main().then((answer) => console.log(JSON.stringify(answer)));
