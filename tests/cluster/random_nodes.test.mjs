// Uploads whose requests go to random nodes: one after the other, so that each request is a takeover, or as ranges in
// parallel, which the node that writes the upload receives from the others.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { noise, random } from '../clients/harness/bytes.mjs';
import { sleep } from '../clients/harness/until.mjs';
import { Cluster } from './cluster.mjs';
import { HandUpload } from './hand.mjs';
import { judge } from './judge.mjs';
import { metric } from './metrics.mjs';
import { inParallel, numbers } from './parallel.mjs';

const UPLOADS = Number(process.env.RANDOM_NODES_UPLOADS ?? 200);
const AT_ONCE = 20;
const CHUNK = 1 << 20;
const CHUNKS = Number(process.env.RANDOM_NODES_CHUNKS ?? 2);
/** Ranges of one upload, all sent at once. */
const RANGES = 4;

test(`C3: ${UPLOADS} uploads, each request to a random node`, async (t) => {
  const cluster = await Cluster.start({ t, name: 'c3' });
  const dice = random(3);
  const known = new Map();
  const answers = {};
  const sendOne = async (number) => {
    const bytes = noise(CHUNKS * CHUNK, number);
    const upload = await HandUpload.create(dice.pick(cluster.nodes), bytes);
    while (upload.offset < bytes.length) {
      const status = await upload.send(dice.pick(cluster.nodes), { count: CHUNK });
      answers[status] = (answers[status] ?? 0) + 1;
    }
    known.set(upload.id, { bytes, wanted: 'completed' });
  };
  await inParallel(numbers(UPLOADS), AT_ONCE, sendOne);
  t.diagnostic(`answers: ${JSON.stringify(answers)}`);
  assert.deepEqual(answers, { 204: UPLOADS * CHUNKS }, 'no request had to be repeated');
  await judge({ ...cluster, crowd: { known } });
});

test(`C7: ${UPLOADS} uploads in parallel ranges, each range to a random node`, async (t) => {
  const cluster = await Cluster.start({ t, name: 'c7' });
  const dice = random(7);
  const known = new Map();
  const answers = {};
  const sendOne = async (number) => {
    const bytes = noise(RANGES * CHUNK - dice.between(0, CHUNK - 1), number);
    const id = await createRanged(dice.pick(cluster.nodes), bytes.length, number);
    const sendRange = async (first) => {
      const body = bytes.subarray(first, first + CHUNK);
      const headers = { 'Content-Range': `bytes ${first}-${first + body.length - 1}/${bytes.length}` };
      for (;;) {
        const { status } = await fetch(`${dice.pick(cluster.nodes).endpoint}/${id}`, { method: 'PUT', headers, body });
        answers[status] = (answers[status] ?? 0) + 1;
        if (status !== 503) return assert.ok([200, 202].includes(status), `a range of ${id} was answered ${status}`);
        await sleep(100);
      }
    };
    await Promise.all(Array.from({ length: RANGES }, (_, range) => sendRange(range * CHUNK)));
    known.set(id, { bytes, wanted: 'completed' });
  };
  await inParallel(numbers(UPLOADS), AT_ONCE, sendOne);
  let passedOn = 0;
  for (const node of cluster.nodes) passedOn += await metric(node, 'longshore_peer_forwarded_bytes_total');
  t.diagnostic(`answers: ${JSON.stringify(answers)}; ${passedOn >> 20} MiB were passed on to other nodes`);
  assert.ok(passedOn > 0, 'ranges reached nodes that did not write their uploads');
  await judge({ ...cluster, crowd: { known } });
});

async function createRanged(node, size, number) {
  const body = JSON.stringify({ name: `ranges-${number}.bin`, size });
  const response = await fetch(node.endpoint, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body });
  assert.equal(response.status, 201, `creation at ${node.name} answered ${response.status}`);
  return (await response.json()).id;
}
