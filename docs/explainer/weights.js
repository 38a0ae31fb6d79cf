"use strict";
// The numbers of data.js: base64 of gzip of float16.

/** Returns each tensor of data.js by its PyTorch name, as a Float32Array; matrices are row after row. */
async function readWeights(data) {
  const zipped = Uint8Array.from(atob(data.numbers), (character) => character.charCodeAt(0));
  const stream = new Blob([zipped]).stream().pipeThrough(new DecompressionStream("gzip"));
  const bytes = new DataView(await new Response(stream).arrayBuffer());
  const numbers = new Float32Array(bytes.byteLength / 2);
  for (let i = 0; i < numbers.length; i++) numbers[i] = fromFloat16(bytes.getUint16(2 * i, true));
  const weights = {};
  for (const { name, shape, start } of data.tensors) {
    const size = shape.reduce((product, length) => product * length, 1);
    weights[name] = numbers.subarray(start, start + size);
  }
  return weights;
}

/** The number that these 16 bits mean: 1 bit of sign, 5 of exponent, 10 of fraction (IEEE 754). */
function fromFloat16(bits) {
  const sign = bits >> 15 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1024 + fraction) * 2 ** (exponent - 25);
}
