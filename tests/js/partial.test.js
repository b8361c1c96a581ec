/* Fetching only what the masks need: which bytes, in which order, and what happens when they come late or never. */
import assert from 'node:assert/strict';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, test } from 'node:test';
import { canRun, load, models } from '../../node/index.js';
import { parseHeader } from '../../store/shards.js';
import { faultServer } from '../server.js';
import { LAYERS, shards, tinyBank, tinyModel, tinyParts } from './gguf.js';
import { folder, noModules, sleep } from './helpers.js';

const model = tinyModel();
const BLOCKS = Array.from({ length: 2 * LAYERS }, (_, block) => block);
const text = 'Hello there';
const greedy = { temperature: 0, maxTokens: 3 };

/** Where the weights of a block lie in the file, its norm left out: every model's fingerprint needs that. @param {number} block */
function rangeOf(block) {
  const header = parseHeader(model, 'tiny');
  const { tensors } = tinyParts();
  const kind = block % 2 ? /ffn_(gate|up|down)/ : /attn_(q|k|v|output)/;
  const inside = tensors.flatMap(({ name, data }, i) => {
    const begin = (header?.dataAt ?? 0) + (header?.tensors[i].offset ?? 0);
    return name.startsWith(`blk.${block >> 1}.`) && kind.test(name) ? [begin, begin + data.byteLength] : [];
  });
  return /** @type {[number, number]} */ ([Math.min(...inside), Math.max(...inside)]);
}

/** The chunks that are the block's alone. @param {number} block @returns {[number, number]} */
const innerOf = (block) => [(Math.floor(rangeOf(block)[0] / 65536) + 1) * 65536, rangeOf(block)[1] - 65536];

/** Bytes of a block that a server was asked for. @param {import('../server.js').FaultServer} server @param {number} block */
function asked(server, block) {
  const [begin, end] = rangeOf(block);
  return server.requests.reduce((sum, { range }) => {
    const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(range ?? '') ?? [];
    return first === undefined ? sum : sum + Math.max(0, Math.min(end, last ? Number(last) + 1 : model.length) - Math.max(begin, Number(first)));
  }, 0);
}

/** @param {import('../../node/index.js').Llm} llm @param {import('../../node/index.js').GenerateOptions} [options] */
const hashOf = async (llm, options) => (await llm.generate(text, { ...greedy, ...options }).result).logitsHash;

