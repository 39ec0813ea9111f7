// Everything at random, for CLUSTER_SOAK_SECONDS (45), and the seed CLUSTER_SEED (1).

import { test } from 'node:test';
import { random } from '../clients/harness/bytes.mjs';
import { Balancer } from './balancer.mjs';
import { haveMishaps } from './mishaps.mjs';
import { begin, end } from './scene.mjs';

const SECONDS = Number(process.env.CLUSTER_SOAK_SECONDS ?? 45);
const SEED = Number(process.env.CLUSTER_SEED ?? 1);

test(`F0: mishaps at random for ${SECONDS} s, seed ${SEED}`, async (t) => {
  const through = async (cluster) => (cluster.balancer = await Balancer.start(cluster));
  const cluster = await begin(t, 'soak', { through, crowd: { seed: SEED, answerLimit: 10_000 } });
  const say = (text) => console.log(`${new Date().toISOString()} ${text}`);
  const counts = await haveMishaps(cluster, { dice: random(SEED), seconds: SECONDS, say });
  await cluster.crowd.advances();
  await cluster.crowd.finish();
  say(`${cluster.crowd.known.size} uploads are compared`);
  await end(t, cluster);
  t.diagnostic(JSON.stringify(counts));
});
