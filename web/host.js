/** What the loader needs of a browser. */
import { banks } from '../banks/index.js';
import { Sha256 } from '../store/hash.js';
import { opfsStorage, whyNoStorage } from './storage.js';

/** @type {import('../store/open.js').Host} */
export const host = {
  async storage(_, use) {
    const why = await whyNoStorage(use);
    return why ? { why } : { storage: opfsStorage(), why };
  },
  sha256: () => new Sha256(),
  banks,
};
