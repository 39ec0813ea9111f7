// Failures that operators meet: full disks, wrong folders, silent clients, graceful stops, load balancers, bad
// receivers.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { TUS, assertStored, deliveries, head, idOf, status } from '../clients/harness/api.mjs';
import { digestOf, noise } from '../clients/harness/bytes.mjs';
import { Proxy } from '../clients/harness/proxy.mjs';
import { Receiver } from '../clients/harness/receiver.mjs';
import { Server, scratchFolder } from '../clients/harness/server.mjs';
import { sleep, until } from '../clients/harness/until.mjs';
import { startUpload, uploadAll } from '../clients/node/client.mjs';
import { startBalancer } from './balancer.mjs';
import { request } from './wire.mjs';

const MIB = 1 << 20;
const BODY = { 'Content-Type': 'application/offset+octet-stream' };
const bytes = noise(3 * MIB + 5, 3);
const source = digestOf(bytes);
const isRoot = process.getuid() === 0;

async function create(server, length) {
  const answer = await request(server.port, 'POST', '/files', { 'Upload-Length': length });
  assert.equal(answer.status, 201);
  return new URL(answer.headers.location, server.url).pathname;
}

/** Starts a PATCH that announces `length` bytes, sends `some`, and stays open. Resolves to the text of the response. */
function openPatch(server, path, length, some) {
  const socket = connect(server.port, '127.0.0.1');
  let text = '';
  const answer = new Promise((done) => {
    socket.on('data', (chunk) => (text += chunk));
    socket.on('error', () => {});
    socket.on('close', () => done(text));
  });
  const headers = { Host: 'localhost', ...TUS, ...BODY, 'Upload-Offset': 0, 'Content-Length': length };
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.write(`PATCH ${path} HTTP/1.1\r\n${lines.join('')}\r\n`);
  socket.write(some);
  return { socket, answer };
}

describe('the disk', () => {
  test('is full: 507, the offset stands, and the upload goes on once there is room', { skip: !isRoot && 'needs root to mount' }, async (t) => {
    // 16 MiB of it are for the database's reserve.
    const dataDir = await scratchFolder('small-disk');
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=40m', 'tmpfs', dataDir]);
    t.after(async () => {
      execFileSync('umount', ['-l', dataDir]);
      await rm(dataDir, { recursive: true });
    });
    const config = { storage: { min_free_space: '2MiB', checkpoint_every: '100ms', checkpoint_size: '256KiB' } };
    const server = await Server.start({ name: 'full-disk', dataDir, config, t });

    const tooLarge = await request(server.port, 'POST', '/files', { 'Upload-Length': 100 * MIB });
    assert.equal(tooLarge.status, 507, 'an upload that can never fit is refused before a byte is sent');

    const video = noise(8 * MIB, 9);
    const path = await create(server, video.length);
    const filler = join(dataDir, 'filler');
    const patch = (offset) =>
      request(server.port, 'PATCH', path, { ...BODY, 'Upload-Offset': offset }, { body: [video.subarray(offset)] });
    await writeFile(filler, Buffer.alloc(18 * MIB));
    const refused = await patch(0);
    assert.equal(refused.status, 507);
    const { offset } = await head(server.url + path);
    assert.ok(offset < video.length, `offset ${offset}`);
    assert.equal((await fetch(`${server.url}/api/v1/uploads`)).status, 200, 'asking still works');

    await rm(filler);
    const resumed = await until('room again', async () => {
      const answer = await patch((await head(server.url + path)).offset);
      return answer.status === 204 && answer;
    });
    assert.equal(resumed.headers['upload-offset'], String(video.length));
    await assertStored(server, server.url + path, digestOf(video));
  });

  test('cannot be used: refused at the start, with the reason', async (t) => {
    const folder = await scratchFolder('no-folder');
    t.after(() => rm(folder, { recursive: true }));
    const inTheWay = join(folder, 'a-file');
    await writeFile(inTheWay, 'not a folder');
    const server = await Server.prepare({ name: 'unusable', dataDir: inTheWay, t });
    await assert.rejects(server.restart(), /ended before it listened/);
    assert.match(await readFile(server.logFile, 'utf8'), /a-file/);
  });

  test('belongs to another server: the second is refused, the first goes on', async (t) => {
    const first = await Server.start({ name: 'first', t });
    const second = await Server.prepare({ name: 'second', dataDir: first.dataDir, t });
    await assert.rejects(second.restart(), /ended before it listened/);
    assert.match(await readFile(second.logFile, 'utf8'), /another|already|in use|lock/);
    const url = await uploadAll(bytes, { endpoint: first.endpoint });
    await assertStored(first, url, source);
    await first.kill();
    await second.restart();
    await assertStored(second, url, source);
  });
});

