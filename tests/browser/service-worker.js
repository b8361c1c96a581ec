/* A service worker that answers a question: the engine runs in place there, since a service worker starts no others. */
import { load } from '../../web/index.js';

const scope = /** @type {any} */ (self);

scope.addEventListener('install', () => scope.skipWaiting());
scope.addEventListener('activate', (/** @type {any} */ event) => event.waitUntil(scope.clients.claim()));
scope.addEventListener('message', (/** @type {any} */ event) => event.waitUntil(answer(event.data, event.ports[0])));

/** @param {{model: string, messages: import('../../wasm/template.js').Message[]}} question @param {MessagePort} port */
async function answer({ model, messages }, port) {
  try {
    const llm = await load(model, { contextSize: 256 });
    let turns = 0;
    const timer = setInterval(() => turns++, 1);
    const session = await llm.createSession({ temperature: 0 });
    const { choices } = await llm.chat.completions.create({ messages, temperature: 0 });
    const text = await session.prompt(messages[0].content);
    clearInterval(timer);
    const { threads, threadsReason } = llm.info.module;
    await llm.free();
    port.postMessage({ chat: choices[0].message.content, text, threads, threadsReason, turns });
  } catch (error) {
    port.postMessage({ error: error instanceof Error ? error.stack : String(error) });
  }
}
