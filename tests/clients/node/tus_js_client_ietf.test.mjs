// tus-js-client with the IETF drafts, against the real server. It uses interop versions 5 and 6, and needs no interim
// responses; Node emits those as events.

import assert from 'node:assert/strict';
import { createReadStream } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import http from 'node:http';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { after, before, describe, test } from 'node:test';
import { Upload } from 'tus-js-client';
import { assertStored, idOf, status } from '../harness/api.mjs';
import { digestOf, noise } from '../harness/bytes.mjs';
import { Proxy } from '../harness/proxy.mjs';
import { Server } from '../harness/server.mjs';
import { until } from '../harness/until.mjs';
import { UploadProcess, startUpload, uploadAll } from './client.mjs';

const MIB = 1 << 20;

const bytes = noise(3 * MIB + 17);
const source = digestOf(bytes);

for (const [protocol, number] of [
  ['ietf-draft-03', '5'],
  ['ietf-draft-05', '6'],
]) {
  describe(`tus-js-client with ${protocol}`, () => {
    let server;
    let file;

    before(async () => {
      server = await Server.start({ name: `tus-js-client-${protocol}` });
      file = join(server.folder, 'source.bin');
      await writeFile(file, bytes);
    });

    after(() => server.dispose());

    async function assertComplete(url, expected = source) {
      const told = await assertStored(server, url, expected);
      assert.equal(told.protocol, 'ietf');
      const answer = await fetch(`${server.endpoint}/${idOf(url)}`, {
        method: 'HEAD',
        headers: { 'Upload-Draft-Interop-Version': number },
      });
      assert.equal(answer.status, 204);
      assert.equal(answer.headers.get('upload-complete'), '?1');
      assert.equal(answer.headers.get('upload-draft-interop-version'), number);
      assert.equal(answer.headers.get('tus-resumable'), null);
      return told;
    }

    test('sends a file in one piece', async () => {
      const requests = [];
      const url = await uploadAll(createReadStream(file), {
        protocol,
        endpoint: server.endpoint,
        onBeforeRequest: (request) => requests.push(request.getMethod()),
      });
      assert.deepEqual(requests, ['POST', 'PATCH']);
      await assertComplete(url);
    });

    test('sends a file in small chunks', async () => {
      const url = await uploadAll(bytes, { protocol, endpoint: server.endpoint, chunkSize: 300_000 });
      await assertComplete(url);
    });

    test('sends data with the creation, all or some', async () => {
      for (const chunkSize of [Number.POSITIVE_INFINITY, MIB]) {
        const url = await uploadAll(bytes, {
          protocol,
          endpoint: server.endpoint,
          uploadDataDuringCreation: true,
          chunkSize,
        });
        await assertComplete(url);
      }
    });

    test('sends an empty file', async () => {
      const url = await uploadAll(Buffer.alloc(0), { protocol, endpoint: server.endpoint });
      await assertComplete(url, digestOf(Buffer.alloc(0)));
    });

    // In Node this client never finishes a stream that ends at the end of a chunk: it waits for bytes and sends
    // nothing.
    test('sends a stream whose length it learns at the end', async () => {
      const pieces = Array.from({ length: 64 }, (_, i) =>
        bytes.subarray((i * bytes.length) / 64, ((i + 1) * bytes.length) / 64),
      );
      const url = await uploadAll(Readable.from(pieces, { objectMode: false }), {
        protocol,
        endpoint: server.endpoint,
        uploadLengthDeferred: true,
        chunkSize: 400_000,
      });
      await assertComplete(url);
    });

    test('has its metadata stored, as with tus', async () => {
      const metadata = { filename: 'Füße.mp4', filetype: 'video/mp4', user: '7' };
      const url = await uploadAll(bytes, { protocol, endpoint: server.endpoint, metadata });
      const told = await assertComplete(url);
      assert.deepEqual(told.metadata, metadata);
    });

    test('sends several uploads over one connection', async () => {
      const opened = [];
      const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
      agent.createConnection = (...all) => {
        opened.push(1);
        return http.Agent.prototype.createConnection.apply(agent, all);
      };
      const { DefaultHttpStack } = await import('tus-js-client');
      const httpStack = new DefaultHttpStack({ agent });
      for (let i = 0; i < 5; i += 1) {
        const url = await uploadAll(bytes.subarray(0, 100_000 + i), { protocol, endpoint: server.endpoint, httpStack });
        await assertComplete(url, digestOf(bytes.subarray(0, 100_000 + i)));
      }
      agent.destroy();
      assert.equal(opened.length, 1, 'the connection was kept');
    });

    for (const how of ['fin', 'rst']) {
      for (const [where, direction, count] of [
        ['in the creation request', 'up', 60],
        ['after 100 kB', 'up', 100_000],
        ['in the middle', 'up', 1.5 * MIB],
        ['in the answer to the creation', 'down', 20],
      ]) {
        test(`finishes by itself when it is cut ${where}, with a ${how.toUpperCase()}`, async (t) => {
          const proxy = await Proxy.start(server, { t });
          const cut = proxy.cutAfter(count, how, direction);
          const url = await uploadAll(bytes, { protocol, endpoint: proxy.endpoint });
          await cut;
          assert.ok(proxy.connections > 1);
          await assertComplete(url);
        });
      }

      test(`finishes by itself when it is cut every 400 kB, with a ${how.toUpperCase()}`, async (t) => {
        const proxy = await Proxy.start(server, { t });
        const cutAgain = () => proxy.cutAfter(400_000, how).then(cutAgain);
        cutAgain();
        const url = await uploadAll(bytes, { protocol, endpoint: proxy.endpoint });
        assert.ok(proxy.connections > 4, `only ${proxy.connections} connections`);
        await assertComplete(url);
      });
    }

    test('is not held up by its own dead connection', async (t) => {
      const proxy = await Proxy.start(server, { t });
      proxy.rate = 8 * MIB;
      const stale = startUpload(bytes, { protocol, endpoint: proxy.endpoint });
      await until('some bytes to pass', () => proxy.sent > MIB);
      proxy.stall();
      const uploadUrl = `${server.endpoint}/${idOf(stale.upload.url)}`;
      await uploadAll(bytes, { protocol, uploadUrl, retryDelays: null });
      await assertComplete(uploadUrl);
      await stale.upload.abort();
    });

    test('resumes in a new process after it was killed', async (t) => {
      const proxy = await Proxy.start(server, { t });
      proxy.rate = 3 * MIB;
      const options = { protocol };
      const task = { endpoint: proxy.endpoint, file, storage: join(server.folder, 'urls.json'), options };
      const first = new UploadProcess(task, { t });
      const url = await first.urlKnown();
      await until('some bytes to pass', () => proxy.sent > MIB);
      await first.kill();

      proxy.rate = 0;
      const second = new UploadProcess(task, { t });
      assert.equal(await second.success(), url, 'the same upload goes on');
      const [resumed] = second.all('answer');
      assert.equal(resumed.method, 'HEAD');
      assert.ok(resumed.offset > 0, 'what the first process sent was kept');
      await assertComplete(url);
    });

    test('goes on after the server was killed', async (t) => {
      const killed = await Server.start({ name: `killed-${protocol}`, t });
      const proxy = await Proxy.start(killed, { t });
      proxy.rate = 3 * MIB;
      const { done } = startUpload(bytes, { protocol, endpoint: proxy.endpoint });
      await until('some bytes to pass', () => proxy.sent > MIB);
      await killed.kill();
      proxy.rate = 0;
      await killed.restart();
      const url = await done;
      await assertStored(killed, url, source);
    });

    test('terminates an upload, begun or finished', async (t) => {
      const proxy = await Proxy.start(server, { t });
      proxy.rate = 4 * MIB;
      const { upload } = startUpload(bytes, { protocol, endpoint: proxy.endpoint });
      await until('some bytes to pass', () => proxy.sent > MIB);
      await upload.abort(true);
      assert.equal((await status(server, idOf(upload.url))).stage, 'terminated');
      const url = await uploadAll(bytes, { protocol, endpoint: server.endpoint });
      await Upload.terminate(url, { protocol });
      assert.equal((await status(server, idOf(url))).stage, 'terminated');
    });

    test('could hear where its upload is before it has sent it', async () => {
      const told = [];
      const request = http.request(server.endpoint, {
        method: 'POST',
        headers: {
          'Upload-Draft-Interop-Version': number,
          'Upload-Complete': '?1',
          'Content-Length': 5,
        },
      });
      request.on('information', ({ statusCode, headers }) => told.push({ statusCode, location: headers.location }));
      request.flushHeaders();
      await until('to be told where', () => told.length > 0);
      request.end('hello');
      const answer = await new Promise((done) => request.on('response', done));
      answer.resume();
      assert.equal(answer.statusCode, 201);
      assert.deepEqual(told, [{ statusCode: 104, location: answer.headers.location }]);
    });
  });
}
