/** Markdown of an answer to nodes. What the model writes is not trusted: it is sanitised, and nothing in it loads anything. */
import DOMPurify from './vendor/dompurify.js';
import { Marked } from './vendor/marked.js';

const marked = new Marked({ gfm: true, breaks: true });
const RULES = {
  USE_PROFILES: { html: true },
  FORBID_TAGS: [
    'img', 'picture', 'source', 'video', 'audio', 'track', 'style', 'form', 'input', 'button', 'textarea', 'select', 'dialog',
  ],
  FORBID_ATTR: ['style', 'class', 'id', 'name', 'srcset', 'background'],
  ALLOW_DATA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

DOMPurify.addHook('afterSanitizeAttributes', (node) => {
  if (node.nodeName !== 'A') return;
  node.setAttribute('target', '_blank');
  node.setAttribute('rel', 'noopener noreferrer nofollow');
});

/** @param {string} text @returns {DocumentFragment} */
export function markdown(text) {
  const html = /** @type {string} */ (marked.parse(text, { async: false }));
  return /** @type {any} */ (DOMPurify.sanitize(html, /** @type {any} */ (RULES)));
}