describe('a client', () => {
  test('falls silent: the idle timeout ends it, and its bytes are kept', async (t) => {
    const server = await Server.start({ name: 'silent', t, config: { limits: { idle_timeout: '1s' } } });
    const path = await create(server, bytes.length);
    const { answer } = openPatch(server, path, bytes.length, bytes.subarray(0, MIB));
    const began = Date.now();
    const text = await answer;
    const took = Date.now() - began;
    assert.ok(took > 800 && took < 8000, `ended after ${took} ms`);
    if (text) assert.match(text, /^HTTP\/1.1 5\d\d /, 'a client retries a 5xx, not a 4xx');
    assert.equal((await head(server.url + path)).offset, MIB);
    await uploadAll(bytes, { uploadUrl: server.url + path });
    await assertStored(server, server.url + path, source);
  });

  test('sends no request at all: the connection is closed', async (t) => {
    const server = await Server.start({ name: 'slow-head', t, config: { limits: { header_timeout: '1s' } } });
    const socket = connect(server.port, '127.0.0.1');
    socket.on('error', () => {});
    socket.resume();
    socket.write('POST /files HTT');
    const began = Date.now();
    await once(socket, 'close');
    assert.ok(Date.now() - began < 8000);
  });

  test('appends while another does: one wins, no byte is mixed in', async (t) => {
    const server = await Server.start({ name: 'two-writers', t });
    for (let round = 0; round < 5; round += 1) {
      const path = await create(server, bytes.length);
      const url = server.url + path;
      const writers = Array.from({ length: 4 }, () => uploadAll(bytes, { uploadUrl: url, chunkSize: 300_000 }));
      await Promise.all(writers);
      await assertStored(server, url, source);
    }
  });

  test('deletes during a PATCH: the PATCH is cut and nothing comes back', async (t) => {
    const server = await Server.start({ name: 'delete-wins', t });
    const path = await create(server, bytes.length);
    const { answer, socket } = openPatch(server, path, bytes.length, bytes.subarray(0, MIB));
    await until('bytes to arrive', async () => (await status(server, idOf(server.url + path))).received >= MIB);
    assert.equal((await request(server.port, 'DELETE', path, {})).status, 204);
    socket.write(bytes.subarray(MIB));
    assert.doesNotMatch(await answer, /^HTTP\/1.1 2/);
    assert.equal((await status(server, idOf(server.url + path))).stage, 'terminated');
    assert.ok([404, 410].includes((await head(server.url + path)).status));
    const left = execFileSync('find', [server.dataDir, '-name', `${idOf(server.url + path)}*`], { encoding: 'utf8' });
    await until('the file to go', () => left === '' || !execFileSync('find', [server.dataDir, '-name', `${idOf(server.url + path)}*`]).length);
  });
});

describe('SIGTERM', () => {
  test('answers live uploads with 503, keeps their bytes, delivers what is due, and ends with 0', async (t) => {
    const receiver = await Receiver.start({ t });
    const config = { shutdown_timeout: '10s', webhooks: { endpoints: [receiver.endpoint()] } };
    const server = await Server.start({ name: 'sigterm', t, config });
    const done = await uploadAll(bytes, { endpoint: server.endpoint });
    const path = await create(server, bytes.length);
    const { answer } = openPatch(server, path, bytes.length, bytes.subarray(0, MIB));
    await until('bytes to arrive', async () => (await status(server, idOf(server.url + path))).received >= MIB);
    const began = Date.now();
    assert.deepEqual(await server.stop(), { code: 0, signal: null });
    assert.ok(Date.now() - began < 10_000, 'within the limit');
    assert.match(await answer, /^HTTP\/1.1 503 /);
    assert.equal(receiver.types(idOf(done)).at(-1), 'upload.completed');
    await server.restart();
    assert.equal((await head(server.url + path)).offset, MIB, 'a live upload is checkpointed');
  });

  test('twice ends at once', async (t) => {
    const hanging = await Receiver.start({ t });
    hanging.behave('hang');
    const config = { shutdown_timeout: '30s', webhooks: { endpoints: [hanging.endpoint()] } };
    const server = await Server.start({ name: 'twice', t, config });
    await uploadAll(bytes, { endpoint: server.endpoint });
    await until('a delivery to hang', () => hanging.requests.length > 0);
    const path = await create(server, bytes.length);
    openPatch(server, path, bytes.length, bytes.subarray(0, MIB));
    await sleep(100);
    server.signal('SIGTERM');
    await sleep(300);
    const began = Date.now();
    server.signal('SIGTERM');
    await server.ended();
    assert.ok(Date.now() - began < 1000, `took ${Date.now() - began} ms`);
  });
});

