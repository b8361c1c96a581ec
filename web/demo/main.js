/**
 * The chat page. Its address may name another model and bank, and how long answers may be: ?model=URL&bank=URL&tokens=N.
 *
 * Reading order: this file, engine.js (the package as the page uses it), blocks.js (the picture), dial.js, chat.js,
 * compare.js, markdown.js.
 */
import { BlockPicture, element } from './blocks.js';
import { Conversation } from './chat.js';
import { Comparison, milliseconds } from './compare.js';
import { Dial, percent } from './dial.js';
import { Engine } from './engine.js';

const MODEL = '../../models/SmolLM2-135M-Instruct.Q4_1.gguf';
const TEMPERATURE = 0.3;
const MAX_TOKENS = { chat: 512, compare: 160 };
const BANK = '../../banks/SmolLM2-135M-Instruct.gguf';
const address = new URL(location.href);
const modelUrl = new URL(address.searchParams.get('model') ?? MODEL, address);
const bankAsked = address.searchParams.get('bank') ?? (address.searchParams.has('model') ? 'auto' : BANK);
const bank = bankAsked === 'auto' ? bankAsked : new URL(bankAsked, address);
const modelName = modelUrl.pathname.split('/').at(-1)?.replace(/\.gguf$/, '') ?? '';
const asked = Math.floor(Number(address.searchParams.get('tokens')));
const maxTokens = asked > 0 ? { chat: asked, compare: asked } : MAX_TOKENS;
const IDEAS = [
  'Why is the sky blue?',
  'Write a Python function that reverses a list.',
  'Tell me a short story about a lighthouse.',
  'A baker sells 12 loaves an hour for 7 hours. How many is that?',
];
const COMPARE_IDEA = 'Explain how a bicycle stays upright.';

/** @param {string} id @returns {any} */
const $ = (id) => document.getElementById(id);
const prompt = /** @type {HTMLTextAreaElement} */ ($('prompt'));
const comparePrompt = /** @type {HTMLTextAreaElement} */ ($('compare-prompt'));

const picture = new BlockPicture($('blocks'));
const dial = new Dial($('dial'));
const conversation = new Conversation($('log'), $('scroller'));
const comparison = new Comparison($('side-dense'), $('side-masked'));
/** @type {Engine | undefined} */ let engine;
/** @type {AbortController | undefined} */ let running;
let view = 'chat';

picture.setModel({ layers: 30, attentionShare: 0.25 }); // the usual shape, until the model says its own
picture.fill(0);

/* ---- load ---- */

const PHASES = /** @type {Record<string, string>} */ ({
  download: 'Fetching the weights',
  verify: 'Checking the weights',
  repack: 'Laying out the weights',
  'warm-up': 'Warming up',
});

/** @param {{phase: string, loaded: number, total: number}} progress */
function showProgress({ phase, loaded, total }) {
  if (engine) return showEngine(engine);
  $('loading').hidden = false;
  $('loading-phase').textContent = PHASES[phase] ?? phase;
  $('loading-amount').textContent = total ? `${megabytes(loaded)} of ${megabytes(total)}` : '';
  if (total) picture.fill(loaded / total);
  if (total) $('loading-bar').value = loaded / total;
  else $('loading-bar').removeAttribute('value');
}

/** Loads at once where that is what a visitor wants: the weights are stored, or they fit and data is not scarce. */
async function start() {
  if (await Engine.isStored(modelUrl)) return load();
  $('loading').hidden = false;
  $('loading-phase').textContent = 'Looking at the model and at this device';
  $('loading-bar').removeAttribute('value');
  const stop = new AbortController();
  const verdict = await Engine.verdict(modelUrl, stop.signal).catch((error) => failed(error));
  $('loading').hidden = true;
  if (!verdict) return;
  showVerdict(verdict);
  const scarce = /** @type {any} */ (navigator).connection?.saveData === true;
  if (verdict.fits && !scarce) return load();
  $('load').hidden = false;
  $('load').textContent = verdict.fits ? `Load ${megabytes(verdict.bytes)}` : 'Load it all the same';
}

