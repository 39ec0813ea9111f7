// Three nodes, and what can happen to one of them. The name of a test begins with its row in the table of faults
// (docs/requirements/scale-out.md).

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { download } from '../clients/harness/api.mjs';
import { digestOf, noise } from '../clients/harness/bytes.mjs';
import { sleep, until, within } from '../clients/harness/until.mjs';
import { PEER_PORT } from './cluster.mjs';
import { HandUpload } from './hand.mjs';
import { begin, end } from './scene.mjs';

/** Until the first 2xx elsewhere, when a holder has to be counted as dead, and when it only does not answer. */
const COUNTED_DEAD_MS = 7_000;
const SILENT_MS = 1_500;

/** How much longer a machine may take that runs all nodes and clients on two cores. */
const SLACK = 4;

/** `webhooks.lease` in cluster.mjs, and a second. */
const LEASE_MS = 14_000;

const crowd = { answerLimit: 5_000, atOnce: 12 };

test('F1: a node is killed while 50 uploads run', async (t) => {
  const cluster = await begin(t, 'f1', { crowd: { ...crowd, atOnce: 50 } });
  const [victim, other] = cluster.nodes;
  const upload = await HandUpload.create(victim, noise(500_000));
  const held = await upload.hold(victim, other);
  await victim.kill();
  held.release();
  assert.notEqual(await held.answer, 204);
  const took = await upload.takeOver(other);
  assertTook(t, took, COUNTED_DEAD_MS);
  await cluster.crowd.advances();
  await victim.restart();
  await cluster.crowd.advances();
  await assertEverywhere(cluster, upload);
  await end(t, cluster);
});

test('F2: a node is frozen, and wakes up after another has taken its upload over', async (t) => {
  const cluster = await begin(t, 'f2', { crowd });
  const [victim, other] = cluster.nodes;
  const upload = await HandUpload.create(victim, noise(500_000));
  const held = await upload.hold(victim, other);
  await freezeInTransaction(victim, cluster.database);
  const frozen = Date.now();
  const took = await upload.takeOver(other);
  assertTook(t, took, SILENT_MS);
  // The bytes that the frozen node has not read wait in its socket.
  held.release();
  await sleep(15_000 - (Date.now() - frozen));
  victim.signal('SIGCONT');
  assert.notEqual(await held.answer, 204, 'the frozen node has acknowledged bytes of an upload that it had lost');
  await assertEverywhere(cluster, upload);
  await cluster.crowd.advances();
  await end(t, cluster);
});

test('F4: a node cannot reach the database', async (t) => {
  const cluster = await begin(t, 'f4', { crowd });
  const [victim, other] = cluster.nodes;
  const upload = await HandUpload.create(victim, noise(500_000));
  const held = await upload.hold(victim, other);
  await victim.machine.cut(cluster.database.host);
  const took = await upload.takeOver(other);
  assertTook(t, took, COUNTED_DEAD_MS);
  held.release();
  assert.notEqual(await held.answer, 204, 'the node has acknowledged bytes that it could not commit');
  const { status, headers } = await fetch(`${victim.endpoint}`, { method: 'POST', headers: { 'Tus-Resumable': '1.0.0', 'Upload-Length': '1' } });
  assert.equal(status, 503);
  assert.ok(headers.has('retry-after'), 'a 503 says when to retry');
  await victim.machine.heal();
  await until('the node to serve again', async () => (await upload.query(victim)) === 200);
  await assertEverywhere(cluster, upload);
  await cluster.crowd.advances();
  await end(t, cluster);
});

test('F8: nodes cannot reach each other', async (t) => {
  const cluster = await begin(t, 'f8', { crowd });
  const [victim, other] = cluster.nodes;
  const upload = await HandUpload.create(victim, noise(500_000));
  const held = await upload.hold(victim, other);
  await victim.machine.cut(other.machine, { port: PEER_PORT });
  const took = await upload.takeOver(other);
  assertTook(t, took, SILENT_MS);
  held.release();
  assert.notEqual(await held.answer, 204, 'the former holder has acknowledged bytes');
  await cluster.crowd.advances();
  await victim.machine.heal();
  await assertEverywhere(cluster, upload);
  await end(t, cluster);
});

test('F26: the node that sends a webhook is killed before it records the response', async (t) => {
  const cluster = await begin(t, 'f26', { crowd });
  const { nodes, receiver } = cluster;
  const killed = new Promise((done) => {
    receiver.behave(({ id }, request) => {
      receiver.behave(200);
      const sender = nodes.find(({ host }) => request.socket.remoteAddress.endsWith(host));
      sender.kill().then(() => done({ id, sender, at: Date.now() }));
      return 'hang';
    });
  });
  const { id, sender, at } = await within(20_000, 'a webhook', killed);
  const again = await until('the same event again', () => receiver.accepted().find((request) => request.id === id), { timeout: 30_000 });
  t.diagnostic(`the event came again after ${again.at - at} ms`);
  assert.ok(again.at - at < LEASE_MS * SLACK, `the event came again after ${again.at - at} ms`);
  await sender.restart();
  await end(t, cluster);
});

test('F27: two nodes have one name', async (t) => {
  const cluster = await begin(t, 'f27', { nodes: 2, crowd });
  const twin = await cluster.prepareNode('twin', { config: { node_name: 'node1' } });
  await twin.restart();
  const listed = await until('both nodes to be listed', async () => {
    const response = await fetch(`${twin.url}/api/v1/nodes`, { headers: twin.headers });
    const { nodes } = await response.json();
    return nodes.length === 3 && nodes;
  });
  const named = listed.filter(({ name }) => name === 'node1');
  assert.equal(new Set(named.map(({ instance }) => instance)).size, 2, JSON.stringify(listed));

  const upload = await HandUpload.create(cluster.nodes[0], noise(500_000));
  const held = await upload.hold(cluster.nodes[0], twin);
  const took = await upload.takeOver(twin);
  assertTook(t, took, SILENT_MS);
  held.release();
  assert.notEqual(await held.answer, 204, 'one upload had two writers');
  await assertEverywhere(cluster, upload);
  await end(t, cluster);
});

/**
 * Freezes a node at the worst moment: inside a transaction, whose locks the others need to go on. Nodes under load reach
 * one soon.
 */
async function freezeInTransaction(node, database) {
  const inside = `SELECT pid FROM pg_stat_activity WHERE client_addr = '${node.host}' AND state = 'idle in transaction'
    AND EXISTS (SELECT 1 FROM pg_locks WHERE pg_locks.pid = pg_stat_activity.pid AND locktype = 'advisory')`;
  await until(`${node.name} to be frozen inside a transaction`, async () => {
    node.signal('SIGSTOP');
    if ((await database.query(inside)).length > 0) return true;
    node.signal('SIGCONT');
    return false;
  }, { timeout: 60_000, every: 5 }); // prettier-ignore
}

function assertTook(t, { ms, answers }, promised) {
  t.diagnostic(`the other node answered ${answers}`);
  assert.ok(ms < promised * SLACK, `the first 2xx at another node came after ${ms} ms; ${promised} are promised`);
}

/** Asserts that every node serves an upload with its bytes. */
async function assertEverywhere({ nodes }, upload) {
  const source = digestOf(upload.bytes);
  for (const node of nodes.filter(({ running }) => running)) {
    assert.deepEqual(await download(`${node.endpoint}/${upload.id}`), source, `the bytes at ${node.name}`);
  }
}