describe('an early answer while the body still arrives', () => {
  const large = Buffer.alloc(24 * MIB);
  const pieces = Array.from({ length: 24 }, (_, i) => large.subarray(i * MIB, (i + 1) * MIB));

  for (const via of [undefined, 'haproxy', 'nginx']) {
    test(`reaches the client ${via ? `behind ${via}` : 'directly'}, ten times out of ten`, async (t) => {
      const server = await Server.start({ name: 'early', t });
      const port = via ? await startBalancer(via, server, t) : server.port;
      const path = await create(server, large.length);
      for (let i = 0; i < 10; i += 1) {
        const wrong = { ...BODY, 'Upload-Offset': 7 };
        const { status: told, headers } = await sendThenRead(port, path, wrong, pieces);
        assert.equal(told, 409);
        assert.equal(headers['upload-offset'], '0');
      }
      assert.equal((await head(server.url + path)).offset, 0);
    });

    if (!via) continue;
    test(`${via} in between: a cut upload keeps its bytes and is finished`, async (t) => {
      const server = await Server.start({ name: `behind-${via}`, t });
      const port = await startBalancer(via, server, t);
      for (const how of ['fin', 'rst']) {
        const proxy = await Proxy.start({ port }, { t });
        proxy.rate = 8 * MIB;
        const cut = proxy.cutAfter(2 * MIB, how);
        const { upload, done } = startUpload(bytes, { endpoint: proxy.endpoint, retryDelays: [2000, 0, 100, 100] });
        await cut;
        await until('bytes to be kept', async () => (await head(`${server.endpoint}/${idOf(upload.url)}`)).offset > 0);
        await assertStored(server, await done, source);
      }
    });
  }
});

/** Acts like a simple client: sends everything, and only then reads the response. */
function sendThenRead(port, path, headers, pieces) {
  return new Promise((done, failed) => {
    const socket = connect(port, '127.0.0.1');
    socket.on('error', (error) => failed(new Error(`the answer was lost: ${error.message}`)));
    const size = pieces.reduce((sum, piece) => sum + piece.length, 0);
    const all = { Host: 'localhost', ...TUS, ...headers, 'Content-Length': size };
    socket.write(`PATCH ${path} HTTP/1.1\r\n${Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`);
    let left = pieces.length;
    for (const piece of pieces) {
      socket.write(piece, () => {
        left -= 1;
        if (left > 0) return;
        let text = '';
        const end = () => {
          const lines = text.split('\r\n');
          const told = Object.fromEntries(lines.slice(1).map((line) => line.toLowerCase().split(': ')));
          if (!text) failed(new Error('closed without an answer'));
          done({ status: Number(lines[0].split(' ')[1]), headers: told });
          socket.destroy();
        };
        socket.on('data', (chunk) => {
          text += chunk;
          if (text.includes('\r\n\r\n')) end();
        });
        socket.on('end', end);
        socket.resume();
      });
    }
    socket.pause();
  });
}

