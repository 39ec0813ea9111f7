// Readers of a cluster whose node dies again and again. CLUSTER_READER_KILLS (20) is how often.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sleep } from '../clients/harness/until.mjs';
import { begin, end } from './scene.mjs';

const KILLS = Number(process.env.CLUSTER_READER_KILLS ?? 20);
const EVERY_MS = 3_000;

test(`C6: the read node is killed every ${EVERY_MS / 1000} s, ${KILLS} times`, async (t) => {
  let reader;
  const followed = async (cluster) => {
    reader = await cluster.prepareNode('reader', { config: { role: 'read' } });
    return [await reader.restart()];
  };
  const cluster = await begin(t, 'c6', { nodes: 2, followed, crowd: { atOnce: 8 } });
  const { follower } = cluster;
  for (let kill = 1; kill <= KILLS; kill += 1) {
    await sleep(EVERY_MS);
    await reader.kill();
    await reader.restart();
  }
  await cluster.crowd.advances();
  assert.equal(follower.era, 1, 'no event was replaced by a snapshot');
  assert.ok(follower.connections > KILLS, 'it had to reconnect after each kill');
  t.diagnostic(`${follower.connections} connections`);
  await end(t, cluster);
});
