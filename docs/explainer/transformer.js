"use strict";
// "Attention Is All You Need", one vector at a time. A vector is a Float32Array; `states` is a list of
// vectors, one for each token. Every function returns what it computed on its way: the page shows it.

/** Attention(Q, K, V) = softmax(Q Kᵀ / √d_k) V (section 3.2.1, equation 1), for one query. */
function attention(query, keys, values) {
  const scores = keys.map((key) => dot(query, key) / Math.sqrt(query.length));
  const weights = softmax(scores);
  return { scores, weights, output: weightedSum(weights, values) };
}

class Transformer {
  constructor(config, weights) {
    this.config = config;
    this.weights = weights;
  }

  /** Token ids to vectors, multiplied by √d_model (section 3.4), plus positions (section 3.5). */
  embed(stack, ids, firstPosition = 0) {
    const width = this.config.hidden_size;
    const table = this.weights[`model.${stack}.embed_tokens.weight`];
    const words = ids.map((id) => table.slice(id * width, (id + 1) * width).map((x) => x * Math.sqrt(width)));
    const positions = ids.map((_, i) => this.position(stack, firstPosition + i));
    return { ids, words, positions, output: words.map((word, i) => add(word, positions[i])) };
  }

  /** PE(pos, 2i) = sin(pos / 10000^(2i/d_model)), PE(pos, 2i+1) = cos(…); or a learned vector. */
  position(stack, position) {
    const width = this.config.hidden_size;
    const learned = this.weights[`model.${stack}.embed_positions.weight`];
    if (learned) return learned.slice(position * width, (position + 1) * width);
    return Float32Array.from({ length: width }, (_, column) => {
      const angle = position / 10000 ** ((column - (column % 2)) / width);
      return column % 2 ? Math.cos(angle) : Math.sin(angle);
    });
  }

  /** The encoder (figure 1, left): source ids to the memory, one vector for each. */
  encode(ids) {
    const embedded = this.embed("encoder", ids);
    let states = embedded.output;
    const layers = Array.from({ length: this.config.encoder_layers }, (_, index) => {
      const name = `model.encoder.layers.${index}`;
      const self = this.addNorm(`${name}.self_attn_add_norm`, states, (x) =>
        this.multiHead(`${name}.self_attn`, x, this.keysAndValues(`${name}.self_attn`, x)),
      );
      const ffn = this.addNorm(`${name}.feed_forward_add_norm`, self.output, (x) =>
        this.feedForward(name, x),
      );
      states = ffn.output;
      return { self, ffn, output: states };
    });
    return { embedded, layers, output: this.finalNorm("encoder", states) };
  }

  /** What the decoder keeps before its first token: the keys and values of the memory, layer by layer. */
  start(memory) {
    const layers = Array.from({ length: this.config.decoder_layers }, (_, index) => ({
      self: { keys: [], values: [] },
      cross: this.keysAndValues(`model.decoder.layers.${index}.cross_attn`, memory),
    }));
    return { length: 0, layers };
  }

  /** The decoder (figure 1, right) reads these target ids after those that the cache has seen. */
  decode(ids, cache) {
    const embedded = this.embed("decoder", ids, cache.length);
    const next = { length: cache.length + ids.length, layers: [] };
    let states = embedded.output;
    const layers = cache.layers.map((past, index) => {
      const name = `model.decoder.layers.${index}`;
      const seen = (i) => cache.length + i + 1; // no token sees a later one (section 3.2.3)
      const self = this.addNorm(`${name}.self_attn_add_norm`, states, (x) => {
        const present = append(past.self, this.keysAndValues(`${name}.self_attn`, x));
        next.layers.push({ self: present, cross: past.cross });
        return this.multiHead(`${name}.self_attn`, x, present, seen);
      });
      const cross = this.addNorm(`${name}.cross_attn_add_norm`, self.output, (x) =>
        this.multiHead(`${name}.cross_attn`, x, past.cross),
      );
      const ffn = this.addNorm(`${name}.feed_forward_add_norm`, cross.output, (x) =>
        this.feedForward(name, x),
      );
      states = ffn.output;
      return { self, cross, ffn, output: states };
    });
    return { embedded, layers, output: this.finalNorm("decoder", states), cache: next };
  }

  /** One number for each word of the vocabulary; its softmax is the probability of the next word (3.4). */
  logits(state) {
    return linear(state, this.weights["lm_head.weight"], this.weights["lm_head.bias"]);
  }

