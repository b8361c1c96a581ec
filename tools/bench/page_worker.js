/** The worker of page.html: a task of tasks.js in a browser. */
import { runTask } from './tasks.js';

globalThis.onmessage = async ({ data: { model, job } }) => {
  try {
    const response = await fetch(model);
    if (!response.ok) throw new Error(`${model}: the server answered ${response.status}`);
    globalThis.postMessage({ done: await runTask(job, new Uint8Array(await response.arrayBuffer())) });
  } catch (error) {
    globalThis.postMessage({ failed: error instanceof Error ? (error.stack ?? error.message) : String(error) });
  }
};
