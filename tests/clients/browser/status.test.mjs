// The page of docs/status.md in headless Chromium: it follows an upload to its end and the later reports of a backend,
// with a read token if the server has a token.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { after, before, describe, test } from 'node:test';
import { TUS, idOf } from '../harness/api.mjs';
import { noise } from '../harness/bytes.mjs';
import { readdressed, sample } from '../harness/documents.mjs';
import { Receiver } from '../harness/receiver.mjs';
import { Server } from '../harness/server.mjs';
import { until } from '../harness/until.mjs';
import { launchChromium } from './chromium.mjs';

const TOKEN = 'the-token-of-the-backend';
const bytes = noise(100_000, 3);

/** The application: its page, and the address at which a page gets a read token. */
async function application(t, server, html) {
  const http = createServer(async ({ method, url }, response) => {
    const [, id] = /^\/uploads\/([-0-9a-f]+)\/read-token$/.exec(url) ?? [];
    if (!id) return response.setHeader('Content-Type', 'text/html').end(html);
    const made = await fetch(`${server.url}/api/v1/uploads/${id}/read-token`, { method, headers: { Authorization: `Bearer ${TOKEN}` } });
    response.writeHead(made.status, { 'Content-Type': 'application/json' }).end(await made.text());
  }).listen(0, '127.0.0.1');
  await once(http, 'listening');
  t.after(() => {
    http.closeAllConnections();
    http.close();
  });
  return `http://127.0.0.1:${http.address().port}`;
}

describe('the page of docs/status.md', () => {
  let browser;

  before(async () => {
    browser = await launchChromium();
  });

  after(() => browser?.close());

  for (const [how, auth] of [
    ['without a token', {}],
    ['with a read token', { token: TOKEN, query_tokens: true }],
  ]) {
    test(`shows an upload live to its end, ${how}`, async (t) => {
      const receiver = await Receiver.start({ t });
      const config = { auth, webhooks: { endpoints: [receiver.endpoint()] } };
      const server = await Server.start({ name: 'status-page', t, config });
      let html = readdressed(sample('docs/status.md', 'html', 'EventSource'), { 'http://127.0.0.1:8080': server.url });
      if (auth.token) html = readdressed(html, { '// query.set(': 'query.set(' });
      const headers = auth.token ? { ...TUS, Authorization: `Bearer ${TOKEN}` } : TUS;
      const created = await fetch(server.endpoint, { method: 'POST', headers: { ...headers, 'Upload-Length': `${bytes.length}` } });
      const upload = new URL(created.headers.get('location'), server.endpoint).href;
      const id = idOf(upload);
      const page = await browser.newPage();
      const wrong = [];
      page.on('pageerror', (error) => wrong.push(error));
      await page.goto(`${await application(t, server, html)}/?id=${id}`);
      const shows = (text) => until(`the page to show ${text}`, async () => (await page.textContent('output'))?.includes(text));
      const bar = () => page.$eval('progress', (progress) => progress.value);
      await shows('created');
      assert.equal(await bar(), 0);
      const patch = (at, part) => fetch(upload, {
        method: 'PATCH',
        headers: { ...headers, 'Content-Type': 'application/offset+octet-stream', 'Upload-Offset': `${at}` },
        body: part,
      });
      await patch(0, bytes.subarray(0, 40_000));
      await until('two fifths', async () => (await bar()) === 40);
      await patch(40_000, bytes.subarray(40_000));
      await shows('completed');
      assert.equal(await bar(), 100);
      const { headers: told } = await receiver.hear('upload.completed', id);
      const report = await fetch(`${server.url}/api/v1/uploads/${id}/stages`, {
        method: 'POST',
        headers: { Authorization: `Bearer ${told['webhook-stage-token']}`, 'Content-Type': 'application/json' },
        body: JSON.stringify({ name: 'transcoding', percent: 40 }),
      });
      assert.equal(report.status, 200);
      await shows('transcoding 40 %');
      await server.kill();
      await server.restart();
      await fetch(upload, { method: 'DELETE', headers });
      await shows('terminated');
      assert.deepEqual(wrong, []);
      await page.close();
    });
  }
});
