// Three nodes, one of which has a clock that goes wrong while it runs.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { status } from '../clients/harness/api.mjs';
import { noise } from '../clients/harness/bytes.mjs';
import { sleep, until } from '../clients/harness/until.mjs';
import { FalseClock } from './clock.mjs';
import { HandUpload } from './hand.mjs';
import { metric } from './metrics.mjs';
import { begin, end } from './scene.mjs';

const HOUR = 3_600;
const DAY = 24 * HOUR;

/** Long enough for several sweeps and heartbeats. */
const WHILE_MS = 6_000;

test('F23: the clock of a running node is an hour ahead, an hour behind, eight days ahead', async (t) => {
  const cluster = await begin(t, 'f23', { nodes: 2, crowd: { answerLimit: 5_000 } });
  const clock = await FalseClock.make();
  const wrong = await cluster.prepareNode('wrong', { env: clock.env });
  await wrong.restart();
  const [right] = cluster.nodes;
  const abandoned = await HandUpload.create(right, noise(1_000));
  const held = await HandUpload.create(wrong, noise(500_000));
  assert.equal(await held.send(wrong, { count: 1_000 }), 204);

  for (const seconds of [HOUR, -HOUR, 8 * DAY]) {
    await clock.set(seconds);
    await until('writes at that node to be turned away', async () => (await held.send(wrong, { count: 1_000 })) === 503);
    await until('its clock to be reported', async () => Math.abs((await offsetOf(wrong)) - seconds) < 60);
    await until('its upload to be taken over', async () => (await held.query(right)) === 200 && (await held.send(right, { count: 1_000 })) === 204);
    await sleep(WHILE_MS);
    assert.equal((await status(right, abandoned.id)).stage, 'created', 'an upload has expired early');
    await cluster.crowd.advances();
    await clock.set(0);
    await until('writes at that node to be served again', async () => (await held.send(wrong, { count: 1_000 })) === 204);
  }
  await held.takeOver(wrong);
  await end(t, cluster);
});

/** Returns the seconds by which the clock of a node is ahead, as its metrics report it. */
function offsetOf(node) {
  return metric(node, 'longshore_database_clock_offset_seconds');
}
