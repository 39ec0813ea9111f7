// Uploads that expire while as many others are sent slowly. CLUSTER_EXPIRING (1000) is the number of each.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { status } from '../clients/harness/api.mjs';
import { sleep, until } from '../clients/harness/until.mjs';
import { Cluster } from './cluster.mjs';
import { inParallel, numbers } from './parallel.mjs';
import { SlowClients } from './slow_clients.mjs';

const COUNT = Number(process.env.CLUSTER_EXPIRING ?? 1000);
const AT_ONCE = 20;
const EXPIRY_S = 15;

/** What the sweeper says when another node has changed an upload before it. */
const CONFLICT = 'another node takes care of an upload';

test(`C8: ${COUNT} uploads expire once each, while ${COUNT} slow ones are received`, async (t) => {
  const limits = { max_active_uploads_per_address: 0, unfinished_expiry: `${EXPIRY_S}s`, stall_after: '1h' };
  const config = {
    limits: { ...limits, max_connections_per_address: 0, sweep_every: '500ms' },
    storage: { checkpoint_every: '5s' },
    log: { level: 'info,longshore_engine=debug' },
  };
  const cluster = await Cluster.start({ t, name: 'c8', config });
  const { database, nodes, receiver } = cluster;
  const slow = new SlowClients();
  t.after(() => slow.leave());
  const living = new Set();
  const expiring = new Set();
  await inParallel(numbers(COUNT), AT_ONCE, async (number) => {
    const node = nodes[number % nodes.length];
    const path = await create(node);
    living.add(path.split('/').pop());
    // Any node may get the bytes.
    slow.begin(nodes[(number + 1) % nodes.length], path);
    expiring.add((await create(node)).split('/').pop());
  });
  const expired = () => database.query("SELECT upload_id AS id FROM events WHERE kind = 'upload.expired'");
  await until('every upload to expire', async () => (await expired()).length >= COUNT, { timeout: 120_000, every: 1_000 });
  // Long enough for another lifetime of the slow ones, and for several sweeps.
  await sleep((EXPIRY_S + 3) * 1_000);

  const ids = (await expired()).map(({ id }) => id);
  assert.equal(ids.length, COUNT, 'one event for each');
  assert.deepEqual(new Set(ids), expiring, 'no upload that is being sent has expired');
  assert.deepEqual(slow.ended, [], 'no slow client was disturbed');
  for (const id of [...living].slice(0, 30)) assert.equal((await status(nodes[0], id)).stage, 'receiving');
  const sent = await until('every event to be sent', () => {
    const events = receiver.accepted().filter(({ type }) => type === 'upload.expired');
    return events.length >= COUNT && events;
  }, { timeout: 60_000 }); // prettier-ignore
  assert.deepEqual(new Set(sent.map(({ uploadId }) => uploadId)), expiring);
  for (const node of nodes) {
    const log = await readFile(node.logFile, 'utf8');
    assert.ok(!log.includes(CONFLICT), `${node.name} has met a conflict; see ${node.logFile}`);
  }
});

async function create(node) {
  const headers = { 'Tus-Resumable': '1.0.0', 'Upload-Length': String(SlowClients.length) };
  const response = await fetch(node.endpoint, { method: 'POST', headers });
  assert.equal(response.status, 201, `creation at ${node.name} answered ${response.status}`);
  return new URL(response.headers.get('location'), node.url).pathname;
}
