// Uppy in headless Chromium, on a page of another origin, against the real server.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { after, before, beforeEach, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { assertStored, head, list } from '../harness/api.mjs';
import { digestOf, noise } from '../harness/bytes.mjs';
import { Proxy } from '../harness/proxy.mjs';
import { Receiver } from '../harness/receiver.mjs';
import { Server } from '../harness/server.mjs';
import { sleep, until } from '../harness/until.mjs';
import { launchChromium } from './chromium.mjs';

const MIB = 1 << 20;
const HERE = new URL('./', import.meta.url);
const bytes = noise(5 * MIB + 3, 7);
const source = digestOf(bytes);

/** Serves the page from a separate port, which makes it a page of another origin. */
async function servePage() {
  const { outputFiles } = await build({
    entryPoints: [fileURLToPath(new URL('page.mjs', HERE))],
    bundle: true,
    write: false,
    format: 'iife',
    target: 'chrome120',
  });
  const html = await readFile(new URL('page.html', HERE));
  const http = createServer(({ url }, response) => {
    if (url === '/page.js') response.setHeader('Content-Type', 'text/javascript').end(outputFiles[0].contents);
    else response.setHeader('Content-Type', 'text/html').end(html);
  });
  http.listen(0, '127.0.0.1');
  await once(http, 'listening');
  return http;
}