describe('webhook receivers', () => {
  test('that misbehave hold up nobody, and each attempt is on record', async (t) => {
    const good = await Receiver.start({ t });
    const refusing = await Receiver.start({ t });
    const failing = await Receiver.start({ t });
    const gone = await Receiver.start({ t });
    const hanging = await Receiver.start({ t });
    const redirecting = await Receiver.start({ t });
    const gushing = await Receiver.start({ t });
    const dripping = await Receiver.start({ t });
    const elsewhere = createServer((_, response) => {
      strayed += 1;
      response.end();
    }).listen(0, '127.0.0.1');
    let strayed = 0;
    t.after(() => elsewhere.close());
    await once(elsewhere, 'listening');
    await refusing.down();
    failing.behave(({ attempt }) => (failing.requests.filter(({ id }) => id === failing.requests.at(-1).id).length < 3 ? 500 : attempt && 200));
    gone.behave(410);
    hanging.behave('hang');
    redirecting.behave((_entry, _request, response) => {
      response.writeHead(307, { Location: `http://127.0.0.1:${elsewhere.address().port}/` }).end();
    });
    let gushed = 0;
    gushing.behave((entry, _request, response) => {
      entry.status = 200;
      response.writeHead(200, { 'Content-Length': 2 ** 30 });
      const chunk = Buffer.alloc(64 << 10, 'x');
      const pour = () => {
        while (!response.destroyed && gushed < 2 ** 30) {
          gushed += chunk.length;
          if (!response.write(chunk)) return response.once('drain', pour);
        }
      };
      pour();
    });
    dripping.behave((entry, _request, response) => {
      entry.status = 200;
      response.writeHead(200, { 'Content-Length': 1000 });
      const drip = setInterval(() => response.write('.'), 300);
      response.once('close', () => clearInterval(drip));
    });

    const all = { good, refusing, failing, gone, hanging, redirecting, gushing, dripping };
    const endpoints = Object.entries(all).map(([name, receiver]) => receiver.endpoint({ name, events: ['upload.created', 'upload.completed'] }));
    const webhooks = { timeout: '1s', connect_timeout: '1s', lease: '6s', retry_schedule: ['1s', '1s', '1s', '60s'], retry_jitter_percent: 0, endpoints };
    const server = await Server.start({ name: 'receivers', t, config: { webhooks } });
    const id = idOf(await uploadAll(bytes, { endpoint: server.endpoint }));

    await good.hear('upload.completed', id, { timeout: 3000 });
    await failing.hear('upload.completed', id);
    await gushing.hear('upload.completed', id);
    await dripping.hear('upload.completed', id);
    const byEndpoint = (name) => deliveries(server, `endpoint=${name}&upload=${id}`);
    const settledAs = (name, state, count = 2) =>
      until(
        `${count} deliveries to ${name} to be ${state}`,
        async () => (await byEndpoint(name)).filter((delivery) => delivery.state === state).length === count,
      );
    const attempts = async (name) => (await byEndpoint(name)).flatMap((delivery) => delivery.attempts);

    await settledAs('good', 'succeeded');
    assert.deepEqual((await attempts('good')).map((attempt) => attempt.status), [200, 200]);

    await settledAs('failing', 'succeeded');
    assert.deepEqual((await byEndpoint('failing'))[0].attempts.map((attempt) => attempt.status), [500, 500, 200]);
    const ids = failing.requests.filter(({ type }) => type === 'upload.created').map((one) => one.id);
    assert.equal(new Set(ids).size, 1, 'the id is the same on every attempt');
    const bodies = failing.requests.filter(({ type }) => type === 'upload.created').map(({ body }) => body);
    assert.equal(new Set(bodies).size, 1, 'and so is the body');

    await settledAs('gushing', 'succeeded');
    assert.ok(gushed < 64 * MIB, `read ${gushed} bytes of an answer`);
    assert.ok((await attempts('gushing'))[0].response_body.length <= 4096);
    await settledAs('dripping', 'succeeded');
    assert.ok((await attempts('dripping')).every((attempt) => attempt.duration_ms < 3000), 'a drip holds a sender for no longer than the timeout');

    await until('a refused attempt', async () => (await attempts('refusing'))[0]?.error === 'refused');
    await until('an attempt that timed out', async () => (await attempts('hanging'))[0]?.error === 'timeout');
    const [{ next_attempt_at: next }] = await byEndpoint('hanging');
    if (next) assert.ok(Date.parse(next) - Date.now() > 50_000, 'one that times out is left alone for a minute');

    const redirected = await until('a redirected attempt', async () => (await attempts('redirecting'))[0]);
    assert.equal(redirected.status, 307);
    assert.match(redirected.note, /127\.0\.0\.1/);
    assert.equal(strayed, 0, 'redirects are not followed');

    assert.equal((await attempts('gone'))[0].status, 410);
    await until('deliveries to be kept for the receiver that is gone', async () => {
      const states = (await byEndpoint('gone')).map(({ state }) => state);
      return states.includes('paused');
    });
    assert.ok(gone.requests.length <= 2, 'nobody calls where nobody lives');
    for (const receiver of Object.values(all)) assert.deepEqual(receiver.refused, []);
  });

  test('that were down hear everything once they are back, over a kill of the server too', async (t) => {
    const receiver = await Receiver.start({ t });
    await receiver.down();
    const webhooks = { timeout: '1s', connect_timeout: '1s', lease: '6s', retry_schedule: Array(60).fill('1s'), endpoints: [receiver.endpoint()] };
    const server = await Server.start({ name: 'late', t, config: { webhooks } });
    const id = idOf(await uploadAll(bytes, { endpoint: server.endpoint }));
    await server.kill();
    await receiver.up();
    await server.restart();
    await receiver.hear('upload.completed', id, { timeout: 20_000 });
    await until('all six', () => receiver.accepted(id).length === 6);
  });
});
