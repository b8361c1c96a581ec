/** skipstone chat: a conversation. What was said stays in the KV cache; a turn prefills only what is new. */
import { createInterface } from 'node:readline';
import { BANK, CODE, context, count, DEPTH, ENGINE, MODEL, SAMPLING, SKIP, VERBOSE } from './shared.js';
import { answer, loadModel, routed, sampling, say, write } from './shared.js';
import { SkipstoneError } from '../index.js';

const COMMANDS = `/help   this list
/reset  forget the conversation (the system message stays)
/quit   leave; so does the end of input (Ctrl-D)
Ctrl-C  end the answer
`;

/** @type {import('./options.js').Command} */
export const chat = {
  name: 'chat',
  summary: 'talk with a model',
  usage: '-m MODEL [options]',
  about: `Talks with a model, line by line. What was said stays in the KV cache: a turn prefills only what
is new. When the context is full the oldest turns are forgotten. Ctrl-C ends an answer.
In the chat: /help, /reset, /quit.`,
  examples: `  npx skipstone chat -m model.gguf
  npx skipstone chat -m model.gguf --system 'Answer in one sentence.' --temp 0
  npx skipstone chat -m model.gguf --bank bank.gguf --depth 0.8125`,
  options: [
    MODEL,
    { name: 'system', letter: 's', argument: 'TEXT', help: 'the system message' },
    ...SAMPLING,
    SKIP,
    context('the smaller of 2048 and what\nthe model was trained on'),
    ...BANK,
    DEPTH,
    {
      name: 'policy',
      argument: 'session|turn',
      choices: ['session', 'turn'],
      help: 'the bank routes the first message, for the whole\nchat, or every message (default session)',
    },
    ...ENGINE,
    VERBOSE,
  ],
  async run(values) {
    const llm = await loadModel(values, { contextSize: values.context });
    try {
      return await new Chat(llm, values).loop();
    } finally {
      await llm.free();
    }
  },
};

class Chat {
  #llm;
  #values;
  #terminal = Boolean(process.stdin.isTTY && process.stdout.isTTY);
  #system;
  /** @type {import('../../wasm/template.js').Message[]} */ #messages = [];

  /** @param {import('../index.js').Llm} llm @param {Record<string, any>} values */
  constructor(llm, values) {
    this.#llm = llm;
    this.#values = values;
    this.#system = values.system === undefined ? [] : [{ role: 'system', content: values.system }];
  }

  async loop() {
    const { info } = this.#llm;
    if (this.#terminal) {
      const masks = info.bank ? `${info.bank.clusters} clusters` : `${info.mask.blocksRun} of ${info.mask.blocksTotal} blocks`;
      const where = `${info.context.size} tokens of context, ${count(info.module.threads, 'thread')}, ${info.module.variant}`;
      process.stderr.write(`${info.model.name} ${info.model.quantisation}, ${masks}, ${where}. /help lists the commands.\n`);
    }
    const lines = createInterface({ input: process.stdin, output: this.#terminal ? process.stdout : undefined, prompt: '> ' });
    let code = CODE.ok;
    lines.on('SIGINT', () => (process.listenerCount('SIGINT') ? process.emit('SIGINT') : lines.close()));
    if (this.#terminal) lines.prompt();
    for await (const line of lines) {
      if (line === '/quit' || line === '/exit') break;
      code = Math.max(code, await this.#take(line));
      if (code && !this.#terminal) break;
      if (this.#terminal) lines.prompt();
    }
    lines.close();
    return this.#terminal ? CODE.ok : code;
  }

  /** @param {string} line */
  async #take(line) {
    if (!line.trim()) return CODE.ok;
    if (line === '/help') write(COMMANDS);
    else if (line === '/reset') this.#messages = [];
    else if (/^\/[^\s/]*$/.test(line)) say(`unknown command ${line}; /help lists them`);
    else {
      this.#messages.push({ role: 'user', content: line });
      try {
        await this.#answer();
      } catch (error) {
        this.#messages.pop();
        say(error instanceof Error ? error.message : String(error));
        return CODE.failed;
      }
    }
    return CODE.ok;
  }

  async #answer() {
    const result = await this.#generate();
    write('\n');
    this.#messages.push({ role: 'assistant', content: result.text });
    if (!this.#terminal && !this.#values.verbose) return;
    const { timings, cachedTokens, tokens, finishReason } = result;
    process.stderr.write(
      `[${cachedTokens} kept, ${timings.prefill_tokens} prefilled at ${timings.prefill_tps.toFixed(1)}/s, ` +
        `${tokens.length} tokens at ${timings.decode_tps.toFixed(1)}/s, ${finishReason}; ${routed(result)}]\n`,
    );
  }

  /** Forgets the oldest turns until the conversation fits. */
  async #generate() {
    const { size } = this.#llm.info.context;
    const options = sampling(this.#values);
    const room = Math.min(options.maxTokens ?? size, size >> 2);
    let forgotten = 0;
    for (;;) {
      const messages = [...this.#system, ...this.#messages];
      const { length } = await this.#llm.tokenize(this.#llm.chatTemplate(messages));
      if (length + room <= size || this.#messages.length < 3) {
        if (forgotten) say(`the context of ${size} tokens is full: forgot the oldest ${forgotten} messages`);
        if (length > size) throw new SkipstoneError('context_full', `the message has ${length} tokens, the context ${size}`);
        return answer(this.#llm, { messages }, options, write);
      }
      this.#messages.splice(0, 2);
      forgotten += 2;
    }
  }
}
