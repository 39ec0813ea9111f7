// The server with its bytes in an object store, behind a network that fails. tests/services/seaweedfs.sh starts the store.

import assert from 'node:assert/strict';
import { readFile, readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { TUS, assertStored, download, head, idOf, status } from '../clients/harness/api.mjs';
import { digestOf, noise, random } from '../clients/harness/bytes.mjs';
import { Receiver } from '../clients/harness/receiver.mjs';
import { Server } from '../clients/harness/server.mjs';
import { sleep, until } from '../clients/harness/until.mjs';
import { UploadProcess, startUpload, uploadAll } from '../clients/node/client.mjs';
import { inParallel, numbers } from '../cluster/parallel.mjs';
import { Folder } from './bucket.mjs';
import { FAULTS, LATE_ERRORS, StoreProxy, late } from './store_proxy.mjs';

const MIB = 2 ** 20;

/** The size of the files whose requests are counted; the documentation has the counts of 1 GiB. */
const SIZE = Number(process.env.OBJECTS_COUNTED_MIB ?? 21) * MIB;

/** Starts a server and a proxy in front of a folder of the bucket. */
async function begin(t, { webhooks = false, ...more } = {}) {
  const folder = new Folder();
  const proxy = await StoreProxy.start(t);
  const receiver = webhooks && (await Receiver.start({ t }));
  const config = folder.config(proxy.url, more);
  if (receiver) config.webhooks = { endpoints: [receiver.endpoint()] };
  const server = await Server.start({ name: 'objects', t, config: { ...config, ...more.config } });
  return { folder, proxy, receiver, server };
}

/** Asserts that the folder has an object for each upload and nothing else, soon. */
async function assertHasOnly(folder, sizes) {
  await until(
    `the bucket to have ${sizes.length} objects and nothing else`,
    async () => {
      const [objects, unfinished] = await Promise.all([folder.objects(), folder.unfinished()]);
      assert.deepEqual([objects.map(({ size }) => size).sort(), unfinished], [[...sizes].sort(), []]);
      return true;
    },
    { timeout: 20_000, every: 250 },
  );
}

/** Returns the total size of files below a folder that are larger than a record of the database would be. */
async function bytesOnDisk(folder) {
  let total = 0;
  for (const entry of await readdir(folder, { withFileTypes: true, recursive: true })) {
    if (!entry.isFile() || /^longshore\.(db|key|lock)/.test(entry.name)) continue;
    total += (await stat(join(entry.parentPath, entry.name))).size;
  }
  return total;
}

test('O1 O5 O10: an upload of several parts, with a kill in the middle; no byte is on the disk', async (t) => {
  const { folder, receiver, server } = await begin(t, { webhooks: true });
  const bytes = noise(33 * MIB + 5);
  const file = join(server.folder, 'source.bin');
  await writeFile(file, bytes);
  const task = { endpoint: server.endpoint, file, options: { chunkSize: 4 * MIB } };
  const upload = new UploadProcess({ ...task, storage: join(server.folder, 'urls.json') }, { t });
  for (const offset of [9 * MIB, 21 * MIB]) {
    await until('the upload to advance', () => upload.all('answer').some((answer) => answer.offset >= offset), { timeout: 30_000 });
    await server.kill();
    const told = Math.max(...upload.all('answer').map((answer) => answer.offset));
    await server.restart();
    const { offset: kept } = await head(upload.url);
    assert.ok(kept >= told, `${told} bytes were acknowledged, and ${kept} are left`);
  }
  const url = await upload.success();
  await assertStored(server, url, digestOf(bytes));
  await receiver.hear('upload.completed', idOf(url));
  await assertHasOnly(folder, [bytes.length]);
  assert.equal(await bytesOnDisk(server.dataDir), 0, 'no byte of an upload is in the data folder');
});

for (const chunkSize of [MIB, 5 * MIB, Infinity]) {
  test(`O5a: chunks of ${chunkSize / MIB} MiB cost at most 2.2 times the bytes`, async (t) => {
    const { folder, proxy, server } = await begin(t);
    const bytes = noise(SIZE);
    const [before, requests] = [proxy.sentBytes, { ...proxy.counts }];
    const url = await uploadAll(bytes, { endpoint: server.endpoint, chunkSize });
    const share = (proxy.sentBytes - before) / bytes.length;
    assert.ok(share <= 2.2, `${share} bytes were sent to the store for each byte`);
    const sent = Object.entries(proxy.counts).map(([kind, count]) => [kind, count - (requests[kind] ?? 0)]);
    t.diagnostic(`${share.toFixed(2)} bytes for each of ${SIZE}; ${JSON.stringify(Object.fromEntries(sent))}`);
    await assertStored(server, url, digestOf(bytes));
    await assertHasOnly(folder, [bytes.length]);
  });
}

test('O5a: a slow request makes no small objects until it ends', async (t) => {
  const { folder, proxy, server } = await begin(t, { config: { limits: { stall_after: '60s' } } });
  const created = await fetch(server.endpoint, { method: 'POST', headers: { ...TUS, 'Upload-Length': '60000' } });
  const url = new URL(created.headers.get('location'), server.url).href;
  const bytes = noise(60_000);
  let stored;
  async function* slowly() {
    for (let at = 0; at < bytes.length; at += 10_000) {
      yield bytes.subarray(at, at + 10_000);
      await sleep(400);
    }
    stored = proxy.counts.put;
  }
  const puts = proxy.counts.put;
  const answer = await fetch(url, {
    method: 'PATCH',
    headers: { ...TUS, 'Upload-Offset': '0', 'Content-Type': 'application/offset+octet-stream' },
    body: slowly(),
    duplex: 'half',
  });
  assert.equal(answer.status, 204);
  assert.equal(stored, puts, 'nothing was stored while bytes arrived');
  await assertStored(server, url, digestOf(bytes));
  await assertHasOnly(folder, [bytes.length]);
});

const KINDS = ['create', 'part', 'put', 'complete', 'copy', 'head', 'list parts', 'get', 'list', 'delete'];

describe('a request to the store fails twice', { concurrency: 3 }, () => {
  for (const kind of KINDS) {
    const faults = kind === 'complete' ? { ...FAULTS, ...LATE_ERRORS } : FAULTS;
    for (const [what, fault] of Object.entries(faults)) {
      test(`O2 O10 O16: ${kind}: ${what}`, async (t) => {
        const { folder, proxy, server } = await begin(t);
        const [large, small] = [noise(12 * MIB, 3), noise(70_000, 4)];
        const happened = proxy.failNext(kind, fault, 2);
        const send = (bytes) => uploadAll(bytes, { endpoint: server.endpoint, chunkSize: 7 * MIB });
        const urls = await Promise.all([send(large), send(small)]);
        await assertStored(server, urls[0], digestOf(large));
        await assertStored(server, urls[1], digestOf(small));
        // Reads are not part of every upload; these make sure that each kind was met.
        if (happened.count === 0) await server.stop().then(() => server.restart());
        assert.ok(happened.count > 0 || ['list parts', 'get', 'list'].includes(kind), `no request of the kind ${kind} was sent`);
        assert.deepEqual(await download(urls[0]), digestOf(large));
        proxy.fault = () => undefined;
        await assertHasOnly(folder, [large.length, small.length]);
      });
    }
  }
});

test('O7: a store that is busy for 30 % of the requests fails no upload', async (t) => {
  const { folder, proxy, server } = await begin(t);
  const dice = random(7);
  proxy.fault = (kind) => (['part', 'put', 'complete', 'create'].includes(kind) && dice.chance(0.3) ? FAULTS['the store is busy'] : undefined);
  const sources = numbers(12).map((number) => noise(6 * MIB + number, number));
  await inParallel(sources, 6, async (bytes) => {
    const url = await uploadAll(bytes, { endpoint: server.endpoint });
    await assertStored(server, url, digestOf(bytes));
  });
  proxy.fault = () => undefined;
  await assertHasOnly(folder, sources.map(({ length }) => length));
});

test('O13: a deleted upload leaves nothing, also with parts on their way', async (t) => {
  const { folder, proxy, server } = await begin(t);
  const held = proxy.failNext('part', late(1_500), Infinity);
  const { upload, done } = startUpload(noise(30 * MIB), { endpoint: server.endpoint, chunkSize: 10 * MIB });
  await until('parts to be on their way', () => held.count >= 2);
  await upload.abort();
  done.catch(() => {});
  const answer = await fetch(upload.url, { method: 'DELETE', headers: TUS });
  assert.equal(answer.status, 204);
  await assertHasOnly(folder, []);
});

test('O11: while a completion takes long, no client takes the upload for complete', async (t) => {
  const { folder, proxy, server } = await begin(t, { config: { limits: { takeover_timeout: '1s' } } });
  const bytes = noise(11 * MIB);
  const completing = proxy.failNext('complete', late(6_000), Infinity);
  const { upload, done } = startUpload(bytes, { endpoint: server.endpoint });
  await until('the completion to begin', () => completing.count > 0);
  const asked = await head(upload.url);
  assert.notEqual(asked.offset, bytes.length, `a HEAD meanwhile: ${asked.status}`);
  await assertStored(server, await done, digestOf(bytes));
  await assertHasOnly(folder, [bytes.length]);
});

test('O16: while the store is away, acknowledged bytes stay; afterwards the upload goes on', async (t) => {
  const { folder, proxy, server } = await begin(t, { s3: { give_up_after: '2s' } });
  const bytes = noise(17 * MIB);
  const { upload, done } = startUpload(bytes, { endpoint: server.endpoint, chunkSize: 3 * MIB });
  await until('some parts to be stored', () => proxy.counts.part >= 1);
  proxy.fault = () => FAULTS['the request is lost'];
  await sleep(4_000);
  proxy.fault = () => undefined;
  await assertStored(server, await done, digestOf(bytes));
  assert.equal(upload.url && (await status(server, idOf(upload.url))).stage, 'completed');
  await assertHasOnly(folder, [bytes.length]);
});

test('O6: many slow uploads share little memory, and all advance', async (t) => {
  const { folder, server } = await begin(t, { storage: { buffer_memory: '16MiB' }, config: { limits: { max_active_uploads: 1000 } } });
  const sources = numbers(40).map((number) => noise(700_000 + number, number));
  await Promise.all(
    sources.map(async (bytes) => {
      const created = await fetch(server.endpoint, { method: 'POST', headers: { ...TUS, 'Upload-Length': String(bytes.length) } });
      const url = new URL(created.headers.get('location'), server.url).href;
      async function* slowly() {
        for (let at = 0; at < bytes.length; at += 50_000) {
          yield bytes.subarray(at, at + 50_000);
          await sleep(100);
        }
      }
      const headers = { ...TUS, 'Upload-Offset': '0', 'Content-Type': 'application/offset+octet-stream' };
      const answer = await fetch(url, { method: 'PATCH', headers, body: slowly(), duplex: 'half' });
      assert.equal(answer.status, 204);
      await assertStored(server, url, digestOf(bytes));
    }),
  );
  await assertHasOnly(folder, sources.map(({ length }) => length));
});

test('a wrong key, or a store that is not there: the server does not start, and says why', async (t) => {
  const cases = [
    [{ secret_access_key: 'wrong' }, /SignatureDoesNotMatch|AccessDenied|403/],
    [{ endpoint: 'http://127.0.0.1:9' }, /the object store was not reached/],
  ];
  for (const [s3, reason] of cases) {
    const config = new Folder().config(undefined, { s3: { give_up_after: '2s', ...s3 } });
    const server = await Server.prepare({ name: 'objects-refused', t, config });
    await assert.rejects(server.restart(), /ended before it listened/);
    assert.match(await readFile(server.logFile, 'utf8'), reason);
  }
});
