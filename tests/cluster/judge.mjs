// Compares what clients, receivers and followers saw with the log of events and the stored bytes.

import assert from 'node:assert/strict';
import { deliveries, download, head, status } from '../clients/harness/api.mjs';
import { digestOf } from '../clients/harness/bytes.mjs';
import { until } from '../clients/harness/until.mjs';
import { assertEventsArrived, assertStory } from '../faults/stories.mjs';
import { inParallel } from './parallel.mjs';

/** Uploads that are read at once. */
const AT_ONCE = 8;

/**
 * Asserts that nothing acknowledged is lost: every upload that a client knows ended as it wanted, with its bytes, at
 * every node; each has one valid story of events in the database, whose offsets never fall; the receiver got all of
 * them, verified and in order; and the follower saw each once and in order. Without a receiver or a follower, what it
 * saw is not judged. `crowd.known` has, by id, how each upload ended (`wanted`), and its `bytes` or their digests
 * (`source`). With `mayLackAttempts`, the database has lost records of webhooks that were sent. `clock` is that of the
 * machine: if it was set, the times of webhooks are not compared.
 */
export async function judge({ database, nodes, crowd, receiver, follower, mayLackAttempts, clock }) {
  const working = nodes.filter((node) => node.running);
  await assertUploads(working, crowd);
  const stories = await storiesOf(database);
  for (const [id, upload] of crowd.known) {
    const story = stories.get(id) ?? assert.fail(`${id} was acknowledged and has no events`);
    const stage = upload.wanted ?? (await status(working[0], id)).stage;
    assertStory({ id, stage }, story);
    assertOffsetsGrow(id, story);
  }
  if (receiver) {
    const clocks = clock.wasSet() ? 'unreliable' : 'several';
    await assertDelivered(working[0], crowd, receiver, { mayLackAttempts, clocks });
  }
  if (follower) await assertFollowed(follower, stories, crowd);
}

async function assertUploads(nodes, crowd) {
  let turn = 0;
  await inParallel(crowd.known, AT_ONCE, async ([id, upload]) => {
    const node = nodes[(turn += 1) % nodes.length];
    const url = `${node.endpoint}/${id}`;
    if (upload.wanted === 'terminated') {
      assert.ok([404, 410].includes((await head(url)).status), `${id} was terminated and is still there`);
      return;
    }
    const source = upload.source ?? digestOf(upload.bytes);
    for (const each of nodes) {
      const { status: code, offset } = await head(`${each.endpoint}/${id}`);
      assert.deepEqual([code, offset], [200, source.size], `HEAD of ${id} at ${each.name}`);
    }
    assert.deepEqual(await download(url), source, `the bytes of ${id} at ${node.name}`);
    assert.equal((await status(node, id)).digests.crc32c, source.crc32c);
  });
}

/** Returns the events of each upload, in order: `{sequence, type, offset}`. */
async function storiesOf(database) {
  const rows = await database.query(`
    SELECT upload_id AS id, sequence, kind AS type, (body::json -> 'data' ->> 'offset')::bigint AS offset
    FROM events WHERE upload_id IS NOT NULL ORDER BY upload_id, sequence`);
  return byKey(rows, 'id');
}

function assertOffsetsGrow(id, story) {
  for (const [i, { offset, type }] of story.entries()) {
    const before = story[i - 1]?.offset ?? 0;
    assert.ok(offset >= before, `${id}: offset ${offset} in ${type} after ${before}`);
  }
}

/** Asserts that the receiver got every event, verified, in order of the first attempts. */
async function assertDelivered(node, crowd, receiver, reliability) {
  const unfinished = ({ state }) => !['succeeded', 'superseded'].includes(state);
  const all = await until(
    'every event to be delivered',
    async () => {
      const found = await deliveries(node, 'limit=500');
      return !found.some(unfinished) && found;
    },
    { timeout: 60_000, every: 500 },
  );
  assert.deepEqual(receiver.refused, [], 'every webhook is verified');
  const arrived = byKey(receiver.accepted(), 'uploadId');
  const sent = byKey(all, 'upload_id');
  for (const id of crowd.known.keys()) assertEventsArrived(sent.get(id) ?? [], arrived.get(id) ?? [], id, reliability);
}

async function assertFollowed(follower, stories, crowd) {
  const expected = [...crowd.known.keys()].flatMap((id) => stories.get(id).map(({ sequence }) => `${id} ${sequence}`));
  if (follower.era === 1) {
    await until('the follower to see every event', () => {
      const seen = new Set(follower.seen.map(({ id, sequence }) => `${id} ${sequence}`));
      return expected.every((event) => seen.has(event));
    });
  }
  await follower.stop();
  for (const [id, seen] of byKey(follower.seen, 'id')) {
    for (const [i, { sequence, era }] of seen.entries()) {
      const before = i === 0 ? { sequence: 0, era: 1 } : seen[i - 1];
      const follows = era === before.era ? sequence === before.sequence + 1 : sequence > before.sequence;
      assert.ok(follows, `the follower saw event ${sequence} of ${id} after ${before.sequence}`);
    }
  }
}

function byKey(items, key) {
  const groups = new Map();
  for (const item of items) groups.set(item[key], [...(groups.get(item[key]) ?? []), item]);
  return groups;
}
