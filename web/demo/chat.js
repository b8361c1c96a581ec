/** The conversation: what was said, the answer as it streams, and what it cost. */
import { element } from './blocks.js';
import { markdown } from './markdown.js';

/** @typedef {import('./engine.js').Message} Message */

export class Answer {
  text = '';
  #body;
  #foot;
  #drawn = 0; // the animation frame that will draw, 0: none

  /** @param {HTMLElement} body @param {HTMLElement} foot */
  constructor(body, foot) {
    this.#body = body;
    this.#foot = foot;
    body.classList.add('writing');
  }

  /** @param {string} text */
  add(text) {
    this.text += text;
    this.#drawn ||= requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#drawn = 0;
    this.#body.replaceChildren(markdown(this.text));
  }

  /** @param {string} note */
  end(note) {
    cancelAnimationFrame(this.#drawn);
    this.#draw();
    this.#body.classList.remove('writing');
    this.#foot.textContent = note;
  }
}

export class Conversation {
  /** @type {Message[]} */ messages = [];
  #log;
  #scroller;
  #follow = true; // the newest line stays in sight unless the reader has scrolled away

  /** @param {HTMLElement} log @param {HTMLElement} scroller */
  constructor(log, scroller) {
    this.#log = log;
    this.#scroller = scroller;
    scroller.addEventListener('scroll', () => {
      this.#follow = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 48;
    });
    new ResizeObserver(() => this.#toEnd()).observe(log);
  }

  #toEnd() {
    if (this.#follow && this.messages.length) this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }

  /** @param {string} text */
  say(text) {
    this.messages.push({ role: 'user', content: text });
    this.#log.querySelector('#welcome')?.remove();
    this.#follow = true;
    const message = element('article', 'message user');
    message.setAttribute('aria-label', 'You');
    message.append(element('p', 'body', text));
    this.#log.append(message);
  }

  /** @returns {Answer} */
  answer() {
    const message = element('article', 'message assistant');
    message.setAttribute('aria-label', 'Answer');
    const body = element('div', 'body');
    const foot = element('p', 'foot');
    message.append(body, foot);
    this.#log.append(message);
    this.#toEnd();
    return new Answer(body, foot);
  }

  /** @param {string} text */
  fail(text) {
    const note = element('p', 'failure', text);
    note.setAttribute('role', 'alert');
    this.#log.append(note);
    this.#toEnd();
  }

  clear() {
    this.messages = [];
    this.#log.replaceChildren();
  }
}
