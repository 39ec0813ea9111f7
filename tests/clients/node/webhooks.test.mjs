// Webhooks as receivers see them: verified by the libraries of npm, and by node's own cryptography where those lack
// support; bodies are validated against the schemas that the server serves.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { TUS, administer, administered, deliveries, head, idOf } from '../harness/api.mjs';
import { noise } from '../harness/bytes.mjs';
import { Receiver, newSecret } from '../harness/receiver.mjs';
import { Schemas } from '../harness/schemas.mjs';
import { Server } from '../harness/server.mjs';
import { until } from '../harness/until.mjs';
import { HMAC, anyOf, ed25519 } from '../harness/verifiers.mjs';
import { uploadAll } from './client.mjs';

const bytes = noise(100_000, 7);
const PATCH = { ...TUS, 'Content-Type': 'application/offset+octet-stream' };
const LIBRARIES = Object.keys(HMAC);
const UPLOADED = ['created', 'receiving', 'received', 'verified', 'stored', 'completed'].map((stage) => `upload.${stage}`);

/** The first bytes of these formats. */
const GIF = Buffer.from('GIF89a');
const PNG = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);

/** Receivers of these tests are on loopback, which the API permits only with this setting. */
const webhooks = { allow_networks: ['127.0.0.0/8'], progress_every: '1s', progress_min_size: '1B', retry_schedule: ['1s'], retry_jitter_percent: 0 };

/** Creates an endpoint through the API for a receiver that accepts everything; also returns the received requests. */
async function listening(server, t, terms = {}) {
  const receiver = await Receiver.start({ t, verify: (body) => JSON.parse(body) });
  const endpoint = await administered(server, 'POST', '/endpoints', { url: receiver.url, ...terms });
  return { receiver, endpoint };
}

async function uploadHeardBy(server, receiver) {
  const id = idOf(await uploadAll(bytes, { endpoint: server.endpoint }));
  await receiver.hear('upload.completed', id);
  return receiver.accepted(id);
}

/** Asserts that the verifier accepts the signed message and rejects every change of it. */
function assertTamperProof(verify, { body, headers }, what) {
  assert.deepEqual(verify(body, headers), JSON.parse(body), what);
  const refuses = (changedBody, changed, how) => {
    const said = { ...headers, ...changed };
    assert.throws(() => verify(changedBody, said), `${what} accepts ${how}: ${JSON.stringify(said)}`);
  };
  for (const at of [0, body.length >> 1, body.length - 1]) {
    const changed = body.slice(0, at) + String.fromCharCode(body.charCodeAt(at) ^ 1) + body.slice(at + 1);
    refuses(changed, {}, `byte ${at} being another`);
  }
  refuses(`${body} `, {}, 'a byte more');
  refuses(body.slice(0, -1), {}, 'a byte less');
  refuses(body, { 'webhook-id': `${headers['webhook-id'].slice(0, -1)}x` }, 'another id');
  const signedAt = Number(headers['webhook-timestamp']);
  refuses(body, { 'webhook-timestamp': String(signedAt + 1) }, 'another time');
  refuses(body, { 'webhook-timestamp': String(signedAt - 301) }, 'an old time');
  refuses(body, { 'webhook-signature': headers['webhook-signature'].replaceAll(/,./g, (two) => (two === ',A' ? ',B' : ',A')) }, 'another signature');
}

/** Returns all orders of a short list. */
function orders(list) {
  if (list.length < 2) return [list];
  return list.flatMap((first, i) => orders(list.toSpliced(i, 1)).map((rest) => [first, ...rest]));
}

const signatures = ({ headers }) => headers['webhook-signature'].split(' ');
const versions = (entry) => signatures(entry).map((signature) => signature.split(',')[0]);

