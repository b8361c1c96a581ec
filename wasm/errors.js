/**
 * Every error of the package: one class with a stable `code`, and DOMException's AbortError for aborts.
 *
 * @typedef {'argument' | 'memory' | 'format' | 'unsupported' | 'missing' | 'context_full' | 'state'
 *   | 'queue_full' | 'not_found' | 'io' | 'network' | 'auth' | 'quota' | 'damaged' | 'template' | 'trapped' | 'worker_crashed' | 'freed' | 'internal'} ErrorCode
 *   The first seven are the core's statuses. context_full: the tokens do not fit; queue_full: too many calls wait;
 *   network: a server failed again and again; auth: it asks for a permission; quota: no room to store a file; damaged: a file
 *   is not what its checksum says.
 */

export class SkipstoneError extends Error {
  /**
   * @param {ErrorCode} code
   * @param {string} message
   * @param {{cause?: unknown}} [options]
   */
  constructor(code, message, options) {
    super(message, options);
    this.name = 'SkipstoneError';
    /** @type {ErrorCode} */
    this.code = code;
  }
}

/** Core status (negative) to code. @type {Record<number, ErrorCode>} */
export const STATUS_CODES = {
  [-1]: 'argument',
  [-2]: 'memory',
  [-3]: 'format',
  [-4]: 'unsupported',
  [-5]: 'missing',
  [-6]: 'context_full',
  [-7]: 'state',
};

/** Codes after which an engine cannot go on. @type {ReadonlySet<string>} */
export const FATAL_CODES = new Set(['trapped', 'worker_crashed', 'freed']);

/**
 * What a signal's abort rejects with: always named AbortError, with the signal's own reason as its cause.
 * @param {AbortSignal} [signal]
 */
export function abortError(signal) {
  const reason = signal?.reason;
  if (reason instanceof DOMException && reason.name === 'AbortError') return reason;
  const error = new DOMException('the call was aborted', 'AbortError');
  if (reason !== undefined) Object.defineProperty(error, 'cause', { value: reason });
  return error;
}

/**
 * An error as a message can carry it. @typedef {{code: string, message: string}} WireError
 *
 * @param {unknown} error
 * @returns {WireError}
 */
export function toWire(error) {
  if (error instanceof SkipstoneError) return { code: error.code, message: error.message };
  if (error instanceof DOMException && error.name === 'AbortError') return { code: 'aborted', message: error.message };
  return { code: 'internal', message: error instanceof Error ? (error.stack ?? error.message) : String(error) };
}

/**
 * @param {WireError} wire
 * @returns {Error}
 */
export function fromWire(wire) {
  if (wire.code === 'aborted') return abortError();
  return new SkipstoneError(/** @type {ErrorCode} */ (wire.code), wire.message);
}