/** @param {import('../index.js').Verdict} verdict */
function showVerdict({ fits, bytes, memoryBytes, decodeTokensPerSecond, reasons }) {
  const rows = [
    ['This device', fits ? 'runs it' : 'has too little room'],
    ['To fetch, once', megabytes(bytes)],
    ['Memory', megabytes(memoryBytes)],
    ...(decodeTokensPerSecond ? [['Expected', `${decodeTokensPerSecond.toFixed(0)} tokens/s`]] : []),
  ];
  $('verdict').hidden = false;
  $('verdict').replaceChildren(
    ...rows.map(([name, value]) => {
      const row = element('div');
      row.append(element('dt', '', name), element('dd', '', value));
      return row;
    }),
  );
  $('reasons').hidden = !reasons.length;
  $('reasons').textContent = reasons.join('; ');
}

/** @param {unknown} error */
function failed(error) {
  $('reasons').hidden = false;
  $('reasons').textContent = errorText(error);
  $('load').hidden = false;
  $('load').textContent = 'Try again';
}

async function load() {
  $('load').hidden = true;
  running = new AbortController();
  try {
    engine = await Engine.load(modelUrl, { bank, onProgress: showProgress, signal: running.signal });
  } catch (error) {
    return failed(error);
  } finally {
    running = undefined;
    $('loading').hidden = true;
  }
  ready(engine);
}

/** @param {Engine} loaded */
function ready(loaded) {
  const { model, module, bank: masks } = loaded.info;
  showEngine(loaded);
  loaded.complete.then(() => showEngine(loaded), (error) => conversation.fail(errorText(error)));
  $('verdict').hidden = true;
  $('reasons').hidden = module.threads > 1;
  if (module.threads === 1) $('reasons').textContent = `One thread: ${module.threadsReason}.`;
  picture.setModel({ layers: model.layers, attentionShare: loaded.attentionShare });
  comparison.setModel(loaded);
  const depths = masks ? [...masks.levels.map((level) => 1 - level).reverse(), 1] : [1];
  dial.setDepths(depths, loaded.info.depth);
  document.body.classList.add('ready');
  enable();
  $('status').textContent = 'The model is loaded.';
  void preview();
}

/** @param {Engine} loaded */
function showEngine(loaded) {
  const { module, memory, timings, download } = loaded.info;
  const threads = `${module.threads} thread${module.threads > 1 ? 's' : ''}`;
  const more = download.complete ? '' : ` · ${megabytes(download.neededBytes)} still coming`;
  $('engine-line').textContent = `${modelName} · ${threads} · ${megabytes(memory.used)}${more}`;
  $('engine-line').title = `${module.variant} SIMD: ${module.variantReason}. ${threads}: ${module.threadsReason}.`;
  const parts = [
    [download.networkBytes, 'fetched'],
    [download.storeBytes, "from this browser's store"],
    [download.savedBytes, 'left out, since no mask needs it'],
  ].filter(([bytes]) => bytes);
  const where = parts.map(([bytes, what]) => `${megabytes(Number(bytes))} ${what}`).join(', ');
  const lead = document.getElementById('welcome-lead');
  if (lead) lead.textContent = `Ready in ${milliseconds(timings.load_ms)}: ${where}. What you write does not leave this browser.`;
}

/* ---- route ---- */

/** @type {ReturnType<typeof setTimeout> | undefined} */ let previewTimer;
let previewOf = 0;

/** What decides the route: the first message of the chat, or what is being written. */
function routedText() {
  if (view === 'compare') return comparePrompt.value.trim() || COMPARE_IDEA;
  return conversation.messages[0]?.content ?? prompt.value.trim();
}

/** Shows where the prompt would go, before it is sent. */
async function preview() {
  clearTimeout(previewTimer);
  if (engine && !running) await showRouteOf(engine, dial.depth);
}