describe('signatures', () => {
  test('of every event of an upload are verified by each library, and nothing can be changed', async (t) => {
    const server = await Server.start({ name: 'signed', t, config: { webhooks } });
    const { receiver, endpoint } = await listening(server, t);
    const heard = await uploadHeardBy(server, receiver);
    assert.deepEqual(heard.map(({ type }) => type), UPLOADED);
    for (const library of LIBRARIES) {
      const verify = HMAC[library](endpoint.secret);
      for (const entry of heard) assertTamperProof(verify, entry, `${library}, ${entry.type}`);
      const stranger = HMAC[library](newSecret());
      assert.throws(() => stranger(heard[0].body, heard[0].headers), `${library} with another secret`);
    }
    for (const { headers, body } of heard) {
      assert.match(headers['webhook-id'], /^evt_[0-9a-f-]{36}$/);
      assert.match(headers['webhook-timestamp'], /^\d+$/);
      assert.equal(Number(headers['content-length']), Buffer.byteLength(body));
      assert.equal(headers['content-encoding'], undefined);
    }
  });

  test('by ed25519 are verified by node with the public key that is shown at any time', async (t) => {
    const server = await Server.start({ name: 'ed25519', t, config: { webhooks } });
    const { receiver, endpoint } = await listening(server, t, { id: 'asymmetric', signing: 'ed25519' });
    const heard = await uploadHeardBy(server, receiver);
    const shown = await administered(server, 'GET', '/endpoints/asymmetric');
    assert.equal(shown.secret, undefined);
    const { public_key: publicKey } = shown.keys.find(({ kind }) => kind === 'ed25519');
    assert.equal(publicKey, endpoint.public_key);
    for (const entry of heard) {
      assert.deepEqual(versions(entry), ['v1a']);
      assertTamperProof(ed25519(publicKey), entry, `ed25519, ${entry.type}`);
    }
    for (const library of LIBRARIES) {
      const verify = HMAC[library](newSecret());
      assert.throws(() => verify(heard[0].body, heard[0].headers), `${library} has no business with these`);
    }
  });

  test('by both are accepted by those who know one, in whichever order they stand', async (t) => {
    const server = await Server.start({ name: 'both', t, config: { webhooks } });
    const { receiver, endpoint } = await listening(server, t, { signing: 'both' });
    const heard = await uploadHeardBy(server, receiver);
    const verifiers = LIBRARIES.map((library) => [library, HMAC[library](endpoint.secret)]);
    verifiers.push(['ed25519', ed25519(endpoint.public_key)]);
    for (const entry of heard) {
      assert.deepEqual(versions(entry).sort(), ['v1', 'v1a']);
      for (const [name, verify] of verifiers) assertTamperProof(verify, entry, `${name} of both, ${entry.type}`);
      for (const order of orders([...signatures(entry), 'v9,c3RyYW5nZXI='])) {
        const headers = { ...entry.headers, 'webhook-signature': order.join(' ') };
        for (const [name, verify] of verifiers) {
          assert.deepEqual(verify(entry.body, headers), entry.event, `${name}: ${headers['webhook-signature']}`);
        }
      }
    }
  });

  test('of the old and of the new secret are there while a rotation overlaps, and of the new alone after that', async (t) => {
    const server = await Server.start({ name: 'rotation', t, config: { webhooks } });
    const { receiver, endpoint } = await listening(server, t, { id: 'rotated', signing: 'both' });
    const rotate = (body) => administered(server, 'POST', '/endpoints/rotated/rotate', body);
    const accepted = (entry, secret, library) => {
      try {
        HMAC[library](secret)(entry.body, entry.headers);
        return true;
      } catch {
        return false;
      }
    };
    const first = endpoint.secret;
    const { secret: second } = await rotate({ kind: 'hmac', overlap_ms: 60_000 });
    assert.notEqual(second, first);
    const renewed = await rotate({ kind: 'ed25519', overlap_ms: 60_000 });
    for (const entry of await uploadHeardBy(server, receiver)) {
      assert.equal(signatures(entry).length, 4);
      for (const library of LIBRARIES) {
        for (const secret of [first, second]) assertTamperProof(HMAC[library](secret), entry, `${library} in a rotation`);
        assert.ok(!accepted(entry, newSecret(), library));
      }
      for (const key of [endpoint.public_key, renewed.public_key]) assertTamperProof(ed25519(key), entry, 'ed25519 in a rotation');
    }

    const { secret: third } = await rotate({ kind: 'hmac', overlap_ms: 0 });
    for (const entry of await uploadHeardBy(server, receiver)) {
      for (const library of LIBRARIES) {
        assert.ok(accepted(entry, third, library) && accepted(entry, first, library));
        assert.ok(!accepted(entry, second, library), 'replaced at once');
      }
    }
    const shortly = await rotate({ kind: 'hmac', overlap_ms: 1500 });
    await until('the overlap to end', async () => {
      const heard = await uploadHeardBy(server, receiver);
      assert.ok(heard.every((entry) => LIBRARIES.every((library) => accepted(entry, shortly.secret, library))));
      return heard.every((entry) => LIBRARIES.every((library) => !accepted(entry, third, library)));
    });
  });

  test('are of the time of each attempt, over a body and an id that stay', async (t) => {
    const server = await Server.start({ name: 'again', t, config: { webhooks: { ...webhooks, retry_schedule: Array(5).fill('1s') } } });
    const { receiver, endpoint } = await listening(server, t, { events: ['upload.completed'] });
    receiver.behave(({ attempt }) => (attempt < 3 ? 503 : 200));
    await uploadHeardBy(server, receiver);
    assert.deepEqual(receiver.requests.map(({ attempt }) => attempt), [1, 2, 3]);
    const each = (of) => new Set(receiver.requests.map(of)).size;
    assert.equal(each(({ id }) => id), 1);
    assert.equal(each(({ body }) => body), 1);
    assert.equal(each(({ headers }) => headers['webhook-timestamp']), 3);
    assert.equal(each(({ headers }) => headers['webhook-signature']), 3);
    for (const library of LIBRARIES) {
      for (const entry of receiver.requests) assertTamperProof(HMAC[library](endpoint.secret), entry, library);
    }
  });
});

