// Three nodes behind HAProxy, as docs/proxies.md configures it.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sleep, until } from '../clients/harness/until.mjs';
import { Balancer } from './balancer.mjs';
import { begin, end } from './scene.mjs';

const through = async (cluster) => (cluster.balancer = await Balancer.start(cluster));

test('F22: the balancer is reloaded, and killed and started again', async (t) => {
  const cluster = await begin(t, 'f22', { through });
  const { balancer, crowd } = cluster;
  balancer.reload();
  await crowd.advances();
  await balancer.kill();
  await balancer.launch();
  const started = Date.now();
  await crowd.advances(1, { timeout: 3_000 });
  t.diagnostic(`the first higher offset came ${crowd.told.at(-1).at - started} ms after the balancer was back`);
  await crowd.advances();
  await end(t, cluster);
});

test('C14: an outage of the database takes no node out of service', async (t) => {
  const cluster = await begin(t, 'lb', { through });
  const { balancer, crowd, database, nodes } = cluster;
  await database.kill();
  for (const end = Date.now() + 8_000; Date.now() < end; await sleep(500)) {
    for (const node of nodes) assert.equal((await fetch(`${node.url}/lb`)).status, 200, `${node.name} is out of service`);
  }
  await database.launch();
  await until('the nodes to serve again', async () => (await fetch(`${balancer.url}/api/v1/uploads?limit=1`)).ok);
  await crowd.advances();
  await end(t, cluster);
});

test('C14: a node that is frozen is out of service after three checks, and its clients resume elsewhere', async (t) => {
  const cluster = await begin(t, 'frozen', { through });
  const { balancer, crowd, nodes } = cluster;
  nodes[0].signal('SIGSTOP');
  await until('the node to be out of service', () => balancer.hasLeftOut('node1'), { timeout: 10_000 });
  await crowd.advances();
  nodes[0].signal('SIGCONT');
  await crowd.advances();
  await end(t, cluster);
});