/** @param {Engine} loaded @param {number} depth */
async function showRouteOf(loaded, depth) {
  if (!loaded.info.bank) return;
  const mine = ++previewOf;
  const route = await loaded.route(routedText(), depth);
  if (mine === previewOf) showRoute(route);
}

function previewSoon() {
  clearTimeout(previewTimer);
  previewTimer = setTimeout(() => void preview(), 150);
}

/** @param {import('./engine.js').Route} route */
function showRoute({ cluster, distance, skip, blocksRun, blocksTotal, macsSkipped }) {
  picture.setMask(skip);
  if (view === 'compare') comparison.setRoute({ cluster, distance, skip, blocksRun, blocksTotal, macsSkipped });
  $('picture-count').textContent = `${blocksRun} of ${blocksTotal} run, ${percent(macsSkipped)} of the multiply-adds skipped`;
  const masks = engine?.info.bank;
  if (!masks) return;
  const scale = $('route').querySelector('.route-scale');
  scale.hidden = cluster === null;
  if (cluster === null) {
    $('route-title').textContent = 'Route';
    $('route-line').textContent = routedText()
      ? 'No cluster: the mask for every prompt.'
      : 'Write a prompt: its cluster decides which blocks run.';
    $('route-example').textContent = '';
    return;
  }
  $('route-title').textContent = `Cluster ${cluster + 1} of ${masks.clusters}`;
  $('route-line').textContent = `distance ${distance.toFixed(3)}`;
  scale.firstElementChild.style.inlineSize = `${Math.min(100, 100 * distance)}%`;
  const example = masks.examples[cluster];
  $('route-example').textContent = example ? `with prompts like “${example}”` : '';
}

/* ---- chat ---- */

function enable() {
  const busy = running !== undefined;
  $('send').disabled = busy || !engine || !prompt.value.trim();
  $('compare-run').disabled = busy || !engine;
  $('new-chat').disabled = busy || !conversation.messages.length;
  $('send').hidden = $('compare-run').hidden = busy && engine !== undefined;
  $('stop').hidden = $('compare-stop').hidden = !$('send').hidden;
}

/** @param {(signal: AbortSignal, loaded: Engine) => Promise<void>} work */
async function busyWith(work) {
  if (!engine || running) return;
  running = new AbortController();
  enable();
  try {
    await work(running.signal, engine);
  } finally {
    picture.rest();
    running = undefined;
    enable();
  }
}

async function send() {
  const text = prompt.value.trim();
  if (!text) return;
  await busyWith(async (signal, loaded) => {
    prompt.value = '';
    resize(prompt);
    conversation.say(text);
    const answer = conversation.answer();
    $('status').textContent = 'Answering';
    try {
      await showRouteOf(loaded, dial.depth);
      const stats = await loaded.answer(conversation.messages, {
        depth: dial.depth,
        signal,
        temperature: TEMPERATURE,
        maxTokens: maxTokens.chat,
        onText: (piece) => {
          answer.add(piece);
          picture.token();
        },
      });
      showRoute(stats.route);
      answer.end(footer(stats));
      $('status').textContent = answer.text;
    } catch (error) {
      answer.end(signal.aborted ? 'stopped' : '');
      if (signal.aborted) $('status').textContent = 'Stopped';
      else conversation.fail(errorText(error));
    }
    conversation.messages.push({ role: 'assistant', content: answer.text });
  });
  prompt.focus();
}

/** @param {import('./engine.js').Stats} stats */
function footer({ tokens, tokensPerSecond, firstTokenMs, cachedTokens, route, finish }) {
  if (!firstTokenMs) return 'The model had nothing to say.';
  const parts = [
    `${tokens} tokens at ${tokensPerSecond.toFixed(1)}/s`,
    `first after ${milliseconds(firstTokenMs)}`,
    ...(cachedTokens ? [`${cachedTokens} tokens kept`] : []),
    `${route.blocksRun} of ${route.blocksTotal} blocks`,
    ...(finish === 'length' ? ['cut here'] : []),
  ];
  return parts.join(' · ');
}

