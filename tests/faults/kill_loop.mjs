// Kills the server at random moments during random small uploads, and proves that nothing it acknowledged is lost.
//     node tests/faults/kill_loop.mjs [--rounds 25] [--seed N] [--uploads 8]
//
// A round is one `kill -9` (sometimes of a server that has not finished starting) and one restart. During all rounds no
// acknowledged offset falls, and the stored bytes below it are those that were sent. At the end every upload is
// completed, terminated or expired as its client wanted, downloads are right, the events of every upload are gapless
// and in order, each has reached both receivers, and no file is left that no existing upload owns.

import assert from 'node:assert/strict';
import { open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { deliveries, download, events, head, list } from '../clients/harness/api.mjs';
import { digestOf, noise, random } from '../clients/harness/bytes.mjs';
import { Receiver } from '../clients/harness/receiver.mjs';
import { Schemas } from '../clients/harness/schemas.mjs';
import { Server } from '../clients/harness/server.mjs';
import { sleep, until } from '../clients/harness/until.mjs';
import { eventId } from './event_ids.mjs';
import { assertEventsArrived, assertStory } from './stories.mjs';
import { KINDS, RawUpload, concatenate } from './raw_upload.mjs';

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '25' },
    uploads: { type: 'string', default: '8' },
    seed: { type: 'string', default: String(Date.now() % 2 ** 31) },
  },
});
const ROUNDS = Number(options.rounds);
const UPLOADS_AT_ONCE = Number(options.uploads);
const SEED = Number(options.seed);

/** Longer than any upload here is idle while its client still wants it. */
const EXPIRY_S = 30;

const UUID_LENGTH = 36;

console.log(`kill loop: ${ROUNDS} rounds, ${UPLOADS_AT_ONCE} uploads at once, --seed ${SEED}`);

const receivers = { all: await Receiver.start(), plain: await Receiver.start() };
const server = await Server.start({
  name: 'kill-loop',
  config: {
    limits: { unfinished_expiry: `${EXPIRY_S}s`, sweep_every: '500ms', stall_after: '2s' },
    storage: { checkpoint_every: '100ms', checkpoint_size: '256KiB' },
    webhooks: {
      timeout: '1s',
      connect_timeout: '1s',
      lease: '6s',
      retry_schedule: Array(50).fill('1s'),
      retry_jitter_percent: 0,
      progress_every: '1s',
      progress_min_size: '64KiB',
      endpoints: [receivers.all.endpoint({ name: 'all', events: ['*'] }), receivers.plain.endpoint({ name: 'plain' })],
    },
  },
});

const world = {
  target: () => server.port,
  retried: [423, 503],
  patience: 10_000,
  random: random(SEED),
  counts: { acknowledgements: 0, resumed: 0, lost: 0, conflicts: 0, compared: 0 },
  /** Every upload whose URL a client has learned: its outcome by id. */
  known: new Map(),
  /** The bytes of every story, by the number in the metadata: also for uploads whose URL was lost on its way. */
  bytes: new Map(),
  born(upload) {
    this.known.set(upload.id, upload);
  },
  check: compareStoredBytes,
};

/**
 * Returns all files below the data folder that hold bytes of uploads, as `{folder, id, path}`. Their names begin with
 * the id.
 */
async function storedFiles() {
  const found = [];
  for (const folder of ['incoming', 'files']) {
    const entries = await readdir(join(server.dataDir, folder), { recursive: true, withFileTypes: true }).catch((error) => {
      if (error.code === 'ENOENT') return [];
      throw error;
    });
    for (const entry of entries) {
      if (entry.isDirectory()) continue;
      const path = join(entry.parentPath ?? entry.path, entry.name);
      found.push({ folder, id: entry.name.slice(0, UUID_LENGTH), path });
    }
  }
  return found;
}

/** Checks that the file of an upload begins with the first `offset` of `bytes`. */
async function compareStoredBytes(id, bytes, offset) {
  if (offset === 0) return;
  const file = (await storedFiles()).find((stored) => stored.id === id);
  if (!file) return; // The file is being moved to its final place; the download at the end compares it.
  let handle;
  try {
    handle = await open(file.path);
  } catch (error) {
    if (error.code === 'ENOENT') return;
    throw error;
  }
  try {
    const stored = Buffer.alloc(offset);
    const { bytesRead } = await handle.read(stored, 0, offset, 0);
    assert.equal(bytesRead, offset, `${id}: the file is shorter than its offset`);
    assert.ok(stored.equals(bytes.subarray(0, offset)), `${id}: wrong bytes below offset ${offset}`);
    world.counts.compared += 1;
  } finally {
    await handle.close();
  }
}

