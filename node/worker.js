/** The engine's worker in Node. */
import { serve } from '../wasm/serve.js';
import { open } from './host.js';

serve(open);
