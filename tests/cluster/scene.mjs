// What most tests here share: a cluster under load before something happens to it, and the judgement at the end.

import assert from 'node:assert/strict';
import { Cluster } from './cluster.mjs';
import { Crowd } from './crowd.mjs';
import { Follower } from './follower.mjs';
import { judge } from './judge.mjs';

/** The time after a fault in which answers to commits before it may still arrive. */
export const IN_FLIGHT_MS = 1_000;

/**
 * Starts a cluster, clients that upload all the time, and one that follows the events. They use every node, or the
 * balancer if `through` returns one. `followed` returns the servers at which the events are followed instead.
 */
export async function begin(t, name, { crowd, through, followed, ...options } = {}) {
  const cluster = await Cluster.start({ t, name, ...options });
  const entrances = through ? [await through(cluster)] : [...cluster.nodes];
  cluster.follower = await Follower.start(followed ? await followed(cluster) : entrances);
  t.after(() => cluster.follower.stop());
  cluster.crowd = new Crowd(entrances, { atOnce: 24, size: 150_000, ...crowd }).start();
  t.after(() => cluster.crowd.abandon());
  // A balancer answers these when it loses a node in the middle of a request.
  if (through) cluster.crowd.retried.push(502, 504);
  await cluster.crowd.advances();
  return cluster;
}

export async function end(t, cluster) {
  await cluster.crowd.finish();
  await judge(cluster);
  if (cluster.clock.wasSet()) t.diagnostic("the machine's clock was set meanwhile: the times of webhooks were not compared");
  const { crowd, follower } = cluster;
  t.diagnostic(`${crowd.known.size} uploads, ${follower.seen.length} events; ${JSON.stringify(crowd.counts)}`);
}

/** Asserts that the clients were told no higher offset from one time to another. */
export function assertSilence(crowd, from, to) {
  assert.deepEqual(crowd.toldBetween(from + IN_FLIGHT_MS, to), [], 'an offset was acknowledged meanwhile');
}