describe('bodies', () => {
  test('of every type are as their schema says, in full and thin', async (t) => {
    const config = {
      limits: { stall_after: '1s', unfinished_expiry: '4s', sweep_every: '500ms' },
      media: { allowed_types: ['application/octet-stream', 'text/plain', 'image/gif'] },
      webhooks: { ...webhooks, endpoints: [] },
    };
    // One is defined in the configuration, the other is created through the API.
    const receiver = await Receiver.start({ t, verify: (body) => JSON.parse(body) });
    const full = { receiver, endpoint: { id: 'full', secret: receiver.secret } };
    config.webhooks.endpoints.push(receiver.endpoint({ name: 'full', events: ['*'] }));
    const server = await Server.start({ name: 'schemas', t, config });
    const schemas = await Schemas.of(server);
    const thin = await listening(server, t, { id: 'thin', events: ['*'], payload: 'thin' });

    await everyEndOfAnUpload(server, full.receiver);
    await newsOfSending(server, t);
    await Promise.all([full, thin].map(({ endpoint }) => administered(server, 'POST', `/endpoints/${endpoint.id}/test`)));

    // The requests of hooks go elsewhere, and the other event occurs only after a failure that lasts for half an hour
    // or more.
    const unheard = (type) => type.startsWith('hook.') || type === 'endpoint.failing';
    const expected = schemas.types.filter((type) => !unheard(type)).sort();
    for (const { receiver, endpoint } of [full, thin]) {
      await until(
        `${endpoint.id} to have heard of everything: ${expected.filter((type) => !receiver.types().includes(type))}`,
        () => expected.every((type) => receiver.types().includes(type)),
      );
      assert.deepEqual([...new Set(receiver.types())].sort(), expected, 'and of nothing else');
      const verify = anyOf(LIBRARIES.map((library) => HMAC[library](endpoint.secret)));
      for (const entry of receiver.requests) {
        schemas.check(verify(entry.body, entry.headers));
        assert.equal(entry.headers['webhook-event-type'], entry.type);
        assert.ok(entry.body.length <= 20_000, `${entry.type} has ${entry.body.length} bytes`);
      }
    }
    const ofUpload = ({ type }) => type.startsWith('upload.');
    const THIN = ['upload_id', 'sequence', 'stage', 'offset', 'length', 'url'];
    for (const { event, body } of thin.receiver.requests.filter(ofUpload)) {
      assert.deepEqual(Object.keys(event.data), THIN);
      const inFull = full.receiver.requests.find(({ id }) => id === event.id)?.event;
      if (inFull) assert.deepEqual(event.data, Object.fromEntries(THIN.map((name) => [name, inFull.data[name]])), body);
      const told = await fetch(new URL(event.data.url, server.url));
      assert.equal((await told.json()).id, event.data.upload_id, 'the rest is told there');
    }
    for (const entry of full.receiver.accepted().filter(ofUpload)) {
      const other = thin.receiver.accepted(entry.uploadId).find(({ id }) => id === entry.id);
      if (entry.type !== 'upload.progress') assert.ok(other, `${entry.type} has one id at every endpoint`);
    }
  });

  test('of progress come to an endpoint that was made while the server ran', async (t) => {
    const server = await Server.start({ name: 'progress', t, config: { webhooks } });
    const schemas = await Schemas.of(server);
    const { receiver } = await listening(server, t, { events: ['upload.progress'] });
    const url = await create(server, 100);
    await tellProgress(server, url, receiver);
    schemas.check(receiver.requests[0].event);
  });

  test('that are not as they should be are told apart by the schemas', async (t) => {
    const server = await Server.start({ name: 'strict', t, config: { webhooks } });
    const schemas = await Schemas.of(server);
    const { receiver } = await listening(server, t);
    const heard = await uploadHeardBy(server, receiver);
    const { event } = heard.at(-1);
    schemas.check(event);
    const { data } = event;
    for (const wrong of [
      { ...event, timestamp: 'yesterday' },
      { ...event, data: { ...data, stage: 'stored' } },
      { ...event, data: { ...data, offset: -1 } },
      { ...event, data: { ...data, length: null } },
      { ...event, data: { ...data, sequence: 0 } },
      { ...event, data: { ...data, upload_id: 'x' } },
      { ...event, data: { ...data, digests: undefined } },
      { type: event.type, data },
    ]) {
      const sent = JSON.parse(JSON.stringify(wrong));
      assert.ok(schemas.errors(sent), `no fault is found with ${JSON.stringify(sent)}`);
    }
  });
});

