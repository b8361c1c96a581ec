/** The engine's worker in Node. */
import { serve } from '../wasm/serve.js';
import { host } from './host.js';

serve(host);