describe('a load', { skip: noModules }, () => {
  // the encoder `self` runs blocks 0 to 7; of the rest, cluster 0 runs 13 and cluster 1 runs 15, and at the deeper level neither
  const skipped = [[[8, 9, 10, 11, 12, 14, 15], [8, 9, 10, 11, 12, 13, 14]], [[8, 9, 10, 11, 12, 13, 14, 15], [8, 9, 10, 11, 12, 13, 14, 15]]];
  let bankBytes = new Uint8Array();
  /** Logits of a local file, which is always whole. @type {Record<string, string>} */
  const whole = {};
  before(async () => {
    const blob = new Blob([/** @type {Uint8Array<ArrayBuffer>} */ (model)]);
    const plain = await load(blob, { threads: 1 });
    bankBytes = /** @type {Uint8Array<ArrayBuffer>} */ (tinyBank(plain.info.fingerprint.family, { skipped }));
    await plain.free();
    const llm = await load(blob, { threads: 1, bank: new Blob([bankBytes]), depth: 0.875 });
    whole.routed = await hashOf(llm);
    whole.dense = await hashOf(llm, { depth: 1 });
    whole.skip = await hashOf(llm, { skip: 'ffn:5,6' });
    await llm.free();
  });

  /** @param {import('node:test').TestContext} t */
  async function setUp(t) {
    const server = await faultServer(t, { '/m.gguf': model });
    const bank = new Blob([/** @type {Uint8Array<ArrayBuffer>} */ (bankBytes)]);
    const options = { threads: 1, cache: folder(t), bank, depth: 0.875 };
    return { server, url: `${server.url}/m.gguf`, options };
  }

  test('with a bank never fetches blocks that no mask runs, and says what that saves', async (t) => {
    const { server, url, options } = await setUp(t);
    const llm = await load(url, options);
    await llm.complete;
    for (const block of BLOCKS) {
      const [begin, end] = rangeOf(block);
      const bytes = asked(server, block);
      if (block < 8 || block === 13 || block === 15) assert.ok(bytes >= end - begin, `block ${block} is there`);
      else assert.ok(bytes < 3 * 65536, `block ${block}: ${bytes} of ${end - begin} bytes, at most chunks that others share`);
    }
    assert.equal(await hashOf(llm), whole.routed);
    const { download, fingerprint, bank } = llm.info;
    assert.equal(download.complete, true);
    assert.equal(download.fileBytes, model.length);
    assert.equal(download.networkBytes, server.sent);
    assert.equal(download.neededBytes, server.sent);
    assert.equal(download.savedBytes, model.length - server.sent);
    assert.ok(download.savedBytes > 1_500_000);
    assert.equal(fingerprint.exact, '', 'not known of a part');
    assert.equal(bank?.clusters, 2);
    await llm.free();
    assert.equal(await models.has(url, { cache: options.cache }), 'partial');
  });

  test('is ready for prompts before all is there, and a prompt comes before the rest', async (t) => {
    const { server, url, options } = await setUp(t);
    server.fault('/m.gguf', { inside: [innerOf(13)[0], model.length], bytesPerSecond: 400_000 });
    const llm = await load(url, options);
    assert.equal(llm.info.download.complete, false);
    assert.equal(llm.info.timings.complete_ms, 0);
    let complete = false;
    void llm.complete.then(() => (complete = true));
    const generation = llm.generate(text, greedy);
    for await (const _ of generation) {
      assert.equal(complete, false, 'the first token is there before the last byte');
      break;
    }
    await llm.complete;
    assert.equal(await hashOf(llm), whole.routed);
    const { load_ms, complete_ms } = llm.info.timings;
    assert.ok(complete_ms > load_ms, `${complete_ms} > ${load_ms}`);
    await llm.free();
  });

  test('fetches what another depth or skip asks for, when it is asked for', async (t) => {
    const { server, url, options } = await setUp(t);
    const llm = await load(url, { ...options, depth: 0.75 });
    await llm.complete;
    assert.ok(asked(server, 13) < 65536 * 3 && asked(server, 15) < 65536 * 3, 'the deeper level needs neither');
    assert.equal(await hashOf(llm, { depth: 0.875 }), whole.routed);
    assert.equal(await hashOf(llm, { skip: 'ffn:5,6' }), whole.skip);
    assert.equal(await hashOf(llm, { depth: 1 }), whole.dense);
    for (let n = 0; !llm.info.fingerprint.exact; n++) assert.ok(await sleep(20).then(() => n < 200), 'the whole is known');
    assert.equal(llm.info.download.savedBytes, 0);
    assert.equal(llm.info.download.networkBytes, model.length, 'nothing twice');
    await llm.free();
  });

  test('with a skip and no bank saves as well', async (t) => {
    const { server, url, options } = await setUp(t);
    const { bank: _, depth: __, ...plain } = options;
    const llm = await load(url, { ...plain, skip: 'ffn:5,6' });
    assert.equal(await hashOf(llm), whole.skip);
    await llm.complete;
    assert.ok(asked(server, 11) < 3 * 65536 && asked(server, 13) < 3 * 65536);
    assert.equal((await llm.embed(text)).length, 128, 'the sentence encoder has its blocks');
    await llm.free();
  });

  test('again, offline, has all that the masks need', async (t) => {
    const { server, url, options } = await setUp(t);
    const first = await load(url, options);
    await first.complete;
    await first.free();
    await server.close();
    const llm = await load(url, options);
    assert.equal(await hashOf(llm), whole.routed);
    await llm.complete;
    assert.equal(llm.info.download.networkBytes, 0);
    await assert.rejects(hashOf(llm, { depth: 1 }), { code: 'network' }, 'what was not fetched cannot be had');
    assert.equal(await hashOf(llm), whole.routed, 'and the rest goes on');
    await llm.free();
  });

  test('from a server without ranges is whole', async (t) => {
    const { server, url, options } = await setUp(t);
    server.fault('/m.gguf', { noRange: true });
    const llm = await load(url, options);
    assert.equal(llm.info.download.complete, true);
    assert.equal(server.requests.length, 1);
    assert.equal(await hashOf(llm), whole.routed);
    await llm.free();
    const again = await load(url, { ...options, cache: false, partial: false });
    assert.equal(await hashOf(again), whole.routed);
    await again.free();
  });

  test('in shards fetches what the masks need of each', async (t) => {
    const { server, options } = await setUp(t);
    const { meta, tensors } = tinyParts();
    shards(meta, tensors, 3).forEach((bytes, i) => server.put(`/s-0000${i + 1}-of-00003.gguf`, bytes));
    const llm = await load(`${server.url}/s-00001-of-00003.gguf`, options);
    await llm.complete;
    assert.equal(await hashOf(llm), whole.routed);
    assert.ok(llm.info.download.savedBytes > 1_500_000);
    await llm.free();
  });

  test('that cannot get the rest says so, and a later prompt tries again', async (t) => {
    const { server, url, options } = await setUp(t);
    server.fault('/m.gguf', { inside: innerOf(13), status: 404 }, { inside: innerOf(15), status: 404 });
    const llm = await load(url, options);
    await assert.rejects(llm.complete, { code: 'not_found' });
    await assert.rejects(hashOf(llm), { code: 'not_found' });
    server.fault('/m.gguf');
    assert.equal(await hashOf(llm), whole.routed);
    await llm.free();
  });

  test('may be given up, or freed, while a prompt waits for tensors; another load goes on where it was', async (t) => {
    const { server, url, options } = await setUp(t);
    server.fault('/m.gguf', { inside: [innerOf(13)[0], model.length], bytesPerSecond: 400_000 });
    const llm = await load(url, options);
    const stop = new AbortController();
    const waiting = llm.generate(text, { ...greedy, depth: 1, signal: stop.signal }).result;
    setTimeout(() => stop.abort(), 100);
    await assert.rejects(waiting, { name: 'AbortError' });
    const pending = llm.generate(text, { ...greedy, depth: 1 }).result;
    setTimeout(() => void llm.free(), 100);
    await assert.rejects(pending, { code: 'freed' });
    await llm.free();
    server.fault('/m.gguf');
    const again = await load(url, options);
    assert.equal(await hashOf(again), whole.routed);
    assert.ok(again.info.download.storeBytes > 4_000_000);
    await again.free();
  });

  test('finds a bank beside the model, leaves out one that does not fit, and says what it took', async (t) => {
    const { server, options } = await setUp(t);
    const where = folder(t);
    const path = join(where, 'm.Q4_1.gguf');
    writeFileSync(path, model);
    const auto = /** @type {const} */ ({ threads: 1, cache: options.cache, bank: 'auto' });
    /** @param {any} source @param {object} [more] */
    const bankOf = async (source, more) => {
      const llm = await load(source, { ...auto, ...more });
      const { bank, bankReason } = llm.info;
      await llm.free();
      return { clusters: bank?.clusters, bankReason };
    };
    const none = await bankOf(path);
    assert.equal(none.clusters, undefined);
    assert.match(none.bankReason, /there is no bank beside the model, and the package has none for 'Tiny', family [0-9a-f]{16}/);
    for (const name of ['m.Q4_1.bank.gguf', 'm.bank.gguf']) {
      writeFileSync(join(where, name), bankBytes);
      assert.deepEqual(await bankOf(path), { clusters: 2, bankReason: name });
      rmSync(join(where, name));
    }
    writeFileSync(join(where, 'm.bank.gguf'), tinyBank('fedcba9876543210', { skipped }));
    const other = await bankOf(path);
    assert.equal(other.clusters, undefined);
    assert.match(other.bankReason, /none that fits: m\.bank\.gguf: .*fedcba9876543210/);
    await assert.rejects(load(path, { ...auto, bank: join(where, 'm.bank.gguf') }), { code: 'argument', message: /fedcba9876543210/ });

    server.put('/m.bank.gguf', bankBytes);
    assert.deepEqual(await bankOf(`${server.url}/m.gguf`), { clusters: 2, bankReason: 'm.bank.gguf' });
    server.hub('owner/name', { files: { 'x.Q4_1.gguf': model, 'any.bank.gguf': bankBytes } });
    assert.deepEqual(await bankOf('hf:owner/name', { endpoint: server.url }), { clusters: 2, bankReason: 'any.bank.gguf' });
  });

  test('measures the depth that a speed needs', async (t) => {
    const { url, options } = await setUp(t);
    const seen = /** @type {string[]} */ ([]);
    for (const [depth, want] of /** @type {const} */ ([[{ decodeTokensPerSecond: 1e-3 }, 1], [{ decodeTokensPerSecond: 1e9 }, 0.75], ['auto', undefined]])) {
      const llm = await load(url, { ...options, depth, onProgress: ({ phase }) => seen.push(phase) });
      if (want !== undefined) assert.equal(llm.info.depth, want);
      else assert.ok([1, 0.875, 0.75].includes(llm.info.depth));
      assert.ok(llm.info.timings.warmup_ms > 0);
      await llm.free();
    }
    assert.deepEqual([...new Set(seen)].sort(), ['download', 'verify', 'warm-up']);
    await assert.rejects(load(url, { ...options, depth: 0.5 }), { code: 'argument', message: /depth/ });
    await assert.rejects(load(url, { ...options, depth: /** @type {any} */ ('fast') }), { code: 'argument', message: /depth is "fast", want a number/ });
  });
});

