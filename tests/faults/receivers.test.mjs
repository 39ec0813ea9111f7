// Webhook receivers that are unusual, broken or hostile, each at the other end of a real connection: the outcome of a
// delivery, its record, and that nothing else is affected.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { createServer as createHttpsServer } from 'node:https';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { describe, test } from 'node:test';
import { deliveries, idOf } from '../clients/harness/api.mjs';
import { noise } from '../clients/harness/bytes.mjs';
import { Receiver, newSecret } from '../clients/harness/receiver.mjs';
import { Server, scratchFolder } from '../clients/harness/server.mjs';
import { until } from '../clients/harness/until.mjs';
import { uploadAll } from '../clients/node/client.mjs';

const MIB = 1 << 20;
const bytes = noise(10_000, 11);
const WAITS = { timeout: '2s', connect_timeout: '1s', lease: '8s', retry_schedule: ['1s', '1s', '60s'], retry_jitter_percent: 0 };

/** Reads whole requests from raw connections and calls `answer(socket, request, count)` for each. */
async function rawReceiver(t, answer) {
  const receiver = { requests: [], connections: 0 };
  const sockets = new Set();
  const listener = createServer((socket) => {
    receiver.connections += 1;
    sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => sockets.delete(socket));
    let text = '';
    socket.on('data', (chunk) => {
      text += chunk.toString('latin1');
      for (let end = endOfRequest(text); end > 0; end = endOfRequest(text)) {
        receiver.requests.push(text.slice(0, end));
        text = text.slice(end);
        answer(socket, receiver.requests.at(-1), receiver.requests.length);
      }
    });
  });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  t.after(() => {
    listener.close();
    for (const socket of sockets) socket.destroy();
  });
  receiver.port = listener.address().port;
  receiver.url = `http://127.0.0.1:${receiver.port}/hook`;
  return receiver;
}

/** Returns the end of the first request in `text`, or 0 if it is incomplete. */
function endOfRequest(text) {
  const head = text.indexOf('\r\n\r\n');
  if (head < 0) return 0;
  const length = Number(/^content-length: (\d+)$/im.exec(text.slice(0, head))?.[1] ?? 0);
  return text.length >= head + 4 + length ? head + 4 + length : 0;
}

/**
 * Starts a server that notifies each of these addresses, and a good receiver, of one upload; `told(name)` is the
 * delivery to one of them.
 */
async function serve(t, urls, { events = ['upload.completed'] } = {}) {
  const good = await Receiver.start({ t });
  const endpoints = Object.entries(urls).map(([name, url]) => ({ name, url, secret: newSecret(), events }));
  const server = await Server.start({ name: 'odd-receivers', t, config: { webhooks: { ...WAITS, endpoints: [good.endpoint({ name: 'good' }), ...endpoints] } } });
  const id = idOf(await uploadAll(bytes, { endpoint: server.endpoint }));
  await good.hear('upload.completed', id, { timeout: 10_000 });
  assert.equal(good.requests.length, good.accepted().length, 'nobody else notices');
  const all = (name) => deliveries(server, `endpoint=${name}&upload=${id}`);
  const told = (name) => until(`an attempt at ${name}`, async () => (await all(name)).find(({ attempts }) => attempts.length > 0));
  return { server, id, told, all };
}

