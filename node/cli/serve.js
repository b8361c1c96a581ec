/** skipstone serve: an OpenAI-compatible server. */
import { once } from 'node:events';
import { serve as listen } from '../server.js';
import { BANK, CODE, context, DEPTH, ENGINE, loadModel, MODEL, writeJson } from './shared.js';

/** @type {import('./options.js').Command} */
export const serve = {
  name: 'serve',
  summary: 'an OpenAI-compatible server',
  usage: '-m MODEL [options]',
  about: `Serves POST /v1/chat/completions, /v1/completions and /v1/embeddings, and GET /v1/models, on this machine alone
unless --host says otherwise. Calls queue on one engine. Ctrl-C ends it.`,
  examples: `  npx skipstone serve -m model.gguf --port 8080
  curl http://127.0.0.1:8080/v1/chat/completions --json '{"messages": [{"role": "user", "content": "Hello!"}]}'`,
  options: [
    MODEL,
    { name: 'port', kind: 'whole', min: 0, max: 65535, argument: 'N', help: 'port; 0: any that is free (default 8080)' },
    { name: 'host', argument: 'ADDRESS', help: 'address to listen on (default 127.0.0.1)' },
    { name: 'cors', argument: 'ORIGIN', help: 'pages of this origin may call; *: of all (default: none)' },
    { name: 'api-key', argument: 'KEY', help: 'what calls must carry (default: $SKIPSTONE_API_KEY, else\nnothing)' },
    context('the smaller of 2048 and what\nthe model was trained on'),
    ...BANK,
    DEPTH,
    ...ENGINE,
    { name: 'json', kind: 'flag', help: 'print {url} as one JSON object when it listens' },
    { name: 'verbose', letter: 'v', kind: 'flag', help: 'a line on stderr for each call' },
  ],
  async run(values) {
    const { port, host, cors, json, verbose } = values;
    const llm = await loadModel(values, { contextSize: values.context });
    try {
      const server = await listen(llm, {
        port,
        host,
        cors: cors === '*' ? true : cors,
        apiKey: values['api-key'] ?? (process.env.SKIPSTONE_API_KEY || undefined),
        log: verbose ? (line) => void process.stderr.write(`${line}\n`) : undefined,
      });
      if (json) writeJson({ url: `${server.url}/v1` });
      else process.stderr.write(`serving ${llm.info.model.name || 'the model'} at ${server.url}/v1 (Ctrl-C ends it)\n`);
      await Promise.race([once(process, 'SIGINT'), once(process, 'SIGTERM')]);
      await server.close();
      return CODE.ok;
    } finally {
      await llm.free();
    }
  },
};