/** Runs one upload from creation to the end that its client wants. `number` identifies it later on the server. */
async function liveAStory(number) {
  const { random: dice } = world;
  const bytes = noise(dice.chance(0.1) ? dice.between(0, 3) : dice.between(1, 600_000), number);
  world.bytes.set(number, bytes);
  const metadata = { story: String(number), filename: `story-${number}.bin`, filetype: 'application/octet-stream' };
  if (dice.chance(0.15)) return joinParts(number, bytes, metadata);

  const upload = new RawUpload(world, bytes, { kind: dice.pick(KINDS), metadata });
  const fate = dice.unit();
  if (fate < 0.7) {
    await upload.send();
    upload.wanted = 'completed';
    if (dice.chance(0.1)) {
      await upload.terminate();
      upload.wanted = 'terminated';
    }
  } else {
    await upload.send(dice.between(1, Math.max(1, bytes.length >> 1)));
    if (upload.isFull) upload.wanted = 'completed';
    else if (fate < 0.85) {
      await upload.terminate();
      upload.wanted = 'terminated';
    } else upload.wanted = 'expired';
  }
}

async function joinParts(number, bytes, metadata) {
  const cuts = [0, bytes.length >> 2, bytes.length >> 1, bytes.length];
  const parts = cuts.slice(1).map((end, i) => {
    const part = { story: String(number), part: String(i) };
    return new RawUpload(world, bytes.subarray(cuts[i], end), { kind: 'plain', metadata: part, concat: 'partial' });
  });
  await Promise.all(parts.map((part) => part.send()));
  for (const part of parts) part.wanted = 'expired';
  const url = await concatenate(world, parts, metadata);
  world.known.set(url.split('/').pop(), { wanted: 'completed' });
}

// The kills.

let stories = 0;
let failure;
const living = new Set();
function keepBusy() {
  while (living.size < UPLOADS_AT_ONCE && !failure) {
    const number = (stories += 1);
    const story = liveAStory(number)
      .catch((error) => (failure ??= new Error(`story ${number} failed`, { cause: error })))
      .finally(() => living.delete(story));
    living.add(story);
  }
}

const started = Date.now();
let earlyKills = 0;
for (let round = 1; round <= ROUNDS && !failure; round += 1) {
  const { random: dice } = world;
  for (const end = Date.now() + (dice.chance(0.2) ? dice.between(0, 30) : dice.between(50, 900)); Date.now() < end; ) {
    keepBusy();
    await sleep(10);
  }
  await server.kill();
  if (dice.chance(0.25)) {
    server.launch();
    await sleep(dice.between(0, 120));
    await server.kill();
    earlyKills += 1;
  }
  await sleep(dice.between(0, 50));
  await server.restart();
  if (round % 25 === 0 || round === ROUNDS) {
    const seconds = ((Date.now() - started) / 1000).toFixed(0);
    console.log(`  round ${round} after ${seconds} s: ${stories} uploads begun, ${JSON.stringify(world.counts)}`);
  }
}
while (living.size && !failure) await Promise.race(living);
if (failure) await giveUp(failure);

// The final checks.

try {
  const settled = (upload) => ['completed', 'terminated', 'expired', 'failed'].includes(upload.stage);
  console.log(`  waiting up to ${EXPIRY_S} s for abandoned uploads to expire`);
  const uploads = await until(
    'every upload to settle',
    async () => {
      const all = await list(server, 'limit=500');
      return all.every(settled) && all;
    },
    { timeout: (EXPIRY_S + 30) * 1000, every: 500 },
  );
  await assertUploads(uploads);
  const told = await assertEvents(uploads);
  await assertNoLeftovers(uploads);

  assert.deepEqual(await server.stop(), { code: 0, signal: null }, 'an orderly stop');
  await server.restart();
  const facts = ({ id, stage, offset, digests }) => ({ id, stage, offset, digests });
  assert.deepEqual((await list(server, 'limit=500')).map(facts), uploads.map(facts), 'a restart changes nothing');

  const stages = Object.entries(groupBy(uploads, 'stage'));
  console.log(`  killed ${ROUNDS} times, and ${earlyKills} times while starting; ${JSON.stringify(world.counts)}`);
  console.log(`  uploads: ${stages.map(([stage, these]) => `${these.length} ${stage}`).join(', ')}`);
  console.log(`  events: ${told.events} gapless, ${told.arrived} arrivals verified, ${told.again} of them duplicates`);
} catch (error) {
  await giveUp(error);
}
await server.dispose();
await Promise.all(Object.values(receivers).map((receiver) => receiver.down()));
console.log('kill loop: passed');