async function create(server, length, headers = {}) {
  const answer = await fetch(server.endpoint, { method: 'POST', headers: { ...TUS, 'Upload-Length': String(length), ...headers } });
  assert.equal(answer.status, 201);
  return new URL(answer.headers.get('location'), server.url).href;
}

function patch(url, offset, body) {
  return fetch(url, { method: 'PATCH', headers: { ...PATCH, 'Upload-Offset': String(offset) }, body });
}

/**
 * Sends a byte from time to time until progress is delivered, which happens once per second and only while no newer
 * event supersedes it.
 */
async function tellProgress(server, url, receiver) {
  await until('progress to be told', async () => {
    const { offset } = await head(url);
    if (offset < 60) await patch(url, offset, bytes.subarray(offset, offset + 1));
    return receiver.types(idOf(url)).includes('upload.progress');
  }, { every: 300 });
}

/**
 * One upload that stalls, resumes, completes, is processed by a backend and deleted; others that fail, expire or lose
 * their file.
 */
async function everyEndOfAnUpload(server, receiver) {
  const name = `${Buffer.from('Übung.bin').toString('base64')}`;
  const long = await create(server, 100, { 'Upload-Metadata': `filename ${name},raw ${Buffer.from([255, 0]).toString('base64')},empty` });
  const told = (type) => receiver.hear(type, idOf(long));
  await patch(long, 0, bytes.subarray(0, 10));
  await told('upload.receiving');
  await tellProgress(server, long, receiver);
  await told('upload.stalled');
  const { offset } = await head(long);
  await patch(long, offset, bytes.subarray(offset, 70));
  await told('upload.resumed');
  await patch(long, 70, bytes.subarray(70, 100));
  const { headers } = await told('upload.completed');
  const reported = await fetch(`${server.url}/api/v1/uploads/${idOf(long)}/stages`, {
    method: 'POST',
    headers: { Authorization: `Bearer ${headers['webhook-stage-token']}`, 'Content-Type': 'application/json' },
    body: JSON.stringify({ name: 'transcoding', percent: 40, message: '720p' }),
  });
  assert.equal(reported.status, 200);
  await told('upload.processing');
  assert.equal((await fetch(long, { method: 'DELETE', headers: TUS })).status, 204);
  await told('upload.terminated');

  const broken = await create(server, 5, { 'Repr-Digest': `sha-256=:${Buffer.alloc(32).toString('base64')}:` });
  assert.ok((await patch(broken, 0, bytes.subarray(0, 5))).status >= 400);
  const forgotten = await create(server, 5);
  await patch(forgotten, 0, bytes.subarray(0, 2));
  // In JSON each of these bytes takes six, so together they exceed the limit of an event.
  const large = Buffer.alloc(5500, 1).toString('base64');
  const talkative = await create(server, 5, { 'Upload-Metadata': `large ${large}` });
  await patch(talkative, 0, bytes.subarray(0, 5));
  // The detected content type is reported, and content that the server is not for is rejected.
  const [gif, png] = [GIF, PNG].map((start) => Buffer.concat([start, Buffer.alloc(100)]));
  const [liked, disliked] = [await create(server, gif.length), await create(server, png.length)];
  await patch(liked, 0, gif);
  await patch(disliked, 0, png);
  const verified = await receiver.hear('upload.verified', idOf(liked));
  assert.equal(verified.event.data.facts.content_type, 'image/gif');
  await receiver.hear('upload.completed', idOf(liked));
  assert.equal((await fetch(`${server.url}/api/v1/uploads/${idOf(liked)}`, { method: 'DELETE' })).status, 204);
  const removed = await receiver.hear('upload.removed', idOf(liked));
  assert.equal(removed.event.data.by, 'operator');
  const refused = await receiver.hear('upload.failed', idOf(disliked));
  assert.equal(refused.event.data.error.code, 'type-not-allowed');
  await receiver.hear('upload.failed', idOf(broken));
  await receiver.hear('upload.expired', idOf(forgotten));
  const { event } = await receiver.hear('upload.completed', idOf(talkative));
  assert.equal(event.data.truncated, true);
}

/** A delivery that fails, and an endpoint that is gone. */
async function newsOfSending(server, t) {
  const hopeless = await listening(server, t, { id: 'hopeless', events: ['upload.created'], retry_schedule_ms: [1000] });
  hopeless.receiver.behave(500);
  const gone = await listening(server, t, { id: 'gone', events: ['upload.created'] });
  gone.receiver.behave(410);
  await create(server, 1);
  await until('a delivery to be given up', async () => (await deliveries(server, 'endpoint=hopeless&state=dead')).length > 0);
  const shown = await until('an endpoint to be disabled', async () => {
    const { body } = await administer(server, 'GET', '/endpoints/gone');
    return body.state === 'disabled' && body;
  });
  assert.equal(shown.state_reason, 'gone');
}
