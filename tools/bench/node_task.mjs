/* A task of tasks.js in this Node.js: node tools/bench/node_task.mjs MODEL '{"task": "speed", ...}' prints its JSON. */
import { readFile } from 'node:fs/promises';
import { runTask } from './tasks.js';

const [model, job] = process.argv.slice(2);
console.log(JSON.stringify(await runTask(JSON.parse(job), await readFile(model))));