describe('Uppy in Chromium, from another origin', () => {
  let server;
  let proxy;
  let site;
  let browser;
  let context;
  let page;
  let file;

  before(async () => {
    server = await Server.start({ name: 'browser' });
    proxy = await Proxy.start(server);
    site = await servePage();
    file = join(server.folder, 'from the browser – ü.bin');
    await writeFile(file, bytes);
    browser = await launchChromium();
  });

  after(async () => {
    await browser?.close();
    site?.closeAllConnections();
    site?.close();
    await proxy?.stop();
    await server?.dispose();
  });

  beforeEach(async (t) => {
    await context?.close();
    context = await browser.newContext();
    page = await context.newPage();
    page.on('pageerror', (error) => console.error(`in the page: ${error}`));
    proxy.rate = 0;
    await page.goto(addressOfPage());
  });

  const origin = () => `http://127.0.0.1:${site.address().port}`;
  const addressOfPage = (endpoint = proxy.endpoint) => `${origin()}/?endpoint=${encodeURIComponent(endpoint)}`;
  const seen = () => page.evaluate(() => window.seen);
  const choose = () => page.setInputFiles('#file', file);
  const sentMoreThan = (count) => until(`${count} bytes to be sent`, async () => (await seen()).url && proxy.sent - count > 0);
  const success = (timeout = 30_000) =>
    until(
      'Uppy to succeed',
      async () => {
        const { done, failed } = await seen();
        assert.equal(failed, undefined);
        return done;
      },
      { timeout },
    );

  test('uploads a file and follows it by server-sent events', async () => {
    proxy.rate = 3 * MIB;
    await choose();
    const url = await success();
    const told = await assertStored(server, url, source);
    assert.equal(told.filename, 'from the browser – ü.bin');
    assert.equal(told.metadata.from, 'page');

    const { events } = await until('the last event', async () => {
      const now = await seen();
      return now.events.at(-1)?.type === 'upload.completed' && now;
    });
    assert.equal(events[0].type, 'snapshot');
    const steps = events.map(({ type }) => type).filter((type) => type.startsWith('upload.'));
    assert.deepEqual(steps.slice(-4), ['upload.received', 'upload.verified', 'upload.stored', 'upload.completed']);
    const offsets = events.filter(({ type }) => type === 'progress').map(({ data }) => data.received);
    assert.ok(offsets.length >= 2, `${offsets.length} progress reports`);
    assert.deepEqual(offsets, offsets.toSorted((a, b) => a - b), 'progress goes forwards');
    assert.equal(events.at(-1).data.data.offset, source.size);
  });

  test('pauses and resumes', async () => {
    proxy.rate = 3 * MIB;
    const before = proxy.sent;
    await choose();
    await sentMoreThan(before + 2 * MIB);
    await page.evaluate(() => window.uppy.pauseAll());
    const { url } = await seen();
    // Bytes that were in flight at the pause are still received.
    let offset = 0;
    await until('the offset comes to rest', async () => {
      const before = offset;
      await sleep(300);
      offset = (await head(url)).offset;
      return offset > 0 && offset === before;
    });
    assert.ok(offset < source.size, `paused at ${offset}`);
    await page.evaluate(() => window.uppy.resumeAll());
    assert.equal(await success(), url);
    await assertStored(server, url, source);
  });

  test('goes offline and comes back', async () => {
    proxy.rate = 3 * MIB;
    const before = proxy.sent;
    await choose();
    await sentMoreThan(before + 2 * MIB);
    await context.setOffline(true);
    proxy.cutAll('rst'); // Playwright's switch stops new requests only; a lost network also cuts the current one.
    await sleep(1500);
    const { url, done } = await seen();
    assert.equal(done, undefined);
    const { offset } = await head(url);
    assert.ok(offset > 0, 'what was sent before is kept');
    await context.setOffline(false);
    assert.equal(await success(), url, 'the same upload goes on');
    await assertStored(server, url, source);
  });

  test('goes on after the page was reloaded', async () => {
    proxy.rate = 3 * MIB;
    const before = proxy.sent;
    await choose();
    await sentMoreThan(before + 2 * MIB);
    const { url } = await seen();
    await page.goto(addressOfPage());
    await choose();
    assert.equal(await success(), url, 'the same upload goes on');
    await assertStored(server, url, source);
  });

  test('goes on after the server was killed', async () => {
    proxy.rate = 3 * MIB;
    const before = proxy.sent;
    await choose();
    await sentMoreThan(before + 2 * MIB);
    await server.kill();
    await sleep(300);
    await server.restart();
    const url = await success();
    await assertStored(server, url, source);
  });

  test('takes a no of the application, or of the server, for a failure', async (t) => {
    const application = await Receiver.start({ t });
    application.behave((_question, _request, response) => {
      response.writeHead(200, { 'Content-Type': 'application/json' });
      response.end(JSON.stringify({ reject: { status: 422, message: 'not a video' } }));
    });
    for (const [config, code] of [
      [{ hooks: { secret: application.secret, pre_finish: application.url } }, 'rejected-by-application'],
      [{ media: { allowed_types: ['video/*'] } }, 'type-not-allowed'],
    ]) {
      const refusing = await Server.start({ name: 'refusing', t, config });
      await page.goto(addressOfPage(refusing.endpoint));
      await choose();
      const { failed, done } = await until('Uppy to fail', async () => {
        const now = await seen();
        return (now.failed || now.done) && now;
      }, { timeout: 30_000 });
      assert.deepEqual([done, typeof failed], [undefined, 'string'], code);
      const [told, ...others] = await list(refusing);
      assert.deepEqual([told.stage, told.error.code, others], ['failed', code, []]);
    }
    assert.deepEqual(application.requests.map(({ type }) => type), ['hook.pre_finish']);
  });

  test('may read the headers it needs, on errors too', async () => {
    const readable = (method, path, headers) =>
      page.evaluate(
        async ([method, url, headers]) => {
          const response = await fetch(url, { method, headers });
          return { status: response.status, headers: Object.fromEntries(response.headers) };
        },
        [method, `${proxy.url}${path}`, headers],
      );
    const tus = { 'Tus-Resumable': '1.0.0' };

    const created = await readable('POST', '/files', { ...tus, 'Upload-Length': '5', 'Upload-Metadata': 'a YQ==' });
    assert.equal(created.status, 201);
    const path = new URL(created.headers.location, proxy.url).pathname;

    const told = await readable('HEAD', path, tus);
    assert.equal(told.headers['upload-offset'], '0');
    assert.equal(told.headers['upload-length'], '5');
    assert.equal(told.headers['upload-metadata'], 'a YQ==');
    assert.ok(told.headers['upload-expires'], 'Upload-Expires is exposed');

    const patch = { ...tus, 'Upload-Offset': '3', 'Content-Type': 'application/offset+octet-stream' };
    const refused = await readable('PATCH', path, patch);
    assert.equal(refused.status, 409);
    assert.equal(refused.headers['upload-offset'], '0');
    assert.ok(refused.headers['x-request-id']);

    const missing = await readable('HEAD', '/files/01930000-0000-7000-8000-000000000000', tus);
    assert.equal(missing.status, 404);
    const unknown = await readable('POST', '/files', { 'Tus-Resumable': '9.9.9' });
    assert.equal(unknown.status, 412);
    assert.equal(unknown.headers['tus-version'], '1.0.0');
  });

  test('may not use a server that does not name its origin', async (t) => {
    const closed = await Server.start({ name: 'closed', t, config: { cors: { allow_origins: ['https://app.example.com'] } } });
    const attempt = () =>
      page.evaluate(
        (url) => fetch(url, { method: 'POST', headers: { 'Tus-Resumable': '1.0.0', 'Upload-Length': '5' } }).then(() => 'let in', String),
        closed.endpoint,
      );
    assert.match(await attempt(), /TypeError/);
    await closed.dispose();
    const open = await Server.start({ name: 'open', t, config: { cors: { allow_origins: [origin()] } } });
    const admitted = await page.evaluate(
      (url) => fetch(url, { method: 'POST', headers: { 'Tus-Resumable': '1.0.0', 'Upload-Length': '5' } }).then((r) => r.status),
      open.endpoint,
    );
    assert.equal(admitted, 201);
  });
});