describe('answers', () => {
  /** By name: the reply, and the required record of the first attempt. */
  const ODD = {
    'http-1-0': [(socket) => socket.end('HTTP/1.0 200 OK\r\n\r\nthanks'), { status: 200, body: 'thanks' }],
    'http-1-0-with-length': [(socket) => socket.end('HTTP/1.0 204 No Content\r\nContent-Length: 0\r\n\r\n'), { status: 204 }],
    'continue-first': [(socket) => socket.write('HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n'), { status: 202 }],
    'byte-by-byte': [(socket) => drip(socket, 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok', 10), { status: 200, body: 'ok' }],
    'short-body': [(socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort'), { status: 200, body: 'short' }],
    'broken-chunks': [(socket) => socket.end('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nnot a chunk\r\n'), { status: 200 }],
    'not-utf-8': [(socket) => socket.end(Buffer.concat([Buffer.from('HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\n'), Buffer.from([0xff, 0xfe])])), { status: 500 }],
    'endless-informational': [(socket) => repeat(socket, 'HTTP/1.1 102 Processing\r\n\r\n', 20), { error: 'timeout' }],
    'endless-headers': [(socket) => repeat(socket, `X-${'h'.repeat(1000)}: ${'v'.repeat(1000)}\r\n`, 5, 'HTTP/1.1 200 OK\r\n'), { error: ['transport', 'timeout'] }],
    'mebibyte-of-headers': [(socket) => socket.end(`HTTP/1.1 200 OK\r\n${`X-Much: ${'m'.repeat(1014)}\r\n`.repeat(1024)}Content-Length: 0\r\n\r\n`), { error: 'transport' }],
    'mebibyte-in-one-header': [(socket) => socket.end(`HTTP/1.1 200 OK\r\nX-Much: ${'m'.repeat(MIB)}\r\nContent-Length: 0\r\n\r\n`), { error: 'transport' }],
    'other-protocol': [(socket) => socket.end('SSH-2.0-OpenSSH_9.9\r\n'), { error: 'transport' }],
    'wrong-status': [(socket) => socket.end('HTTP/1.1 99999 Odd\r\n\r\n'), { error: 'transport' }],
    'two-lengths': [(socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab'), { error: 'transport' }],
    'nothing': [(socket) => socket.end(), { error: 'reset' }],
    'a-reset': [(socket) => socket.resetAndDestroy(), { error: 'reset' }],
    'half-a-head': [(socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Le'), { error: 'reset' }],
    'switching-protocols': [(socket) => socket.end('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n'), { status: 101 }],
  };

  test('that are odd or broken count by their status, if they have one', async (t) => {
    const receivers = {};
    for (const [name, [answer]] of Object.entries(ODD)) receivers[name] = await rawReceiver(t, answer);
    const urls = Object.fromEntries(Object.entries(receivers).map(([name, { url }]) => [name, url]));
    const { server, told } = await serve(t, urls);
    for (const [name, [, expected]] of Object.entries(ODD)) {
      const { state, attempts: [first] } = await told(name);
      const say = `${name}: ${state}, ${JSON.stringify(first)}`;
      if (expected.status) assert.equal(first.status, expected.status, say);
      if (expected.error) assert.ok([expected.error].flat().includes(first.error), say);
      if (expected.body) assert.equal(first.response_body, expected.body, say);
      const isSuccess = expected.status >= 200 && expected.status < 300;
      assert.equal(state === 'succeeded', isSuccess, say);
      assert.ok(first.duration_ms < 4000, `no longer than the timeout, and a moment: ${say}`);
      if (isSuccess) assert.equal(receivers[name].requests.length, 1, `${name} is told once`);
    }
    assert.equal((await fetch(`${server.url}/healthz`)).status, 200);
  });

  test('that redirect, in whatever way, are failures, and where they point hears nothing', async (t) => {
    let strayed = 0;
    const elsewhere = createServer((socket) => {
      strayed += 1;
      socket.destroy();
    }).listen(0, '127.0.0.1');
    await once(elsewhere, 'listening');
    t.after(() => elsewhere.close());
    const there = `http://127.0.0.1:${elsewhere.address().port}/`;
    const statuses = [300, 301, 302, 303, 305, 307, 308];
    const places = { absolute: there, 'scheme-less': there.slice(5), relative: '/elsewhere', file: 'file:///etc/passwd', metadata: 'http://169.254.169.254/latest' };
    const urls = {};
    const receivers = {};
    const redirect = async (name, status, location) => {
      receivers[name] = await rawReceiver(t, (socket) =>
        socket.write(`HTTP/1.1 ${status} Elsewhere\r\nLocation: ${location}\r\nRefresh: 0; url=${there}\r\nAlt-Svc: h2="127.0.0.1:${elsewhere.address().port}"\r\nContent-Length: 0\r\n\r\n`));
      urls[name] = receivers[name].url;
    };
    for (const status of statuses) await redirect(`by-${status}`, status, there);
    for (const [name, place] of Object.entries(places)) await redirect(`to-${name}`, 307, place);
    const { told } = await serve(t, urls);
    for (const name of Object.keys(urls)) {
      const { state, attempts: [first] } = await told(name);
      assert.notEqual(state, 'succeeded', name);
      const [kind, what] = [name.slice(0, 2), name.slice(3)];
      assert.equal(first.status, kind === 'by' ? Number(what) : 307, JSON.stringify(first));
      const location = kind === 'by' ? there : places[what];
      assert.ok(first.note.includes(location), `${name} is noted: ${first.note}`);
      for (const request of receivers[name].requests) assert.match(request, /^POST \/hook HTTP\/1\.1\r\n/, name);
    }
    await until('second attempts', async () => Object.values(receivers).every(({ requests }) => requests.length > 1));
    assert.equal(strayed, 0, 'nobody was sent elsewhere');
  });

  test('of 429 are given the rest they ask for, in seconds or until a date, and a minute at least', async (t) => {
    const asked = {
      silent: [undefined, 60],
      'in-seconds': ['90', 90],
      'in-fractions': ['75.5', 75],
      'by-date': [() => new Date(Date.now() + 120_000).toUTCString(), 119],
      'too-little': ['1', 60],
      'long-ago': ['Sun, 06 Nov 1994 08:49:37 GMT', 60],
      'for-ever': ['999999999', 3600],
      nonsense: ['soon', 60],
      negative: ['-5', 60],
    };
    const urls = {};
    const receivers = {};
    for (const [name, [value]] of Object.entries(asked)) {
      receivers[name] = await rawReceiver(t, (socket) => {
        const wish = typeof value === 'function' ? value() : value;
        socket.write(`HTTP/1.1 429 Too Many Requests\r\n${wish ? `Retry-After: ${wish}\r\n` : ''}Content-Length: 0\r\n\r\n`);
      });
      urls[name] = receivers[name].url;
    }
    const { told } = await serve(t, urls);
    for (const [name, [, seconds]] of Object.entries(asked)) {
      const delivery = await told(name);
      assert.equal(delivery.attempts[0].status, 429);
      const rest = (Date.parse(delivery.next_attempt_at) - Date.parse(delivery.attempts[0].started_at)) / 1000;
      // The attempt itself takes a moment.
      assert.ok(rest >= seconds - 0.1 && rest < seconds + 5, `${name}: ${rest} s, not ${seconds} s`);
      assert.equal(receivers[name].requests.length, 1, name);
    }
  });

  test('that keep the connection and close it all the same cost no attempt', async (t) => {
    const closing = await rawReceiver(t, (socket) => {
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n', () => socket.end());
    });
    const resetting = await rawReceiver(t, (socket) => {
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n', () => setTimeout(() => socket.resetAndDestroy(), 2));
    });
    const urls = { closing: closing.url, resetting: resetting.url };
    const { all } = await serve(t, urls, { events: ['upload.*'] });
    for (const name of Object.keys(urls)) {
      const found = await until(`all to arrive at ${name}`, async () => {
        const told = await all(name);
        return told.filter(({ state }) => state === 'succeeded').length >= 6 && told;
      });
      assert.deepEqual([...new Set(found.map(({ attempts }) => attempts.length))], [1], name);
    }
  });
});

/** The recorded reasons for rejected certificates. */
const WHY = { 'for-another': /not valid for name/, expired: /Expired/, 'by-a-stranger': /UnknownIssuer/, 'by-itself': /invalid peer certificate/ };

describe('connections', () => {
  test('to a receiver that accepts none time out', async (t) => {
    // A backlog of one that is never accepted from: node always accepts, so this uses Python. It fills its own backlog.
    const script = `
import socket, sys
listener = socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen(0)
fill = [socket.socket() for _ in range(4)]
for one in fill:
    one.setblocking(False)
    one.connect_ex(listener.getsockname())
print(listener.getsockname()[1], flush=True)
sys.stdin.read()`;
    const child = spawn('python3', ['-c', script], { stdio: ['pipe', 'pipe', 'inherit'] });
    t.after(() => child.kill('SIGKILL'));
    const [port] = await once(createInterface({ input: child.stdout }), 'line');
    const { told } = await serve(t, { full: `http://127.0.0.1:${port}/hook` });
    const { attempts: [first], state } = await told('full');
    assert.equal(first.error, 'timeout', JSON.stringify(first));
    assert.ok(first.duration_ms >= 900 && first.duration_ms < 3500, `${first.duration_ms} ms, and connecting may take 1 s`);
    assert.notEqual(state, 'succeeded');
  });

  test('with TLS need the certificate of the name they are for', async (t) => {
    const folder = await scratchFolder('certificates');
    t.after(() => rm(folder, { recursive: true }));
    const authority = makeAuthority(folder, 'authority');
    const stranger = makeAuthority(folder, 'stranger');
    const certificates = {
      right: makeCertificate(folder, 'right', authority, 'IP:127.0.0.1'),
      'for-another': makeCertificate(folder, 'for-another', authority, 'DNS:example.com,IP:10.0.0.1'),
      expired: makeCertificate(folder, 'expired', authority, 'IP:127.0.0.1', -1),
      'by-a-stranger': makeCertificate(folder, 'by-a-stranger', stranger, 'IP:127.0.0.1'),
      'by-itself': { ...stranger },
    };
    const heard = {};
    const urls = {};
    for (const [name, { certificate, key }] of Object.entries(certificates)) {
      heard[name] = 0;
      const https = createHttpsServer({ cert: readFileSync(certificate), key: readFileSync(key) }, (request, response) => {
        heard[name] += 1;
        request.resume();
        response.writeHead(204).end();
      });
      https.on('tlsClientError', () => {});
      https.listen(0, '127.0.0.1');
      await once(https, 'listening');
      t.after(() => https.close());
      t.after(() => https.closeAllConnections());
      urls[name] = `https://127.0.0.1:${https.address().port}/hook`;
    }
    const plain = await rawReceiver(t, (socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'));
    const gibberish = await rawReceiver(t, () => {});
    urls['no-tls-at-all'] = plain.url.replace('http:', 'https:');
    urls['tls-that-never-comes'] = gibberish.url.replace('http:', 'https:');
    urls['plain-to-tls'] = urls.right.replace('https:', 'http:');

    // The certificates that the machine trusts, as an operator with a private CA would configure them.
    process.env.SSL_CERT_FILE = authority.certificate;
    t.after(() => delete process.env.SSL_CERT_FILE);
    const { told } = await serve(t, urls);
    for (const name of Object.keys(urls)) {
      const { state, attempts: [first] } = await told(name);
      const say = `${name}: ${JSON.stringify(first)}`;
      if (name === 'right') {
        assert.deepEqual([state, first.status, heard.right], ['succeeded', 204, 1], say);
        continue;
      }
      assert.notEqual(state, 'succeeded', say);
      if (name in certificates) {
        assert.deepEqual([first.error, heard[name]], ['tls', 0], say);
        assert.match(first.note, WHY[name]);
      } else {
        assert.ok(['timeout', 'reset', 'tls'].includes(first.error), say);
      }
    }
    assert.equal(plain.requests.length + gibberish.requests.length, 0, 'nothing is sent in the clear instead');
  });
});

function drip(socket, text, everyMs) {
  let sent = 0;
  const timer = setInterval(() => {
    if (socket.destroyed || sent === text.length) return clearInterval(timer);
    socket.write(text[sent]);
    sent += 1;
  }, everyMs);
}

/** Sends the same text repeatedly, until the other side ends the connection. */
function repeat(socket, text, everyMs, first = '') {
  socket.write(first);
  const timer = setInterval(() => {
    if (socket.destroyed) return clearInterval(timer);
    socket.write(text);
  }, everyMs);
  socket.on('close', () => clearInterval(timer));
}

function openssl(...args) {
  execFileSync('openssl', args, { stdio: ['ignore', 'ignore', 'pipe'] });
}

function makeAuthority(folder, name) {
  const [certificate, key] = [join(folder, `${name}.pem`), join(folder, `${name}.key`)];
  openssl('req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2', '-subj', `/CN=${name}`,
    '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', key, '-out', certificate);
  return { certificate, key };
}

/** Makes a certificate that ends `days` from now; with -1 it has ended already. */
function makeCertificate(folder, name, authority, names, days = 2) {
  const [certificate, key, asked, extensions] = ['pem', 'key', 'csr', 'ext'].map((end) => join(folder, `${name}.${end}`));
  openssl('req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-subj', `/CN=${name}`, '-keyout', key, '-out', asked);
  writeFileSync(extensions, `subjectAltName=${names}\n`);
  openssl('x509', '-req', '-in', asked, '-CA', authority.certificate, '-CAkey', authority.key, '-CAcreateserial', '-days', String(days),
    '-extfile', extensions, '-out', certificate);
  return { certificate, key };
}
