/* A worker that loads the engine, which then is a worker's worker. */
import { load } from '../../web/index.js';

self.onmessage = async ({ data: { model, messages } }) => {
  try {
    const llm = await load(model, { contextSize: 256, threads: 2 });
    const { text } = await llm.generate({ messages }, { temperature: 0 }).result;
    const { threads } = llm.info.module;
    await llm.free();
    self.postMessage({ text, threads });
  } catch (error) {
    self.postMessage({ error: error instanceof Error ? error.stack : String(error) });
  }
};
