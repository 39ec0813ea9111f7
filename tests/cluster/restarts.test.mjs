// Rolling restarts: each node is drained, stopped and started again while clients upload.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { until } from '../clients/harness/until.mjs';
import { Balancer } from './balancer.mjs';
import { begin, end } from './scene.mjs';

test('C10: every node is stopped in order and started again under uploads', async (t) => {
  const through = async (cluster) => (cluster.balancer = await Balancer.start(cluster));
  const cluster = await begin(t, 'c10', { through, crowd: { atOnce: 40 } });
  const { crowd, nodes } = cluster;
  for (const node of nodes) {
    const stopped = node.stop();
    await until(`${node.name} to leave the balancer`, async () => (await fetch(`${node.url}/lb`).catch(() => ({ status: 503 }))).status === 503);
    assert.deepEqual(await stopped, { code: 0, signal: null }, `${node.name} ended in order`);
    await node.restart();
    await crowd.advances();
  }
  await end(t, cluster);
});
