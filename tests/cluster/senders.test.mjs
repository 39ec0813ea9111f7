// Webhooks of one endpoint, sent by three nodes.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sleep } from '../clients/harness/until.mjs';
import { begin, end } from './scene.mjs';

const CAP = 16;
const SECONDS = 8;
/** Time in which the receiver answers, so that deliveries pile up. */
const SLOW_MS = 1_000;

test(`C9: ${CAP} webhooks are in flight at most, however many nodes send them`, async (t) => {
  const config = { webhooks: { max_in_flight_per_endpoint: CAP } };
  const cluster = await begin(t, 'c9', { config, crowd: { atOnce: 24, size: 20_000 } });
  const { receiver } = cluster;
  const senders = {};
  let inFlight = 0;
  let most = 0;
  receiver.behave((entry, request, response) => {
    const sender = request.socket.remoteAddress;
    senders[sender] = (senders[sender] ?? 0) + 1;
    inFlight += 1;
    most = Math.max(most, inFlight);
    sleep(SLOW_MS).then(() => {
      // Before the sender can know the answer, and therefore send the next one.
      inFlight -= 1;
      entry.status = 200;
      response.writeHead(200).end();
    });
  });
  await sleep(SECONDS * 1_000);
  await cluster.crowd.finish();
  receiver.behave(200);
  t.diagnostic(`${most} at once; by node: ${JSON.stringify(senders)}`);
  assert.ok(most <= CAP, `${most} webhooks were in flight at once, ${CAP} are allowed`);
  assert.equal(Object.keys(senders).length, 3, 'every node sends');
  assert.equal(most, CAP, 'there was always more to send');
  await end(t, cluster);
});
