/** The chat page, as a visitor uses it: load, chat, stop, dial, compare, reload; keyboard, phone width, no foreign request. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { STRICT_CSP } from '../../tools/static_server.mjs';
import { chromium, noBrowser, noModel } from './browser.js';

const browser = chromium();
const PATH = '/web/demo/';
const LOAD_MS = 120_000; // on a machine that does other things as well
const STORY = 'Tell me a long story about a river and the people who live beside it.';

/** @param {import('node:test').TestContext} t @param {import('playwright-core').BrowserContextOptions} [context] */
async function openChat(t, context) {
  const opened = await browser.open(t, { csp: STRICT_CSP, path: `${PATH}?tokens=48`, context });
  await opened.page.waitForSelector('body.ready', { timeout: LOAD_MS });
  return opened;
}

/** @param {import('playwright-core').Page} page */
const idle = (page) => page.waitForSelector('#send:not([hidden])', { timeout: LOAD_MS });
/** @param {import('playwright-core').Page} page */
const answers = (page) => page.locator('.message.assistant');
/** @param {import('playwright-core').Page} page @param {string} [root] */
const darkBlocks = (page, root = '#blocks') => page.locator(`${root} .block.dark`).count();

describe('the chat page', { skip: noModel }, () => {
  test('loads, chats, stops, turns its dial, compares and reloads', async (t) => {
    /** @type {string[]} */
    const requested = [];
    const { page, context, url } = await openChat(t);
    context.on('request', (request) => requested.push(request.url()));

    await t.test('it says what runs', async () => {
      assert.match(await page.innerText('#engine-line'), /^SmolLM2-135M-Instruct\.Q4_1 · \d threads? · \d+ MB/);
      assert.equal(await page.locator('#blocks .block').count(), 60);
      assert.equal(await page.inputValue('#depth'), '2');
      assert.match(await page.innerText('.dial-number'), /87\.5/);
    });

    await t.test('a prompt is routed while it is written', async () => {
      await page.fill('#prompt', 'Write a Python function that reverses a list.');
      await page.waitForFunction(() => document.querySelector('#route-title')?.textContent?.startsWith('Cluster'));
      assert.match(await page.innerText('#route-title'), /^Cluster \d of 8$/);
      assert.match(await page.innerText('#route-line'), /^distance 0\.\d{3}$/);
      assert.match(await page.innerText('#route-example'), /^with prompts like “/);
    });

    await t.test('the dial, turned by keys, darkens blocks; at its end none', async () => {
      await page.focus('#depth');
      const counts = [];
      for (const [key, share] of [['Home', '75'], ['ArrowRight', '81'], ['End', '100']]) {
        await page.keyboard.press(key);
        await page.waitForFunction((text) => document.querySelector('.dial-number')?.textContent?.startsWith(text), share);
        await page.waitForFunction(
          (last) => document.querySelectorAll('#blocks .block.dark').length !== last,
          counts.at(-1) ?? -1,
        );
        await page.waitForTimeout(300);
        counts.push(await darkBlocks(page));
      }
      assert.ok(counts[0] > counts[1] && counts[1] > 0, `${counts}`);
      assert.equal(counts[2], 0);
      assert.equal(await page.getAttribute('#blocks', 'aria-label'), '60 of 60 blocks run');
      assert.equal(await page.getAttribute('#depth', 'aria-valuetext'), 'every block');
    });

    await t.test('the dial, turned by pointer, follows', async () => {
      const box = await page.locator('.dial svg').boundingBox();
      assert.ok(box);
      await page.mouse.click(box.x + box.width / 2, box.y + 0.2 * box.height);
      assert.match(await page.innerText('.dial-number'), /87\.5/);
    });

    await t.test('Enter asks; the answer streams and says what it cost', async () => {
      await page.focus('#depth');
      await page.keyboard.press('End');
      await page.fill('#prompt', 'What is 2 plus 2?');
      await page.keyboard.press('Enter');
      assert.equal(await page.inputValue('#prompt'), '');
      await idle(page);
      assert.match(await answers(page).last().locator('.body').innerText(), /\w/);
      const foot = await answers(page).last().locator('.foot').innerText();
      assert.match(foot, /^\d+ tokens at [\d.]+\/s · first after .* · \d+ of 60 blocks/);
      assert.equal(await page.evaluate(() => document.activeElement?.id), 'prompt');
      assert.notEqual(await page.innerText('#status'), 'Answering');
    });

    await t.test('Escape stops an answer, what there is stays, and the chat goes on', async () => {
      await page.fill('#prompt', STORY);
      await page.keyboard.press('Enter');
      await page.waitForFunction(() => (document.querySelectorAll('.message.assistant .body')[1]?.textContent?.length ?? 0) > 20);
      await page.keyboard.press('Escape');
      await idle(page);
      assert.equal(await answers(page).last().locator('.foot').innerText(), 'stopped');
      assert.ok((await answers(page).last().locator('.body').innerText()).length > 20);
      await page.fill('#prompt', 'Say one word.');
      await page.keyboard.press('Enter');
      await page.waitForFunction(() => (document.querySelectorAll('.message.assistant .body')[2]?.textContent?.length ?? 0) > 0);
      await page.click('#stop').catch(() => {}); // unless it has ended by itself
      await idle(page);
      assert.equal(await answers(page).count(), 3);
    });

    await t.test('New chat forgets', async () => {
      await page.click('#new-chat');
      assert.equal(await answers(page).count(), 0);
      assert.equal(await page.isDisabled('#new-chat'), true);
    });

    await t.test('Compare runs one prompt dense and masked, side by side', async () => {
      await page.focus('#tab-chat');
      await page.keyboard.press('ArrowRight');
      assert.equal(await page.isVisible('#view-compare'), true);
      assert.equal(await page.evaluate(() => document.activeElement?.id), 'tab-compare');
      await page.focus('#depth');
      await page.keyboard.press('Home');
      await page.fill('#compare-prompt', 'What is 2 plus 2?');
      await page.click('#compare-run');
      await page.waitForSelector('#compare-run:not([hidden])', { timeout: LOAD_MS });
      assert.match(await page.innerText('#compare-verdict'), /^25\.0 % of the multiply-adds left out: tokens .*, first token .*\.$/);
      assert.deepEqual([await darkBlocks(page, '#side-dense'), (await darkBlocks(page, '#side-masked')) > 0], [0, true]);
      for (const side of ['#side-dense', '#side-masked']) {
        const [first, speed, blocks] = await page.locator(`${side} dd`).allInnerTexts();
        assert.match(first, /^[\d.]+ m?s$/);
        assert.ok(Number(speed) > 0, speed);
        assert.match(blocks, side === '#side-dense' ? /^60 of 60$/ : /^4\d of 60$/);
        assert.match(await page.innerText(`${side} .body`), /\w/);
      }
    });

    await t.test('a reload takes the weights from the store', async () => {
      requested.length = 0;
      await page.reload();
      await page.waitForSelector('body.ready', { timeout: LOAD_MS });
      assert.match(await page.innerText('#welcome-lead'), /from this browser's store/);
      await page.fill('#prompt', 'What is 2 plus 2?');
      await page.keyboard.press('Enter');
      await idle(page);
      assert.match(await answers(page).last().locator('.body').innerText(), /\w/);
    });

    assert.deepEqual(requested.filter((request) => !request.startsWith(`${url}/`)), [], 'requests to elsewhere');
  });

  test("fits a phone's width, by night and by day, without motion", async (t) => {
    const phone = /** @type {const} */ ({ viewport: { width: 390, height: 844 }, hasTouch: true });
    const { page } = await openChat(t, { ...phone, colorScheme: 'dark', reducedMotion: 'reduce' });
    const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const night = await background();
    for (const tab of ['#tab-chat', '#tab-compare']) {
      await page.tap(tab);
      const width = await page.evaluate(() => {
        const nodes = [...document.querySelectorAll('body *')];
        return Math.max(...nodes.map((node) => node.getBoundingClientRect().right));
      });
      assert.ok(width <= 390, `${tab} is ${width} wide`);
    }
    await page.tap('#tab-chat');
    await page.tap('.idea >> nth=0');
    await page.waitForFunction(() => (document.querySelector('.message.assistant .body')?.textContent?.length ?? 0) > 20);
    assert.equal(await page.evaluate(() => document.getAnimations().length), 0);
    await page.tap('#stop');
    await idle(page);
    await page.emulateMedia({ colorScheme: 'light' });
    assert.notEqual(await background(), night);
    await page.tap('#theme');
    await page.tap('#theme');
    assert.equal(await background(), night, 'dark by choice');
  });
});

test('every control has a name, and Tab goes through them in the order of the page', { skip: noBrowser }, async (t) => {
  const { page } = await browser.open(t, { path: `${PATH}?model=/nothing.gguf`, errors: true });
  await page.waitForSelector('#load:not([hidden])', { timeout: LOAD_MS });
  assert.match(await page.innerText('#reasons'), /nothing\.gguf/, 'a model that is not there is named');
  const unnamed = await page.evaluate(() =>
    [...document.querySelectorAll('button, input, textarea, a')]
      .filter((node) => {
        const labels = /** @type {any} */ (node).labels ?? [];
        return !(node.getAttribute('aria-label') ?? '') && !labels.length && !node.textContent?.trim();
      })
      .map((node) => node.outerHTML),
  );
  assert.deepEqual(unnamed, []);
  const order = [];
  for (let i = 0; i < 9; i++) {
    await page.keyboard.press('Tab');
    order.push(await page.evaluate(() => document.activeElement?.id || document.activeElement?.className));
  }
  assert.deepEqual(order, ['skip-link', 'tab-chat', 'theme', 'load', 'idea', 'idea', 'idea', 'idea', 'prompt']);
});

test('what a model writes is shown as Markdown, and can neither run nor load anything', { skip: noBrowser }, async (t) => {
  const { page, url } = await browser.open(t, { csp: STRICT_CSP });
  /** @type {string[]} */
  const requested = [];
  page.on('request', (request) => requested.push(request.url()));
  const html = await page.evaluate(async () => {
    const { markdown } = await import(/** @type {string} */ ('/web/demo/markdown.js'));
    const text = [
      '**bold** `code`\n\n- one\n- two\n\n```js\nlet x = 1 < 2;\n```\n\n| a | b |\n| - | - |\n| 1 | 2 |',
      '<script>globalThis.bad = 1</script><img src="/pixel.png" onerror="globalThis.bad = 2"> ![](/pixel2.png)',
      '[link](javascript:globalThis.bad=3) [good](https://example.com) <a href="x" onclick="globalThis.bad=4">y</a>',
      '<style>body { display: none }</style><p style="color: red" id="send" class="stop">z</p><form action="/x"><input></form>',
      '<svg><use href="/pixel3.svg"></use></svg><iframe src="/frame"></iframe><video src="/v.mp4"></video>',
    ].join('\n\n');
    document.body.append(markdown(text));
    await new Promise((resolve) => setTimeout(resolve, 200));
    return document.body.innerHTML + (/** @type {any} */ (globalThis).bad ?? '');
  });
  assert.match(html, /<strong>bold<\/strong> <code>code<\/code>[^]*<li>one<\/li>[^]*<pre><code>let x = 1 &lt; 2;[^]*<td>1<\/td>/);
  assert.match(html, /<a href="https:\/\/example\.com" target="_blank" rel="noopener noreferrer nofollow">good<\/a>/);
  assert.doesNotMatch(html, /<(script|img|svg|style|form|input|iframe|video)|javascript:|onclick|onerror|style=|id=|class=|\d$/);
  const ours = /\/web\/demo\/(markdown\.js|icon\.svg|vendor\/[a-z]+\.js)$/;
  const loaded = requested.filter((request) => !ours.test(request.slice(url.length)));
  assert.deepEqual(loaded, []);
});