  /** MultiHead(Q, K, V) = Concat(head_1, …, head_h) W^O (3.2.2). Query i sees the first seen(i) keys. */
  multiHead(name, states, { keys, values }, seen = () => Infinity) {
    const heads = this.heads(`${name}.q_proj`, states).map((queries, head) => {
      const rows = queries.map((query, i) => attention(query, keys[head].slice(0, seen(i)), values[head]));
      const [scores, weights, outputs] = ["scores", "weights", "output"].map((part) =>
        rows.map((row) => row[part]),
      );
      return { queries, keys: keys[head], values: values[head], scores, weights, outputs };
    });
    const output = states.map((_, i) =>
      this.linear(`${name}.o_proj`, concat(heads.map((head) => head.outputs[i]))),
    );
    return { heads, output };
  }

  keysAndValues(name, memory) {
    return { keys: this.heads(`${name}.k_proj`, memory), values: this.heads(`${name}.v_proj`, memory) };
  }

  /** Projects all states and cuts each vector into heads: heads(…)[head][token]. */
  heads(name, states) {
    const count = this.config.num_attention_heads;
    const projected = states.map((state) => this.linear(name, state));
    return Array.from({ length: count }, (_, head) =>
      projected.map((vector) => {
        const width = vector.length / count;
        return vector.subarray(head * width, (head + 1) * width);
      }),
    );
  }

  /** FFN(x) = max(0, x W_1 + b_1) W_2 + b_2 (section 3.3, equation 2). */
  feedForward(name, states) {
    const hidden = states.map((x) =>
      this.linear(`${name}.feed_forward.fc1`, x).map((value) => Math.max(0, value)),
    );
    return { hidden, output: hidden.map((x) => this.linear(`${name}.feed_forward.fc2`, x)) };
  }

  /** LayerNorm(x + Sublayer(x)) (section 3.1); with pre-norm, x + Sublayer(LayerNorm(x)). */
  addNorm(name, input, sublayer) {
    if (this.config.norm_position === "pre") {
      const normed = input.map((x) => this.norm(`${name}.norm`, x));
      const result = sublayer(normed);
      return { ...result, input, normed, sublayer: result.output, output: addAll(input, result.output) };
    }
    const result = sublayer(input);
    const sum = addAll(input, result.output);
    const normed = sum.map((x) => this.norm(`${name}.norm`, x));
    return { ...result, input, normed, sum, sublayer: result.output, output: normed };
  }

  finalNorm(stack, states) {
    const name = `model.${stack}.norm`;
    return this.weights[`${name}.weight`] ? states.map((x) => this.norm(name, x)) : states;
  }

  /** LayerNorm (Ba et al. 2016): mean 0 and variance 1 over a vector, then a learned scale and shift. */
  norm(name, x) {
    const mean = x.reduce((sum, value) => sum + value, 0) / x.length;
    const variance = x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / x.length;
    const deviation = Math.sqrt(variance + this.config.layer_norm_eps);
    const [scale, shift] = [this.weights[`${name}.weight`], this.weights[`${name}.bias`]];
    return x.map((value, i) => ((value - mean) / deviation) * scale[i] + shift[i]);
  }

  linear(name, x) {
    return linear(x, this.weights[`${name}.weight`], this.weights[`${name}.bias`]);
  }
}

/** W x + b. */
function linear(x, weight, bias) {
  const output = new Float32Array(weight.length / x.length);
  for (let row = 0, start = 0; row < output.length; row++, start += x.length) {
    let sum = bias ? bias[row] : 0;
    for (let column = 0; column < x.length; column++) sum += weight[start + column] * x[column];
    output[row] = sum;
  }
  return output;
}

function dot(x, y) {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i] * y[i];
  return sum;
}

function softmax(scores) {
  const largest = Math.max(...scores); // subtracted, so that no power overflows
  const powers = Array.from(scores, (score) => Math.exp(score - largest));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

/** log softmax(scores), as a Float64Array. */
function logSoftmax(scores) {
  const largest = scores.reduce((most, score) => Math.max(most, score), -Infinity);
  const logSum = largest + Math.log(scores.reduce((sum, score) => sum + Math.exp(score - largest), 0));
  return Float64Array.from(scores, (score) => score - logSum);
}

function weightedSum(weights, vectors) {
  const sum = new Float32Array(vectors[0].length);
  for (let i = 0; i < sum.length; i++) {
    let value = 0;
    for (let j = 0; j < weights.length; j++) value += weights[j] * vectors[j][i];
    sum[i] = value;
  }
  return sum;
}

const add = (x, y) => x.map((value, i) => value + y[i]);
const addAll = (xs, ys) => xs.map((x, i) => add(x, ys[i]));
const concat = (vectors) => Float32Array.from(vectors.flatMap((vector) => Array.from(vector)));

/** The keys and values of earlier tokens and of new ones, head by head. */
function append(past, present) {
  const joined = (name) => present[name].map((vectors, head) => [...(past[name][head] ?? []), ...vectors]);
  return { keys: joined("keys"), values: joined("values") };
}
