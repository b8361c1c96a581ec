/** Chat templates: the model's own Jinja, from `tokenizer.chat_template` of its file. */
import { Template } from './vendor/jinja.js';
import { SkipstoneError } from './errors.js';

/**
 * @typedef {{role: string, content: string}} Message
 * @typedef {{bosText: string, eosText: string, unknownText: string, padText: string}} SpecialTexts
 */

/** @param {unknown} messages @returns {asserts messages is Message[]} */
export function checkMessages(messages) {
  if (!Array.isArray(messages) || !messages.length) throw new SkipstoneError('argument', 'messages: want a non-empty array');
  messages.forEach((message, i) => {
    for (const key of ['role', 'content']) {
      const value = message?.[key];
      if (typeof value !== 'string') {
        throw new SkipstoneError('argument', `messages[${i}].${key} is ${JSON.stringify(value)}, want a string`);
      }
    }
  });
}

export class ChatTemplate {
  #template;
  #special;

  /** @param {string | undefined} source @param {SpecialTexts} special */
  constructor(source, special) {
    this.#special = special;
    if (source === undefined) return;
    try {
      this.#template = new Template(source);
    } catch (error) {
      throw new SkipstoneError('template', `tokenizer.chat_template does not parse: ${text(error)}`, { cause: error });
    }
  }

  /**
   * @param {Message[]} messages
   * @param {Record<string, unknown>} variables
   */
  render(messages, variables) {
    checkMessages(messages);
    if (!this.#template) {
      throw new SkipstoneError('template', 'the model has no chat template (tokenizer.chat_template): give a prompt as text');
    }
    const { bosText, eosText, unknownText, padText } = this.#special;
    try {
      return this.#template.render({
        bos_token: bosText,
        eos_token: eosText,
        unk_token: unknownText,
        pad_token: padText,
        ...variables,
        messages,
      });
    } catch (error) {
      throw new SkipstoneError('template', `tokenizer.chat_template: ${text(error)}`, { cause: error });
    }
  }
}

/** @param {unknown} error */
const text = (error) => (error instanceof Error ? error.message : String(error));
