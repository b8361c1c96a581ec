/* npm start, without its set-up. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { createServer } from 'node:http';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const START = fileURLToPath(new URL('../../tools/start.mjs', import.meta.url));

/** @param {import('node:test').TestContext} t @param {string[]} args @returns {Promise<string>} the address that it prints */
function start(t, args) {
  const child = spawn(process.execPath, [START, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => child.kill());
  return new Promise((resolve, reject) => {
    child.stdout.setEncoding('utf8').on('data', (text) => resolve(/http:\S+\d(?=\/)/.exec(text)?.[0] ?? text));
    child.on('exit', (code) => reject(new Error(`it ended with ${code}`)));
  });
}

test('serves the chat page isolated and under a policy, and nothing else of the project', async (t) => {
  const url = await start(t, ['--port', '0']);
  const page = await fetch(`${url}/`);
  assert.equal(page.url, `${url}/web/demo/`);
  assert.match(await page.text(), /<title>Skipstone<\/title>/);
  assert.equal(page.headers.get('cross-origin-embedder-policy'), 'require-corp');
  assert.match(page.headers.get('content-security-policy') ?? '', /script-src 'self' 'wasm-unsafe-eval';/);
  for (const path of ['/web/index.js', '/wasm/llm.js', '/store/store.js', '/banks/index.js']) {
    assert.equal((await fetch(url + path)).status, 200, path);
  }
  for (const path of ['/package.json', '/tools/start.mjs', '/node_modules/marked/package.json']) {
    assert.equal((await fetch(url + path)).status, 404, path);
  }
});

test('--plain leaves the isolation headers out; a port in use is said, a wrong one refused', async (t) => {
  const plain = await fetch(`${await start(t, ['--port', '0', '--plain'])}/`);
  assert.equal(plain.headers.get('cross-origin-embedder-policy'), null);
  const other = createServer().listen(0, '127.0.0.1');
  t.after(() => other.close());
  await new Promise((resolve) => other.once('listening', resolve));
  const { port } = /** @type {import('node:net').AddressInfo} */ (other.address());
  const taken = spawnSync(process.execPath, [START, '--port', String(port)], { encoding: 'utf8' });
  assert.deepEqual([taken.status, taken.stderr.startsWith('start: listen EADDRINUSE')], [1, true], taken.stderr);
  const wrong = spawnSync(process.execPath, [START, '--port', 'http'], { encoding: 'utf8' });
  assert.deepEqual([wrong.status, wrong.stderr], [1, 'start: --port http: want a whole number from 0 to 65535\n']);
});
