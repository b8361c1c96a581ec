/** The engine's worker in a browser: a module worker of the package's own files, no blob: and no inline code. */
import { serve } from '../wasm/serve.js';
import { host } from './host.js';

serve(host);
