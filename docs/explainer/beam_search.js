"use strict";
// The paper's beam search (section 6.1) with the length penalty of Wu et al. 2016, as the class BeamSearch of
// beam_search.py. It keeps every candidate, so that the page can draw the tree.

/** lp(Y) = ((5 + |Y|) / 6)^α, where |Y| counts the end token. */
const lengthPenalty = (length, alpha) => ((5 + length) / 6) ** alpha;

class BeamSearch {
  /**
   * @param model a Transformer; memory: the output of its encoder.
   * @param settings beams; alpha: α of the length penalty; limit: the largest |Y|; endsAtLimit: whether the
   *     last token there must be an end; start, end and pad: ids, of which end is a list.
   */
  constructor(model, memory, settings) {
    this.model = model;
    this.settings = settings;
    const root = { token: settings.start, parent: null, logP: 0, score: 0, length: 0, fate: "alive" };
    root.read = () => model.decode([root.token], model.start(memory));
    this.root = root;
    this.alive = [root];
    this.finished = []; // best first, at most `beams`
    this.steps = []; // what each step saw: its candidates, and the state after it
    this.done = false;
  }

  /** Continues every live hypothesis by one token. */
  step() {
    const { beams, alpha, limit, endsAtLimit, end, pad } = this.settings;
    const length = this.steps.length + 1;
    const atLimit = length >= limit;
    // Enough that `beams` hypotheses live on, even if all of them end. With one beam, the search is greedy.
    const count = beams === 1 ? 1 : beams * (1 + end.length);
    let candidates = this.alive.flatMap((parent) => {
      const logPs = logSoftmax(this.logits(parent));
      if (!end.includes(pad)) logPs[pad] = -Infinity;
      const allowed = atLimit && endsAtLimit ? end : topK(logPs, count);
      return allowed.map((token) => {
        const score = parent.score + logPs[token]; // log P(Y | X)
        return { token, parent, logP: logPs[token], score, length, fate: "dropped" };
      });
    });
    candidates = candidates.sort((a, b) => b.score - a.score).slice(0, count);

    const ends = ({ token }) => atLimit || end.includes(token);
    const ended = candidates.filter(ends);
    for (const candidate of ended) {
      candidate.fate = "ended";
      candidate.rank = candidate.score / lengthPenalty(length, alpha); // s(Y, X)
    }
    this.finished = [...this.finished, ...ended].sort((a, b) => b.rank - a.rank).slice(0, beams);
    this.alive = candidates.filter((candidate) => !ends(candidate)).slice(0, beams);
    for (const candidate of this.alive) candidate.fate = "alive";

    // log P only falls as a hypothesis grows: a live one can reach at most this rank, at the largest penalty.
    const bound = this.alive.length
      ? this.alive[0].score / lengthPenalty(alpha > 0 ? limit : length + 1, alpha)
      : -Infinity;
    const best = this.finished.length ? this.finished[0].rank : -Infinity;
    this.done = !(bound > best);
    this.steps.push({ candidates, alive: this.alive, finished: this.finished, bound, best });
    return this.done;
  }

  /** The logits after a live hypothesis; the decoder reads its last token, the cache holds the others. */
  logits(node) {
    const parent = node.parent;
    if (!node.logits) {
      const { output, cache } = parent ? this.model.decode([node.token], parent.cache) : node.read();
      node.cache = cache;
      node.logits = this.model.logits(output[output.length - 1]);
    }
    return node.logits;
  }
}

/** The token ids of a hypothesis, without the start token. */
function tokensOf(node) {
  return node.parent ? [...tokensOf(node.parent), node.token] : [];
}

/** The indices of the k largest values, largest first. */
function topK(values, k) {
  const best = [];
  for (let i = 0; i < values.length; i++) {
    if (best.length === k && !(values[i] > values[best[k - 1]])) continue;
    let place = best.length;
    while (place > 0 && values[i] > values[best[place - 1]]) place--;
    best.splice(place, 0, i);
    if (best.length > k) best.pop();
  }
  return best;
}

/** The settings of the paper's search for a source of this many tokens, by generation_config.json. */
function searchSettings({ generation_config: settings, config }, sourceLength) {
  const extra = settings.max_extra_tokens;
  const longest = settings.max_length ?? (extra == null ? 21 : config.max_position_embeddings);
  return {
    beams: settings.num_beams ?? 1,
    alpha: settings.length_penalty ?? 1,
    limit: Math.min(longest - 1, extra == null ? Infinity : Math.max(1, sourceLength + extra)),
    endsAtLimit: extra != null || settings.num_beams > 1,
    start: settings.decoder_start_token_id,
    end: [settings.eos_token_id].flat(),
    pad: settings.pad_token_id,
  };
}
