// tus-js-client when the server sheds its requests for a while: it resumes its upload, and never begins another.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import { describe, test } from 'node:test';
import { assertStored, head, list } from '../harness/api.mjs';
import { digestOf, noise } from '../harness/bytes.mjs';
import { Server } from '../harness/server.mjs';
import { until } from '../harness/until.mjs';
import { startUpload } from './client.mjs';

const bytes = noise(1_000_000);
const source = digestOf(bytes);

describe('tus-js-client, turned away', () => {
  test('resumes its upload when the server was full', async (t) => {
    const server = await Server.start({ name: 'full', config: { limits: { max_connections: 10 } }, t });
    const url = await createHalf(server);
    const crowd = await fill(server);
    const answers = [];
    const { done } = startUpload(bytes, {
      endpoint: server.endpoint,
      uploadUrl: url,
      onAfterResponse: (request, response) => answers.push([request.getMethod(), response.getStatus()]),
    });
    await until('the client to be turned away', () => answers.length >= 2);
    for (const socket of crowd) socket.destroy();
    assert.equal(await done, url, 'it is the same upload');
    assert.deepEqual(answers[0], ['HEAD', 423]);
    assert.ok(answers.every(([method]) => method !== 'POST'), 'nothing was created');
    await assertStored(server, url, source);
    assert.equal((await list(server)).length, 1);
  });

  test('resumes its upload when its connection was too slow', async (t) => {
    const config = { trusted_proxies: ['127.0.0.1'], limits: { idle_timeout: '1s' } };
    const server = await Server.start({ name: 'slow', config, t });
    const slow = await slowAtFirst(server, t);
    const answers = [];
    const { done } = startUpload(bytes, {
      endpoint: `http://127.0.0.1:${slow.port}/files`,
      headers: { 'X-Forwarded-For': '192.0.2.1' },
      onAfterResponse: (request, response) => answers.push([request.getMethod(), response.getStatus()]),
    });
    const url = await done;
    assert.ok(slow.ended, 'the slow connection was ended');
    assert.deepEqual(answers.filter(([method]) => method === 'POST').length, 1, 'one upload was created');
    assert.ok(answers.every(([, status]) => status < 400), `nothing was refused: ${answers}`);
    await assertStored(server, new URL(new URL(url).pathname, server.url).href, source);
    assert.equal((await list(server)).length, 1);
  });
});

/** Creates an upload of `bytes` of which the first half is stored. */
async function createHalf(server) {
  const tus = { 'Tus-Resumable': '1.0.0', Connection: 'close' };
  const created = await fetch(server.endpoint, {
    method: 'POST',
    headers: { ...tus, 'Upload-Length': String(bytes.length) },
  });
  const url = new URL(created.headers.get('location'), server.url).href;
  const headers = { ...tus, 'Upload-Offset': '0', 'Content-Type': 'application/offset+octet-stream' };
  const patched = await fetch(url, { method: 'PATCH', headers, body: bytes.subarray(0, bytes.length / 2) });
  assert.equal(patched.status, 204);
  assert.equal((await head(url)).headers.get('upload-offset'), String(bytes.length / 2));
  return url;
}

/** Opens connections that take all remaining slots; each has been answered, and stays open. */
async function fill(server) {
  const crowd = [];
  for (;;) {
    const socket = connect({ port: server.port, host: '127.0.0.1' });
    socket.on('error', () => {});
    socket.write(`GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:${server.port}\r\n\r\n`);
    const [answer] = await once(socket, 'data');
    if (!String(answer).startsWith('HTTP/1.1 200')) return crowd;
    crowd.push(socket);
  }
}

/**
 * Returns a path to the server that lets ten bytes per second of the first PATCH through, and everything else at once.
 */
async function slowAtFirst(server, t) {
  const way = { ended: false };
  let found = false;
  const listener = createServer((client) => {
    const upstream = connect({ port: server.port, host: '127.0.0.1' });
    let dripping;
    client.on('data', (chunk) => {
      if (dripping) return dripping.push(...chunk);
      const at = found ? -1 : chunk.indexOf('PATCH ');
      if (at < 0) return upstream.write(chunk);
      found = true;
      const end = chunk.indexOf('\r\n\r\n', at) + 4;
      upstream.write(chunk.subarray(0, end));
      dripping = [...chunk.subarray(end)];
      const timer = setInterval(() => dripping.length && upstream.write(Buffer.from([dripping.shift()])), 100);
      upstream.on('close', () => {
        clearInterval(timer);
        way.ended = true;
      });
    });
    upstream.on('data', (chunk) => client.write(chunk));
    client.on('error', () => upstream.destroy());
    upstream.on('error', () => client.destroy());
    upstream.on('close', () => client.destroy());
    client.on('close', () => upstream.destroy());
  });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  t.after(() => listener.close());
  way.port = listener.address().port;
  return way;
}
