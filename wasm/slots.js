/**
 * The KV caches of an engine: core sessions, each with the tokens that it holds and the mask that they were computed with.
 *
 * There are at most `most` of them. A call gets the one that has most in common with its prompt, and what they have in
 * common is not computed again. A chat session has a slot of its own; when others need the room it is the one that was
 * not used for longest that goes, and its next call computes its tokens again. Results never depend on any of this.
 *
 * @typedef {object} Slot
 * @property {import('./engine.js').CoreSession} session
 * @property {import('./engine.js').Mask} mask
 * @property {number[]} held tokens in the KV cache
 * @property {number | undefined} owner the chat session that it belongs to
 * @property {number} asked tokens of the last prompt
 * @property {number} used when: a count of calls
 * @property {number} msPerBlock of a decode step, to size its slices; 0: not known
 */
import { SkipstoneError } from './errors.js';

export class Slots {
  #engine;
  #contextSize;
  #chunk;
  #most;
  /** @type {Slot[]} */ #slots = [];
  #calls = 0;

  /**
   * @param {import('./engine.js').Engine} engine
   * @param {{contextSize: number, chunk: number, most: number}} options contextSize and chunk in tokens; most: slots at once
   */
  constructor(engine, { contextSize, chunk, most }) {
    this.#engine = engine;
    this.#contextSize = contextSize;
    this.#chunk = chunk;
    this.#most = most;
  }

  /** Tokens of context. @type {number} */
  context = 0;

  /** Makes the first slot: a host learns at load whether there is memory for it. @param {import('./engine.js').Mask} mask */
  open(mask) {
    this.#open(mask);
  }

  /**
   * The slot for a prompt, in use from now on. It holds what it has in common with the prompt and nothing else; at least
   * `fresh` tokens of the prompt are left to be computed.
   * @param {import('./engine.js').Mask} mask
   * @param {ArrayLike<number>} prompt
   * @param {number | undefined} owner
   * @param {number} fresh
   */
  take(mask, prompt, owner, fresh) {
    const same = this.#slots.filter((slot) => slot.mask.key === mask.key);
    const common = new Map(same.map((slot) => [slot, commonPrefix(slot.held, prompt, prompt.length - fresh)]));
    const shared = (/** @type {Slot} */ slot) => common.get(slot) ?? 0;
    same.sort((a, b) => shared(b) - shared(a) || b.used - a.used);
    const [best] = same;
    const own = owner === undefined ? undefined : same.find((slot) => slot.owner === owner);
    const slot = own ?? (best && mayCut(best, shared(best)) ? best : this.#fresh(mask, best));
    this.#engine.use(slot.session);
    if (best && slot !== best && shared(best) > shared(slot) && this.#slots.includes(best)) {
      this.#engine.copySession(best.session, shared(best));
      slot.held = best.held.slice(0, shared(best));
    } else if (slot.held.length > shared(slot)) {
      slot.held.length = shared(slot);
      this.#engine.keep(shared(slot));
    }
    slot.owner = owner;
    slot.asked = prompt.length;
    slot.used = ++this.#calls;
    return slot;
  }

  /**
   * A slot that holds nothing, at the cost of the one not used for longest.
   * @param {import('./engine.js').Mask} mask
   * @param {Slot | undefined} spare of this mask; it is given, as it is, only where there is no other
   */
  #fresh(mask, spare) {
    const unused = this.#slots.find((slot) => !slot.held.length && slot.owner === undefined);
    if (unused) this.#close(unused);
    while (this.#slots.length >= this.#most) {
      const victim = this.#oldest(spare);
      if (!victim) break;
      this.#close(victim);
    }
    if (this.#slots.length >= this.#most && spare) return spare; // the only one there may be
    for (;;) {
      try {
        return this.#open(mask);
      } catch (error) {
        const victim = this.#oldest(undefined);
        if (!(error instanceof SkipstoneError) || error.code !== 'memory' || !victim) throw error;
        this.#close(victim);
      }
    }
  }

  /** @param {Slot | undefined} spare */
  #oldest(spare) {
    const [oldest] = this.#slots.filter((slot) => slot !== spare).sort((a, b) => a.used - b.used);
    return /** @type {Slot | undefined} */ (oldest);
  }

  /** @param {import('./engine.js').Mask} mask */
  #open(mask) {
    const session = this.#engine.openSession(mask, this.#contextSize, this.#chunk);
    return this.#add(session, mask, []);
  }

  /** @param {import('./engine.js').CoreSession} session @param {import('./engine.js').Mask} mask @param {number[]} held */
  #add(session, mask, held) {
    this.context = session.context;
    /** @type {Slot} */
    const slot = { session, mask, held, owner: undefined, asked: held.length, used: ++this.#calls, msPerBlock: 0 };
    this.#slots.push(slot);
    return slot;
  }

  /** @param {Slot} slot */
  #close(slot) {
    this.#slots.splice(this.#slots.indexOf(slot), 1);
    this.#engine.closeSession(slot.session);
  }

  /** A chat session is gone: what it held may serve others until the room is needed. @param {number} owner */
  release(owner) {
    for (const slot of this.#slots) if (slot.owner === owner) slot.owner = undefined;
  }

  /**
   * A slot from the bytes of `Engine.saveSession`.
   * @param {Uint8Array} bytes
   * @param {import('./engine.js').Mask} mask
   * @param {number} owner
   */
  restore(bytes, mask, owner) {
    while (this.#slots.length >= this.#most) {
      const victim = this.#oldest(undefined);
      if (victim) this.#close(victim);
    }
    const { session, held } = this.#engine.restoreSession(bytes, mask, this.context, this.#chunk);
    const slot = this.#add(session, mask, held);
    slot.owner = owner;
    return slot;
  }
}

/**
 * Whether a call may cut a slot back to what they have in common: nobody owns it, and the call goes on from all of it, or from
 * the prompt before (an answer given again, or written down in other tokens than it was made of).
 * @param {Slot} slot @param {number} shared
 */
function mayCut({ owner, asked, held }, shared) {
  return owner === undefined && shared >= Math.min(asked - 1, held.length);
}

/**
 * How many tokens two lists begin with in common, at most `most`.
 * @param {ArrayLike<number>} a @param {ArrayLike<number>} b @param {number} most
 */
function commonPrefix(a, b, most) {
  const end = Math.min(a.length, most);
  let n = 0;
  while (n < end && a[n] === b[n]) n++;
  return n;
}
