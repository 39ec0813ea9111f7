// The page of docs/browsers.md in headless Chromium: bundled and used as it describes, from another origin than the
// server's.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { assertStored } from '../harness/api.mjs';
import { digestOf, noise } from '../harness/bytes.mjs';
import { readdressed, sample } from '../harness/documents.mjs';
import { Server, scratchFolder } from '../harness/server.mjs';
import { until } from '../harness/until.mjs';
import { launchChromium } from './chromium.mjs';

const PACKAGES = fileURLToPath(new URL('../../node_modules', import.meta.url));
const bytes = noise(300_000, 11);

/** Bundles the page for this server and serves it; returns its address. */
async function site(t, server) {
  const folder = await scratchFolder('browsers-page');
  await symlink(PACKAGES, join(folder, 'node_modules'));
  const script = readdressed(sample('docs/browsers.md', 'js', '@uppy/tus'), { 'http://127.0.0.1:8080': server.url });
  await writeFile(join(folder, 'page.js'), script);
  const { outputFiles } = await build({ entryPoints: [join(folder, 'page.js')], bundle: true, write: false });
  const html = sample('docs/browsers.md', 'html', 'upload.js');
  const http = createServer(({ url }, response) => {
    if (url === '/upload.js') response.setHeader('Content-Type', 'text/javascript').end(outputFiles[0].contents);
    else response.setHeader('Content-Type', 'text/html').end(html);
  }).listen(0, '127.0.0.1');
  await once(http, 'listening');
  t.after(() => {
    http.closeAllConnections();
    http.close();
  });
  return `http://127.0.0.1:${http.address().port}/`;
}

describe('the page of docs/browsers.md', () => {
  let browser;

  before(async () => {
    browser = await launchChromium();
  });

  after(() => browser?.close());

  for (const [what, limits, outcome] of [
    ['uploads a file and shows where it is', {}, /^clip\.bin is at (http\S+)$/],
    ['shows why the server rejects one', { max_upload_size: '100KiB' }, /^clip\.bin: .*(larger|too large|at most).*$/],
  ]) {
    test(what, async (t) => {
      const server = await Server.start({ name: 'browsers-page', t, config: { limits } });
      const page = await browser.newPage();
      await page.goto(await site(t, server));
      await page.setInputFiles('input', { name: 'clip.bin', mimeType: 'application/octet-stream', buffer: bytes });
      const shown = () => page.textContent('#state');
      const [, url] = await until(`${outcome} to be shown`, async () => outcome.exec(await shown()), { timeout: 15_000 }).catch(
        async (error) => assert.fail(`${error.message}; it shows ${await shown()}`),
      );
      if (!limits.max_upload_size) await assertStored(server, url, digestOf(bytes));
      await page.close();
    });
  }
});
