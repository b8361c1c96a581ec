/**
 * The banks of the package: the `general.name` of their models, the family of those (`skipstone inspect` tells both), and the
 * file. Literal URLs, so that bundlers see them.
 */

/** @type {readonly import('../store/open.js').PackedBank[]} */
export const banks = [
  {
    model: 'Smollm2 135M 8k Lc100K Mix1 Ep2',
    family: 'b6fe583e4b226bf1',
    url: new URL('./SmolLM2-135M-Instruct.gguf', import.meta.url),
  },
];
