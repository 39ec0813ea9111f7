// A page of another origin, and one whose host name was made to resolve to this machine, against a server with a
// laptop's configuration: without a token. They try everything that a browser permits pages to try. Nothing is read,
// stored or deleted.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { after, before, describe, test } from 'node:test';
import { list } from '../harness/api.mjs';
import { Server } from '../harness/server.mjs';
import { within } from '../harness/until.mjs';
import { launchChromium } from './chromium.mjs';

const SECRET = 'what the visitor keeps on this machine';

/** Runs in the page. Returns the result of each attempt: 'read …' if the page could see a response. */
async function attempt(server, upload) {
  const tus = { 'Tus-Resumable': '1.0.0' };
  const form = new FormData();
  form.append('file', new Blob(['planted']), 'planted.txt');
  const blank = { mode: 'no-cors', method: 'POST' };
  const asked = {
    list: () => fetch(`${server}/api/v1/uploads`),
    status: () => fetch(upload.replace('/files/', '/api/v1/uploads/')),
    content: () => fetch(upload),
    metrics: () => fetch(`${server}/metrics`),
    endpoints: () => fetch(`${server}/api/v1/webhooks/endpoints`),
    'tus creation': () => fetch(`${server}/files`, { method: 'POST', headers: { ...tus, 'Upload-Length': '7' } }),
    'ranged creation': () => fetch(`${server}/files`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{"size":7}' }),
    put: () => fetch(`${server}/files/planted`, { method: 'PUT', body: 'planted' }),
    delete: () => fetch(upload, { method: 'DELETE', headers: tus }),
    'delete by override': () => fetch(upload, { method: 'POST', headers: { ...tus, 'X-HTTP-Method-Override': 'DELETE' } }),
    'simple post': () => fetch(`${server}/files`, { method: 'POST', body: 'planted' }),
    'simple form': () => fetch(`${server}/files`, { method: 'POST', body: form }),
    'blind post': () => fetch(`${server}/files`, { ...blank, body: 'planted', headers: { 'Content-Type': 'text/plain' } }),
    'blind post without a type': () => fetch(`${server}/files`, { ...blank, body: new Blob(['planted']) }),
    'blind form': () => fetch(`${server}/files`, { ...blank, body: form }),
    'blind form of text': () => fetch(`${server}/files`, { ...blank, body: new URLSearchParams({ planted: '1' }) }),
    'blind session': () => fetch(`${server}/files?uploadType=resumable`, blank),
    'blind endpoint': () => fetch(`${server}/api/v1/webhooks/endpoints`, { ...blank, body: '{"url":"https://attacker.example/"}' }),
    'blind pause': () => fetch(`${server}/api/v1/webhooks/pause`, blank),
  };
  const outcomes = {};
  for (const [name, ask] of Object.entries(asked)) {
    outcomes[name] = await ask().then(
      async (answer) => (answer.type === 'opaque' ? 'blind' : `read ${answer.status} ${(await answer.text()).slice(0, 80)}`),
      () => 'refused',
    );
  }
  const loads = (element, parent = document.body) =>
    new Promise((done) => {
      element.onload = () => done('loaded');
      element.onerror = () => done('refused');
      parent.append(element);
    });
  const made = (tag, fields) => Object.assign(document.createElement(tag), fields);
  outcomes.script = await loads(made('script', { src: upload }));
  outcomes.style = await loads(made('link', { rel: 'stylesheet', href: upload }));
  outcomes.image = await loads(made('img', { src: upload }));
  outcomes['event stream'] = await new Promise((done) => {
    const source = new EventSource(`${server}/api/v1/events`);
    source.onopen = () => done('read an event stream');
    source.onerror = () => done('refused');
  });
  outcomes.beacon = navigator.sendBeacon(`${server}/files`, 'planted') ? 'blind' : 'refused';
  for (const enctype of ['multipart/form-data', 'text/plain', 'application/x-www-form-urlencoded']) {
    const frame = made('iframe', { name: enctype });
    document.body.append(frame);
    const page = made('form', { action: `${server}/files`, method: 'POST', enctype, target: enctype });
    page.append(made('input', { name: 'file', value: 'planted' }));
    document.body.append(page);
    const shown = new Promise((done) => (frame.onload = done));
    page.submit();
    await shown;
    outcomes[`form of ${enctype}`] = 'blind';
  }
  return outcomes;
}

describe('a page elsewhere, and a server without a token', () => {
  let server;
  let upload;
  let site;
  let browser;

  before(async () => {
    server = await Server.start({ name: 'foreign' });
    const created = await fetch(`${server.url}/files`, { method: 'POST', headers: { 'Content-Type': 'text/javascript' }, body: SECRET });
    assert.equal(created.status, 201);
    upload = new URL(created.headers.get('location'), server.url).href;
    site = createServer((_, response) => response.setHeader('Content-Type', 'text/html').end('<!doctype html><body>'));
    site.listen(0, '127.0.0.1');
    await once(site, 'listening');
    browser = await launchChromium('--host-resolver-rules=MAP *.example 127.0.0.1');
  });

  after(async () => {
    await browser?.close();
    site?.closeAllConnections();
    site?.close();
    await server?.dispose();
  });

  const attempts = async (t, origin, ...targets) => {
    const context = await browser.newContext();
    t.after(() => context.close());
    const page = await context.newPage();
    await page.goto(origin);
    return within(60_000, 'the page to have tried all', page.evaluate(`(${attempt})(...${JSON.stringify(targets)})`));
  };
  const isUntouched = async () => {
    const uploads = await list(server);
    assert.deepEqual(uploads.map(({ id }) => upload.endsWith(id)), [true], 'nothing was planted');
    assert.equal(await (await fetch(upload)).text(), SECRET, 'nothing was deleted or changed');
    assert.deepEqual(await (await fetch(`${server.url}/api/v1/webhooks/endpoints`)).json(), { endpoints: [] });
  };

  test('reads nothing, plants nothing and deletes nothing', async (t) => {
    const outcomes = await attempts(t, `http://evil.example:${site.address().port}`, server.url, upload);
    t.diagnostic(JSON.stringify(outcomes));
    for (const [what, outcome] of Object.entries(outcomes)) assert.ok(['refused', 'blind'].includes(outcome), `${what}: ${outcome}`);
    for (const what of ['list', 'content', 'delete', 'script', 'image', 'event stream']) assert.equal(outcomes[what], 'refused', what);
    await isUntouched();
  });

  test('gains nothing by a name that means this machine', async (t) => {
    const rebound = `http://rebound.example:${server.port}`;
    const outcomes = await attempts(t, `${rebound}/healthz`, rebound, `${rebound}${new URL(upload).pathname}`);
    t.diagnostic(JSON.stringify(outcomes));
    for (const [what, outcome] of Object.entries(outcomes)) {
      assert.ok(['refused', 'blind'].includes(outcome) || outcome.startsWith('read 421'), `${what}: ${outcome}`);
    }
    assert.match(outcomes.list, /^read 421/);
    await isUntouched();
  });

  // The attempts would succeed if they were permitted: from a page of this machine they do.
  test('is told apart from a page of this machine', async (t) => {
    const own = await Server.start({ name: 'own', t });
    const created = await fetch(`${own.url}/files`, { method: 'POST', headers: { 'Content-Type': 'text/plain' }, body: SECRET });
    const there = new URL(created.headers.get('location'), own.url).href;
    const outcomes = await attempts(t, `http://localhost:${site.address().port}`, own.url, there);
    t.diagnostic(JSON.stringify(outcomes));
    assert.match(outcomes.list, /^read 200/);
    assert.match(outcomes.content, new RegExp(`^read 200 ${SECRET}`));
    assert.match(outcomes['tus creation'], /^read 201/);
    assert.match(outcomes.delete, /^read 204/);
    assert.equal(outcomes['event stream'], 'read an event stream');
    assert.match(outcomes.endpoints, /^refused|^read 403/, 'but the administration is for pages of the server itself');
    assert.ok((await list(own)).length > 5, 'simple posts and forms create uploads');
  });
});