function groupBy(items, field) {
  const groups = {};
  for (const item of items) (groups[item[field]] ??= []).push(item);
  return groups;
}

/** Asserts that every upload ended as its client wanted, and that completed ones contain the bytes that were sent. */
async function assertUploads(uploads) {
  const found = new Map(uploads.map((upload) => [upload.id, upload]));
  for (const id of world.known.keys()) assert.ok(found.has(id), `${id} was acknowledged and is gone`);
  for (const upload of uploads) {
    // A client does not know an upload whose creation was never answered: it may have expired, be complete, or have
    // failed as a concatenation that was interrupted and requested again.
    const wanted = world.known.get(upload.id)?.wanted;
    if (wanted) assert.equal(upload.stage, wanted, `${upload.id} (${JSON.stringify(upload)})`);
    else if (upload.stage === 'failed') assert.equal(upload.error.code, 'concatenation-failed', upload.id);
    else assert.ok(['completed', 'expired'].includes(upload.stage), `${upload.id} is ${upload.stage}`);

    const url = `${server.endpoint}/${upload.id}`;
    if (upload.stage !== 'completed') {
      assert.ok([404, 410].includes((await head(url)).status), `${upload.id} is ${upload.stage} and still answers`);
      continue;
    }
    const source = digestOf(world.bytes.get(Number(upload.metadata.story)));
    assert.deepEqual(await download(url), source, upload.id);
    assert.equal(upload.digests.crc32c, source.crc32c);
  }
}

/**
 * Asserts that every upload's events form one valid story without a gap, and that all of them reached both receivers.
 */
async function assertEvents(uploads) {
  const undelivered = (delivery) => !['succeeded', 'superseded'].includes(delivery.state);
  const all = await until(
    'every event to be delivered',
    async () => {
      const found = await deliveries(server, 'limit=500');
      return !found.some(undelivered) && found;
    },
    { timeout: 60_000, every: 500 },
  );
  const told = { events: 0, arrived: 0, again: 0 };
  const byUpload = groupBy(all, 'upload_id');
  const arrived = {
    all: groupBy(receivers.all.accepted(), 'uploadId'),
    plain: groupBy(receivers.plain.accepted(), 'uploadId'),
  };
  for (const upload of uploads) {
    const log = byUpload[upload.id].filter(({ endpoint }) => endpoint === 'all').sort((a, b) => a.sequence - b.sequence);
    assertStory(upload, log);
    assertEventsArrived(log, arrived.all[upload.id], upload.id);
    const plain = byUpload[upload.id].filter(({ endpoint }) => endpoint === 'plain');
    assertEventsArrived(plain, arrived.plain[upload.id], upload.id);
    told.events += log.length;
  }
  const schemas = await Schemas.of(server);
  for (const [name, receiver] of Object.entries(receivers)) {
    assert.deepEqual(receiver.refused, [], `every delivery to ${name} is verified`);
    for (const { event } of receiver.accepted()) schemas.check(event);
    told.arrived += receiver.requests.length;
    told.again += receiver.requests.length - receiver.accepted().length;
  }
  for (const upload of uploads.slice(0, 20)) {
    const replayed = [];
    const url = `${server.url}/api/v1/uploads/${upload.id}/events`;
    const lastEventId = await eventId(server.dataDir, upload.id, 0);
    for await (const { data } of events(url, { lastEventId })) replayed.push(data.data.sequence);
    assert.deepEqual(replayed, replayed.map((_, i) => i + 1), `${upload.id}: the replayed events have a gap`);
    assert.equal(replayed.length, byUpload[upload.id].filter(({ endpoint }) => endpoint === 'all').length);
  }
  return told;
}

/** Asserts that each completed upload has its only file, and that there is no other file. */
async function assertNoLeftovers(uploads) {
  const owners = new Set(uploads.filter(({ stage }) => stage === 'completed').map(({ id }) => id));
  const files = await storedFiles();
  const inFiles = files.filter(({ folder }) => folder === 'files');
  assert.deepEqual(files.filter(({ folder }) => folder === 'incoming'), [], 'files left in incoming/');
  for (const { id, path } of inFiles) assert.ok(owners.has(id), `${path} belongs to no living upload`);
  const filled = uploads.filter(({ stage, length }) => stage === 'completed' && length > 0);
  assert.ok(inFiles.length >= filled.length, 'each completed upload has its file');
}

async function giveUp(error) {
  console.error(error);
  console.error(`kill loop: FAILED; repeat with --seed ${SEED}; the server's log and data are kept in ${server.folder}`);
  await server.kill();
  process.exit(1);
}
