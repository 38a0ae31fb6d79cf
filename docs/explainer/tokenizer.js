"use strict";
// Byte-level BPE (section 5.1), as VanillaTransformerTokenizer does it; checked against it piece by piece.

// A word with the space before it and inner apostrophes; a digit; a run of punctuation; one of white space.
// \p{White_Space} is what \s means to the tokenizers library; \s of JavaScript is another set.
const PRE_TOKENS = new RegExp(
  [
    String.raw` ?[\p{L}\p{M}]+(?:['’][\p{L}\p{M}]+)*`,
    String.raw` ?\p{N}`,
    String.raw` ?[^\p{White_Space}\p{L}\p{M}\p{N}]+`,
    String.raw`\p{White_Space}+(?!\P{White_Space})`,
    String.raw`\p{White_Space}+`,
  ].join("|"),
  "gu",
);

class Tokenizer {
  constructor({ tokenizer }) {
    const { vocab, merges } = tokenizer.model;
    this.ids = new Map(Object.entries(vocab));
    this.names = [];
    for (const [name, id] of this.ids) this.names[id] = name;
    this.ranks = new Map(merges.map((pair, rank) => [pair.join(" "), rank]));
    this.special = new Set();
    for (const { id, content } of tokenizer.added_tokens) {
      this.names[id] = content;
      this.ids.set(content, id);
      this.special.add(id);
    }
    this.lowercase = JSON.stringify(tokenizer.normalizer).includes('"Lowercase"');
    const template = tokenizer.post_processor.processors.find(
      ({ type }) => type === "TemplateProcessing",
    ).single;
    const textAt = template.findIndex((part) => part.Sequence);
    const idsOf = (parts) => parts.map((part) => this.ids.get(part.SpecialToken.id));
    this.before = idsOf(template.slice(0, textAt)); // such as the tag of the target language
    this.after = idsOf(template.slice(textAt + 1)); // </s>
  }

  /** Returns the words of a text, each with its pieces, their ids, and the merges that led to them. */
  words(text) {
    let normal = text.replace(/\p{Surrogate}/gu, "\ufffd");
    if (this.lowercase) normal = Array.from(normal, (character) => character.toLowerCase()).join("");
    if (normal) normal = " " + normal;
    return (normal.match(PRE_TOKENS) ?? []).map((word) => {
      const steps = this.merge(Array.from(new TextEncoder().encode(word), (byte) => BYTE_NAMES[byte]));
      const pieces = steps[steps.length - 1];
      return { word, steps, pieces, ids: pieces.map((piece) => this.ids.get(piece)) };
    });
  }

  /** Returns the ids of a text, with the special tokens around it. */
  encode(text) {
    return [...this.before, ...this.words(text).flatMap(({ ids }) => ids), ...this.after];
  }

  /** Merges the pair that was learned first, again and again (Sennrich et al. 2016); returns every state. */
  merge(pieces) {
    const steps = [pieces];
    for (;;) {
      let best = Infinity;
      for (let i = 0; i + 1 < pieces.length; i++) {
        best = Math.min(best, this.ranks.get(`${pieces[i]} ${pieces[i + 1]}`) ?? Infinity);
      }
      if (best === Infinity) return steps;
      const merged = [];
      for (let i = 0; i < pieces.length; i++) {
        const isPair = i + 1 < pieces.length && this.ranks.get(`${pieces[i]} ${pieces[i + 1]}`) === best;
        merged.push(isPair ? pieces[i] + pieces[++i] : pieces[i]);
      }
      steps.push((pieces = merged));
    }
  }

  /** Returns the text of ids, without special tokens and without the space that encoding adds. */
  decode(ids) {
    const names = ids.filter((id) => !this.special.has(id)).map((id) => this.names[id]);
    const bytes = Array.from(names.join(""), (character) => BYTE_OF_NAME.get(character));
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes)).replace(/^ /, "");
  }

  /** Returns one piece as a reader should see it: spaces as ␣, a part of a character as \xc3. */
  show(id) {
    return this.special.has(id) ? this.names[id] : showName(this.names[id]);
  }
}

/** Returns a piece's name in the vocabulary, such as "Ġdió", as text: "␣dió". */
function showName(name) {
  const bytes = Uint8Array.from(name, (character) => BYTE_OF_NAME.get(character));
  let text = "";
  for (let i = 0; i < bytes.length;) {
    const length = characterLength(bytes, i);
    const character =
      length && new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes.subarray(i, i + length));
    if (!length) text += hex(bytes[i]);
    else if (character === " ") text += "␣";
    else
      text += /[\p{C}\p{Z}]/u.test(character)
        ? Array.from(bytes.subarray(i, i + length), hex).join("")
        : character;
    i += length || 1;
  }
  return text;
}

const hex = (byte) => "\\x" + byte.toString(16).padStart(2, "0");

/** The bytes of the UTF-8 character that starts at byte i; 0 if there is no whole character. */
function characterLength(bytes, i) {
  for (let length = 1; length <= 4 && i + length <= bytes.length; length++) {
    try {
      new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(i, i + length));
      return length;
    } catch {
      // an unfinished character: one more byte
    }
  }
  return 0;
}

// GPT-2's names of the 256 bytes: printable characters name themselves, the others are characters from 256 on.
const BYTE_NAMES = [];
for (let byte = 0, next = 256; byte < 256; byte++) {
  const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  BYTE_NAMES.push(String.fromCharCode(printable ? byte : next++));
}
const BYTE_OF_NAME = new Map(BYTE_NAMES.map((name, byte) => [name, byte]));
