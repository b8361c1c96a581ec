/** The banks of the package, by the `general.name` of their models. Literal URLs, so that bundlers see them. */

/** @type {readonly import('../store/open.js').PackedBank[]} */
export const banks = [];