function newChat() {
  conversation.clear();
  enable();
  prompt.focus();
  void preview();
}

async function compare() {
  const text = comparePrompt.value.trim() || COMPARE_IDEA;
  comparePrompt.value = text;
  resize(comparePrompt);
  await busyWith(async (signal, loaded) => {
    $('compare-verdict').textContent = '';
    try {
      $('compare-verdict').textContent = await comparison.run(loaded, text, { depth: dial.depth, maxTokens: maxTokens.compare, signal });
    } catch (error) {
      $('compare-verdict').textContent = signal.aborted ? 'Stopped.' : errorText(error);
    }
  });
  comparePrompt.focus();
}

/* ---- page ---- */

/** @param {unknown} error */
function errorText(error) {
  const { code, message } = /** @type {any} */ (error);
  if (code === 'context' || code === 'context_full') return 'The conversation is longer than the context. Start a new chat.';
  return String(message ?? error);
}

/** @param {number} bytes */
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(0)} MB`;

/** As high as its text. @param {HTMLTextAreaElement} area */
function resize(area) {
  area.style.blockSize = 'auto';
  area.style.blockSize = `${area.scrollHeight + 2}px`;
}

/** @param {string} next */
function show(next) {
  view = next;
  for (const name of ['chat', 'compare']) {
    const chosen = name === next;
    $(`view-${name}`).hidden = !chosen;
    $(`tab-${name}`).setAttribute('aria-selected', String(chosen));
    $(`tab-${name}`).tabIndex = chosen ? 0 : -1;
  }
  void preview();
}

for (const [area, form, act] of /** @type {const} */ ([
  [prompt, 'composer', send],
  [comparePrompt, 'compare-form', compare],
])) {
  area.addEventListener('input', () => {
    resize(area);
    enable();
    previewSoon();
  });
  area.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    void act();
  });
  $(form).addEventListener('submit', (/** @type {Event} */ event) => {
    event.preventDefault();
    void act();
  });
}
for (const id of ['stop', 'compare-stop']) $(id).addEventListener('click', () => running?.abort());
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') running?.abort();
});
$('new-chat').addEventListener('click', newChat);
$('load').addEventListener('click', load);
for (const name of ['chat', 'compare']) {
  const tab = $(`tab-${name}`);
  tab.addEventListener('click', () => show(name));
  tab.addEventListener('keydown', (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== 'ArrowLeft' && event.key !== 'ArrowRight') return;
    const other = name === 'chat' ? 'compare' : 'chat';
    show(other);
    $(`tab-${other}`).focus();
  });
}
dial.onChange = previewSoon;
comparePrompt.placeholder = COMPARE_IDEA;
$('ideas').append(
  ...IDEAS.map((text) => {
    const item = element('li');
    const button = element('button', 'idea', text);
    button.addEventListener('click', () => {
      prompt.value = text;
      resize(prompt);
      enable();
      void (engine ? send() : prompt.focus());
    });
    item.append(button);
    return item;
  }),
);
for (const button of document.querySelectorAll('.idea')) button.setAttribute('type', 'button');

/* Colours: as the system says, unless the reader has chosen. */
const THEMES = ['system', 'light', 'dark'];
function setTheme(/** @type {string} */ theme) {
  document.documentElement.dataset.theme = theme;
  $('theme').setAttribute('aria-label', `Colours: ${theme === 'system' ? 'as the system' : theme}`);
  $('theme').title = $('theme').getAttribute('aria-label');
  localStorage.setItem('skipstone-theme', theme);
}
$('theme').addEventListener('click', () => {
  const now = document.documentElement.dataset.theme ?? 'system';
  setTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
});
setTheme(localStorage.getItem('skipstone-theme') ?? 'system');

void start();
