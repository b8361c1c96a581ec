/* Ours in Node.js: each task in a process of its own. */
import { fileURLToPath } from 'node:url';
import { relaxedNode } from '../setup/node24.mjs';
import { jsonOf } from './command.mjs';
import { wasmSide } from './wasm_side.mjs';

const program = fileURLToPath(new URL('./node_task.mjs', import.meta.url));
export const nodeHasRelaxed = relaxedNode() !== '';
/** The one that is measured: with relaxed SIMD if there is one. */
const node = relaxedNode() || process.execPath;

/** @returns {Promise<string>} */
export const nodeVersion = () => jsonOf(node, ['-p', 'JSON.stringify(process.versions.node)']);

/** @param {'simd128' | 'relaxed'} variant  relaxed: the faster of its two sets of kernels */
export const nodeSide = (variant) =>
  wasmSide(`node ${variant}`, async ({ model }, job) => {
    const { result } = await jsonOf(node, [program, model.file, JSON.stringify({ variant: variant === 'relaxed' ? 'auto' : variant, ...job })]);
    return result;
  });

/**
 * Each kernel's share of its limit, of the WebAssembly sets.
 * @param {string} only a part of their names, '' all
 * @returns {Promise<import('./table.mjs').KernelReport[]>}
 */
export const wasmKernels = (only) =>
  jsonOf(node, ['tests/kernels/wasm/run.mjs', '--bench', '--json', ...(only ? ['', only] : [])]);