describe('canRun', { skip: noModules }, () => {
  test('reads the header alone', async (t) => {
    const server = await faultServer(t, { '/m.gguf': model });
    for (const fault of [{}, { noRange: true, bytesPerSecond: 4_000_000 }]) {
      server.fault('/m.gguf', fault);
      const before = server.sent;
      const { fits, bytes, memoryBytes, prefillTokensPerSecond, decodeTokensPerSecond, suggestedDepth, suggestedContextSize, reasons } = await canRun(
        `${server.url}/m.gguf`,
        { threads: 1 },
      );
      assert.deepEqual({ fits, bytes, suggestedDepth, suggestedContextSize, reasons }, { fits: true, bytes: model.length, suggestedDepth: 1, suggestedContextSize: 1024, reasons: [] });
      assert.ok(prefillTokensPerSecond > 0 && decodeTokensPerSecond > 0);
      assert.ok(server.sent - before < model.length / 2, 'a piece');
      const llm = await load(new Blob([/** @type {Uint8Array<ArrayBuffer>} */ (model)]), { threads: 1, contextSize: 1024 });
      const used = llm.info.memory.peak;
      await llm.free();
      assert.ok(memoryBytes > used && memoryBytes < used + (16 << 20), `${memoryBytes} for ${used}`);
    }
  });

  test('says why not, and no bank no skipping', async (t) => {
    const path = join(folder(t), 'm.gguf');
    writeFileSync(path, model);
    const { fits, reasons } = await canRun(path, { threads: 1, contextSize: 4096 });
    assert.equal(fits, false);
    assert.match(reasons.join(), /contextSize is 4096, the model was trained for 1024/);
    await assert.rejects(canRun(join(folder(t), 'none.gguf')), { code: 'not_found' });
    await assert.rejects(canRun(path, /** @type {any} */ ({ thread: 1 })), { code: 'argument' });
    const stop = new AbortController();
    const running = canRun(path, { threads: 1, signal: stop.signal });
    stop.abort();
    await assert.rejects(running, { name: 'AbortError' });
  });
});
