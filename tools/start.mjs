/* npm start: the chat page on this machine, isolated and under a strict policy, with the model that set-up fetched.
 *
 *   npm start -- --port 8080 */
import path from 'node:path';
import { parseArgs } from 'node:util';
import { root } from './setup/steps.mjs';
import { serveFolders, STRICT_CSP } from './static_server.mjs';

const HELP = `usage: npm start -- [options]

Serves the chat page (web/demo) on this machine alone, with the headers that allow threads.

  --port N       port to listen on (default: 8080, or the next that is free)
  --plain        without the isolation headers: one thread, as on a host where headers cannot be set
  --help         this text

The page's address may name another model and bank: /web/demo/?model=URL&bank=URL. Files of models/ are at /models/.`;
const FOLDERS = ['web', 'wasm', 'store', 'banks', 'models'];
const PORT = 8080;
const TRIES = 20;

/** @param {string | undefined} text */
function portOf(text) {
  if (text === undefined) return undefined;
  const port = Number(text);
  const fine = Number.isInteger(port) && port >= 0 && port <= 65535;
  if (!fine) throw new TypeError(`--port ${text}: want a whole number from 0 to 65535`);
  return port;
}

/** @param {number | undefined} wanted @param {boolean} isolated */
async function listen(wanted, isolated) {
  const folders = Object.fromEntries(FOLDERS.map((name) => [`/${name}/`, path.join(root, name)]));
  for (let port = wanted ?? PORT; ; port++) {
    try {
      return await serveFolders({ folders, isolated, csp: STRICT_CSP, port, home: '/web/demo/' });
    } catch (error) {
      const busy = /** @type {NodeJS.ErrnoException} */ (error).code === 'EADDRINUSE';
      if (!busy || wanted !== undefined || port === PORT + TRIES) throw error;
    }
  }
}

try {
  const { values } = parseArgs({
    options: { port: { type: 'string' }, plain: { type: 'boolean', default: false }, help: { type: 'boolean', default: false } },
  });
  if (values.help) console.log(HELP);
  else {
    const { url } = await listen(portOf(values.port), !values.plain);
    console.log(`The chat is at ${url}/ (Ctrl-C ends it)`);
  }
} catch (error) {
  console.error(`start: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
}
