import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { STRICT_CSP, serveFolders } from '../../tools/static_server.mjs';
import { folder } from './helpers.js';

/** @param {import('node:test').TestContext} t @param {Partial<import('../../tools/static_server.mjs').ServeOptions>} [options] */
async function served(t, options) {
  const root = folder(t);
  mkdirSync(join(root, 'site/deep'), { recursive: true });
  writeFileSync(join(root, 'secret.txt'), 'secret');
  writeFileSync(join(root, 'site/digits.bin'), '0123456789');
  writeFileSync(join(root, 'site/.hidden'), 'hidden');
  writeFileSync(join(root, 'site/deep/index.html'), '<p>deep');
  const server = await serveFolders({ folders: { '/': join(root, 'site') }, ...options });
  t.after(() => server.close());
  return server.url;
}

/** A path as it is, which fetch would clean up. @param {string} url @param {string} path @returns {Promise<number>} */
const status = (url, path) =>
  new Promise((resolve, reject) => {
    const { hostname, port } = new URL(url);
    http.get({ hostname, port, path }, (response) => (response.resume(), resolve(response.statusCode ?? 0))).on('error', reject);
  });

describe('static server', () => {
  test('serves files with their types, and index.html of a folder', async (t) => {
    const url = await served(t);
    const response = await fetch(`${url}/deep/`);
    assert.equal(response.headers.get('content-type'), 'text/html; charset=utf-8');
    assert.equal(await response.text(), '<p>deep');
    assert.equal((await fetch(`${url}/nothing`)).status, 404);
    assert.equal((await fetch(`${url}/digits.bin`, { method: 'POST' })).status, 405);
  });

  test('serves ranges, and all where a range is no longer of the same file', async (t) => {
    const url = `${await served(t)}/digits.bin`;
    const cases = /** @type {const} */ ([
      ['bytes=2-4', 206, '234', 'bytes 2-4/10'],
      ['bytes=7-', 206, '789', 'bytes 7-9/10'],
      ['bytes=-3', 206, '789', 'bytes 7-9/10'],
      ['bytes=8-99', 206, '89', 'bytes 8-9/10'],
      ['bytes=0-1,4-5', 200, '0123456789', null],
      ['bytes=4-2', 200, '0123456789', null],
    ]);
    for (const [range, wanted, text, contentRange] of cases) {
      const response = await fetch(url, { headers: { Range: range } });
      const found = [response.status, await response.text(), response.headers.get('content-range')];
      assert.deepEqual(found, [wanted, text, contentRange], range);
    }
    const outside = await fetch(url, { headers: { Range: 'bytes=10-' } });
    assert.deepEqual([outside.status, outside.headers.get('content-range')], [416, 'bytes */10']);
    const etag = (await fetch(url, { method: 'HEAD' })).headers.get('etag') ?? '';
    assert.equal((await fetch(url, { headers: { Range: 'bytes=2-4', 'If-Range': etag } })).status, 206);
    assert.equal((await fetch(url, { headers: { Range: 'bytes=2-4', 'If-Range': '"other"' } })).status, 200);
    assert.equal((await fetch(url, { headers: { 'If-None-Match': etag } })).status, 304);
  });

  test('serves nothing from outside of its folders, and nothing hidden', async (t) => {
    const url = await served(t);
    for (const path of ['/../secret.txt', '/%2e%2e/secret.txt', '/deep/..%2f..%2fsecret.txt', '/.hidden', '/..%5csecret.txt']) {
      assert.equal(await status(url, path), 404, path);
    }
    assert.equal(await status(url, '/%'), 400);
  });

  test('sends the headers of an isolated page, or not, and a policy', async (t) => {
    const plain = await fetch(`${await served(t, { isolated: false })}/deep/`);
    assert.equal(plain.headers.get('cross-origin-opener-policy'), null);
    const strict = await fetch(`${await served(t, { csp: STRICT_CSP })}/nothing`);
    assert.equal(strict.headers.get('cross-origin-opener-policy'), 'same-origin');
    assert.equal(strict.headers.get('cross-origin-embedder-policy'), 'require-corp');
    assert.equal(strict.headers.get('content-security-policy'), STRICT_CSP);
  });
});
