// Nodes that keep the bytes of uploads in an object store, and share nothing else than the database.
//
// tests/cluster/sandbox.sh makes the network, and tests/services/seaweedfs.sh starts the store at the address of the tests.

import { test } from 'node:test';
import { random } from '../clients/harness/bytes.mjs';
import { sleep } from '../clients/harness/until.mjs';
import { Folder } from './bucket.mjs';
import { haveMishaps } from '../cluster/mishaps.mjs';
import { Balancer } from '../cluster/balancer.mjs';
import { begin, end } from '../cluster/scene.mjs';

const SECONDS = Number(process.env.CLUSTER_OBJECTS_SECONDS ?? 30);
const SEED = Number(process.env.CLUSTER_SEED ?? 1);

/** Uploads of up to three parts. */
const crowd = { seed: SEED, atOnce: 6, size: 13_000_000, answerLimit: 10_000 };

function onStore() {
  const { storage, s3 } = new Folder().config();
  return { storage: { ...storage, shared: false }, s3 };
}

test('F3: a node is frozen with parts on their way, and wakes up after others have taken its uploads over', async (t) => {
  const cluster = await begin(t, 'objects-frozen', { crowd, config: onStore() });
  const [victim] = cluster.nodes;
  for (const _ of [1, 2, 3]) {
    victim.signal('SIGSTOP');
    await sleep(9_000);
    victim.signal('SIGCONT');
    await cluster.crowd.advances();
  }
  await end(t, cluster);
});

test(`F0: mishaps at random for ${SECONDS} s, with an object store, seed ${SEED}`, async (t) => {
  const through = async (cluster) => (cluster.balancer = await Balancer.start(cluster));
  const cluster = await begin(t, 'objects-mishaps', { through, crowd, config: onStore() });
  const say = (text) => console.log(`${new Date().toISOString()} ${text}`);
  const counts = await haveMishaps(cluster, { dice: random(SEED), seconds: SECONDS, say });
  await cluster.crowd.advances();
  await end(t, cluster);
  t.diagnostic(JSON.stringify(counts));
});
