/**
 * Which relaxed dot product is the faster one here: four 8-bit products into 32 bits (ARM, and x86 with AVX-VNNI), or two
 * into 16. Engines do not tell, so both are timed, in a module of a few hundred bytes. wasm_relaxed.c says what for.
 */
const SUMS = 12; // at once: as many as hide the latency of the instructions
const TURNS = 20000; // of the loop in a call: some 0.1 ms, for clocks that tell no less
const ROUNDS = 8; // the fastest counts: engines optimise after the first ones, and other work comes between

const [TURNS_LEFT, DOTS, X, FIRST] = [0, 1, 2, 3]; // the locals, the sums last
const get = (/** @type {number} */ local) => [0x20, local];
const set = (/** @type {number} */ local) => [0x21, local];
// sum = relaxed_dot(sum, x) + sum: of itself, so that no product can be taken out of the loop
const DOT = (/** @type {number} */ sum) => [...get(sum), ...get(X), ...get(sum), 0xfd, 0x93, 0x02, ...set(sum)];
const PAIR = (/** @type {number} */ sum) => [...get(sum), ...get(X), 0xfd, 0x92, 0x02, ...get(sum), 0xfd, 0x8e, 0x01, ...set(sum)];

/** @param {number} n */
const leb = (n) => (n < 128 ? [n] : [(n & 127) | 128, n >> 7]);
/** @param {number} id @param {number[]} content */
const section = (id, content) => [id, ...leb(content.length), ...content];

/** One function, so that an engine optimises both loops or neither: (turns, dots) => something of all sums. */
function moduleBytes() {
  const sums = Array.from({ length: SUMS }, (_, i) => FIRST + i);
  const loop = (/** @type {(sum: number) => number[]} */ step) =>
    [0x03, 0x40, ...sums.flatMap(step), ...get(TURNS_LEFT), 0x41, 1, 0x6b, 0x22, TURNS_LEFT, 0x0d, 0, 0x0b];
  const xor = sums.flatMap((sum, i) => [...get(sum), ...(i ? [0xfd, 0x51] : [])]);
  const code = [
    1, SUMS + 1, 0x7b, // locals: v128
    ...get(DOTS), 0x04, 0x40, ...loop(DOT), 0x05, ...loop(PAIR), 0x0b, // if dots, else
    ...xor, 0xfd, 0x1b, 0, 0x0b, // lane 0
  ];
  return new Uint8Array([
    0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, // magic, version
    ...section(1, [1, 0x60, 2, 0x7f, 0x7f, 1, 0x7f]), // type: (i32, i32) -> i32
    ...section(3, [1, 0]),
    ...section(7, [1, 3, 0x72, 0x75, 0x6e, 0, 0]), // export "run"
    ...section(10, [1, ...leb(code.length), ...code]),
  ]);
}

/** @type {number | undefined} */
let known;

/** The time of four products into 32 bits, over that of two into 16 and their sum. Takes some 3 ms, once. */
export function dotTimeRatio() {
  if (known !== undefined) return known;
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(moduleBytes()));
  const run = /** @type {(turns: number, dots: number) => number} */ (exports.run);
  const time = (/** @type {number} */ dots) => {
    const start = performance.now();
    run(TURNS, dots);
    return performance.now() - start;
  };
  const fastest = [Infinity, Infinity];
  for (let round = 0; round < ROUNDS; round++)
    for (const dots of /** @type {const} */ ([0, 1])) fastest[dots] = Math.min(fastest[dots] ?? 0, time(dots));
  return (known = (fastest[1] ?? 0) / (fastest[0] || 1));
}
