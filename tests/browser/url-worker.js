/** An engine's worker that reads a model by its URL, whole: the plainest source there is. */
import { serve } from '../../wasm/serve.js';

serve(async ({ url }) => {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status}`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  return {
    name: url,
    size: bytes.length,
    async read(/** @type {number} */ offset, /** @type {Uint8Array} */ buffer) {
      const piece = bytes.subarray(offset, offset + buffer.length);
      buffer.set(piece);
      return piece.length;
    },
    async close() {},
  };
});
