// tus-js-client against the real server: every way in which it can send a file, and every way in which it can be
// interrupted.

import assert from 'node:assert/strict';
import { createReadStream } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { after, before, describe, test } from 'node:test';
import { Upload } from 'tus-js-client';
import { assertStored, download, head, idOf, list, status } from '../harness/api.mjs';
import { digestOf, noise } from '../harness/bytes.mjs';
import { Proxy } from '../harness/proxy.mjs';
import { Server } from '../harness/server.mjs';
import { sleep, until } from '../harness/until.mjs';
import { UploadProcess, startUpload, uploadAll } from './client.mjs';

const MIB = 1 << 20;

const bytes = noise(3 * MIB + 17);
const source = digestOf(bytes);

describe('tus-js-client', () => {
  let server;
  let file;

  before(async () => {
    server = await Server.start({ name: 'tus-js-client' });
    file = join(server.folder, 'source.bin');
    await writeFile(file, bytes);
  });

  after(() => server.dispose());

  test('sends a file in one piece', async () => {
    const url = await uploadAll(createReadStream(file), { endpoint: server.endpoint });
    await assertStored(server, url, source);
  });

  test('sends a file in small chunks', async () => {
    const url = await uploadAll(bytes, { endpoint: server.endpoint, chunkSize: 100_000 });
    await assertStored(server, url, source);
  });

  test('sends an empty file', async () => {
    const url = await uploadAll(Buffer.alloc(0), { endpoint: server.endpoint });
    await assertStored(server, url, digestOf(Buffer.alloc(0)));
  });

  test('sends data with the creation', async () => {
    const methods = [];
    const url = await uploadAll(bytes, {
      endpoint: server.endpoint,
      uploadDataDuringCreation: true,
      onBeforeRequest: (request) => methods.push(request.getMethod()),
    });
    assert.deepEqual(methods, ['POST']);
    await assertStored(server, url, source);
  });

  test('sends the first chunk with the creation and the rest after it', async () => {
    const url = await uploadAll(bytes, {
      endpoint: server.endpoint,
      uploadDataDuringCreation: true,
      chunkSize: MIB,
    });
    await assertStored(server, url, source);
  });

  for (const uploadDataDuringCreation of [false, true]) {
    const how = uploadDataDuringCreation ? 'with the creation' : 'after the creation';
    test(`sends a stream whose length it learns at the end, beginning ${how}`, async () => {
      const pieces = Array.from({ length: 50 }, (_, i) => bytes.subarray((i * bytes.length) / 50, ((i + 1) * bytes.length) / 50));
      const url = await uploadAll(Readable.from(pieces, { objectMode: false }), {
        endpoint: server.endpoint,
        uploadLengthDeferred: true,
        uploadDataDuringCreation,
        chunkSize: 400_000,
      });
      await assertStored(server, url, source);
    });
  }

  test('sends four parts at once and has them joined', async () => {
    const url = await uploadAll(createReadStream(file), {
      endpoint: server.endpoint,
      parallelUploads: 4,
      metadata: { filename: 'joined.bin' },
      metadataForPartialUploads: { part: 'yes' },
    });
    const told = await assertStored(server, url, source);
    assert.deepEqual(told.metadata, { filename: 'joined.bin' }, 'the parts’ metadata stays with the parts');
    const { headers } = await head(url);
    assert.match(headers.get('upload-concat'), /^final;/);
    assert.equal(headers.get('upload-concat').split(' ').length, 4);
  });

  test('sends four parts in small chunks over a cut connection and has them joined', async (t) => {
    const proxy = await Proxy.start(server, { t });
    proxy.rate = 8 * MIB;
    const cut = proxy.cutAfter(1.5 * MIB, 'rst');
    const url = await uploadAll(createReadStream(file), {
      endpoint: proxy.endpoint,
      parallelUploads: 4,
      chunkSize: 200_000,
    });
    await cut;
    await assertStored(server, url, source);
  });

  test('sends four parts of three bytes, all but one of them empty, and has them joined', async () => {
    const few = Buffer.from('abc');
    const url = await uploadAll(few, { endpoint: server.endpoint, parallelUploads: 4 });
    await assertStored(server, url, digestOf(few));
  });

  test('sends PATCH as POST with an override', async () => {
    const methods = new Set();
    const url = await uploadAll(bytes, {
      endpoint: server.endpoint,
      overridePatchMethod: true,
      chunkSize: MIB,
      onBeforeRequest: (request) => methods.add(request.getMethod()),
    });
    assert.deepEqual([...methods], ['POST']);
    await assertStored(server, url, source);
  });

  test('has its metadata stored and told as it sent it', async () => {
    const metadata = {
      filename: 'Füße & 山 “quoted”.mp4',
      filetype: 'video/mp4',
      empty: '',
      after: 'the empty one',
      emoji: '🚢',
    };
    const url = await uploadAll(bytes, { endpoint: server.endpoint, metadata });
    const told = await assertStored(server, url, source);
    assert.deepEqual(told.metadata, metadata);
    assert.equal(told.filename, metadata.filename);
    assert.equal(told.content_type, 'video/mp4');
    const { headers } = await head(url);
    const asSent = Object.entries(metadata).map(([key, value]) => `${key} ${Buffer.from(value).toString('base64')}`);
    assert.equal(headers.get('upload-metadata'), asSent.join(','));
    const answer = await fetch(url);
    assert.equal(answer.headers.get('x-content-type-options'), 'nosniff');
    const name = encodeURIComponent(metadata.filename).replace(/['()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
    const told8187 = /filename\*=UTF-8''([^;]+)/.exec(answer.headers.get('content-disposition'))?.[1];
    assert.equal(decodeURIComponent(told8187 ?? ''), decodeURIComponent(name));
    await answer.body.cancel();
  });

  test('pauses and goes on where it was', async (t) => {
    const proxy = await Proxy.start(server, { t });
    proxy.rate = 4 * MIB;
    const answers = [];
    const { upload, done } = startUpload(bytes, {
      endpoint: proxy.endpoint,
      onAfterResponse: (request, response) => answers.push([request.getMethod(), Number(response.getHeader('upload-offset'))]),
    });
    await until('some bytes to pass', () => proxy.sent > MIB);
    await upload.abort();
    await sleep(100);
    proxy.rate = 0;
    upload.start();
    const url = await done;
    const [created, [asked, offset]] = answers;
    assert.deepEqual([created[0], asked], ['POST', 'HEAD']);
    assert.ok(offset > 0, 'what had arrived was kept');
    await assertStored(server, url, source);
  });

  test('terminates an upload it has begun', async (t) => {
    const proxy = await Proxy.start(server, { t });
    proxy.rate = 4 * MIB;
    const { upload } = startUpload(bytes, { endpoint: proxy.endpoint });
    await until('some bytes to pass', () => proxy.sent > MIB);
    await upload.abort(true);
    const { status: gone, offset } = await head(upload.url);
    assert.ok([404, 410].includes(gone), `HEAD answered ${gone}`);
    assert.equal(offset, undefined);
    assert.equal((await status(server, idOf(upload.url))).stage, 'terminated');
  });

  test('terminates a finished upload', async () => {
    const url = await uploadAll(bytes, { endpoint: server.endpoint });
    await Upload.terminate(url);
    assert.ok([404, 410].includes((await fetch(url)).status));
    assert.equal((await status(server, idOf(url))).stage, 'terminated');
  });

  describe('finishes by itself when the connection is cut', () => {
    const cuts = [
      ['in the creation request', 'up', 60],
      ['in the head of the first PATCH', 'up', 700],
      ['after 100 kB', 'up', 100_000],
      ['in the middle', 'up', 1.5 * MIB],
      ['just before the last byte', 'up', bytes.length],
      ['in the answer to the creation', 'down', 20],
    ];
    for (const how of ['fin', 'rst']) {
      for (const [where, direction, count] of cuts) {
        test(`${where}, with a ${how.toUpperCase()}`, async (t) => {
          const proxy = await Proxy.start(server, { t });
          const cut = proxy.cutAfter(count, how, direction);
          const url = await uploadAll(bytes, { endpoint: proxy.endpoint });
          await cut;
          assert.ok(proxy.connections > 1);
          assert.ok(url.startsWith(proxy.url), `${url} leads around the proxy`);
          await assertStored(server, url, source);
        });
      }

      test(`in the answer to the last PATCH, with a ${how.toUpperCase()}`, async (t) => {
        const proxy = await Proxy.start(server, { t });
        let cut;
        const url = await uploadAll(bytes, {
          endpoint: proxy.endpoint,
          onBeforeRequest: (request) => {
            if (request.getMethod() === 'PATCH') cut ??= proxy.cutAfter(10, how, 'down');
          },
        });
        await cut;
        await assertStored(server, url, source);
      });

      test(`every 400 kB, with a ${how.toUpperCase()}`, async (t) => {
        const proxy = await Proxy.start(server, { t });
        const cutAgain = () => proxy.cutAfter(400_000, how).then(cutAgain);
        cutAgain();
        const url = await uploadAll(bytes, { endpoint: proxy.endpoint });
        await assertStored(server, url, source);
        assert.ok(proxy.connections > 4, `only ${proxy.connections} connections`);
      });
    }
  });

  test('is not held up by its own dead connection', async (t) => {
    const proxy = await Proxy.start(server, { t });
    proxy.rate = 8 * MIB;
    const stale = startUpload(bytes, { endpoint: proxy.endpoint });
    await until('some bytes to pass', () => proxy.sent > MIB);
    proxy.stall(); // As when a phone changes networks: the server gets no notice.
    const uploadUrl = `${server.endpoint}/${idOf(stale.upload.url)}`;
    const started = Date.now();
    await uploadAll(bytes, { uploadUrl, retryDelays: null });
    assert.ok(Date.now() - started < 5000, `took ${Date.now() - started} ms`);
    await assertStored(server, uploadUrl, source);
    await stale.upload.abort();
  });

  test('resumes in a new process after it was killed', async (t) => {
    const proxy = await Proxy.start(server, { t });
    proxy.rate = 3 * MIB;
    const task = { endpoint: proxy.endpoint, file, storage: join(server.folder, 'urls.json') };
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
    await assertStored(server, url, source);
  });

  test('resumes parallel parts in a new process after it was killed', async (t) => {
    const proxy = await Proxy.start(server, { t });
    proxy.rate = 3 * MIB;
    const options = { parallelUploads: 3 };
    const task = { endpoint: proxy.endpoint, file, storage: join(server.folder, 'urls-of-parts.json'), options };
    const first = new UploadProcess(task, { t });
    await until('some bytes to pass', () => proxy.sent > MIB);
    await first.kill();

    proxy.rate = 0;
    const second = new UploadProcess(task, { t });
    const url = await second.success();
    const heads = second.all('answer').filter(({ method }) => method === 'HEAD');
    assert.equal(heads.length, 3, 'all three parts go on');
    await assertStored(server, url, source);
  });

  test('resumes in a new process from nothing but the URL', async (t) => {
    const proxy = await Proxy.start(server, { t });
    proxy.rate = 3 * MIB;
    const first = new UploadProcess({ endpoint: proxy.endpoint, file }, { t });
    const url = await first.urlKnown();
    await until('some bytes to pass', () => proxy.sent > MIB);
    await first.kill();
    const options = { uploadUrl: `${server.endpoint}/${idOf(url)}` };
    const second = new UploadProcess({ file, options }, { t });
    await second.success();
    assert.equal(second.all('answer')[0].method, 'HEAD');
    await assertStored(server, url, source);
  });

  test('gets no gap and no bytes twice with many uploads at once', async () => {
    const before = (await list(server)).length;
    const many = Array.from({ length: 12 }, (_, i) => noise(200_000 + i * 1111, i + 2));
    const urls = await Promise.all(many.map((data) => uploadAll(data, { endpoint: server.endpoint, chunkSize: 60_000 })));
    for (const [i, url] of urls.entries()) await assertStored(server, url, digestOf(many[i]));
    assert.equal((await list(server, 'limit=5')).length, before + many.length, 'the list, page by page, has them all');
  });
});

describe('tus-js-client, while its server', () => {
  test('is killed and comes back', async (t) => {
    const server = await Server.start({ name: 'killed', t });
    const proxy = await Proxy.start(server, { t });
    proxy.rate = 3 * MIB;
    const { done } = startUpload(bytes, { endpoint: proxy.endpoint });
    for (const mark of [0.3 * MIB, 1.2 * MIB, 2.2 * MIB]) {
      await until('some bytes to pass', () => proxy.sent > mark);
      await server.kill();
      await server.restart();
    }
    await assertStored(server, await done, source);
  });

  test('is stopped in an orderly way and comes back', async (t) => {
    const server = await Server.start({ name: 'stopped', t });
    const proxy = await Proxy.start(server, { t });
    proxy.rate = 2 * MIB;
    const { upload, done } = startUpload(bytes, { endpoint: proxy.endpoint });
    await until('some bytes to pass', () => proxy.sent > MIB);
    assert.deepEqual(await server.stop(), { code: 0, signal: null });
    await server.restart();
    const { offset } = await head(`${server.endpoint}/${idOf(upload.url)}`);
    assert.ok(offset > 0, 'an orderly stop keeps what had arrived');
    proxy.rate = 0;
    await assertStored(server, await done, source);
  });

  test('keeps a finished upload over a kill', async (t) => {
    const server = await Server.start({ name: 'kept', t });
    const url = await uploadAll(bytes, { endpoint: server.endpoint });
    await server.kill();
    await server.restart();
    await until('completion', async () => (await status(server, idOf(url))).stage === 'completed');
    await assertStored(server, url, source);
    assert.deepEqual(await download(url), source);
  });
});
