// A rolling upgrade: nodes of the previous version are replaced by nodes of the next one while clients upload.
//
// There is no earlier release. CLUSTER_PREVIOUS_BIN is this program with the feature `previous-peer-version`, which
// makes calls to other nodes in the version before. CLUSTER_NEXT_BIN is this program with the feature `next-schema`,
// which expands the schema of the database, and contracts it by `longshore migrate`. `tests/run cluster` builds both.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { resolve } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { noise } from '../clients/harness/bytes.mjs';
import { withoutSettings } from '../clients/harness/server.mjs';
import { Balancer } from './balancer.mjs';
import { HandUpload } from './hand.mjs';
import { metric } from './metrics.mjs';
import { begin, end } from './scene.mjs';

const run = promisify(execFile);
const { CLUSTER_PREVIOUS_BIN: PREVIOUS, CLUSTER_NEXT_BIN: NEXT } = process.env;
const skip = PREVIOUS && NEXT ? false : 'CLUSTER_PREVIOUS_BIN and CLUSTER_NEXT_BIN name no programs';

/** The last migration that each of the two programs knows, and how far the next one goes by itself. */
const SCHEMA = { previous: 1, expanded: 3, contracted: 4 };

test('F25: nodes of one version replace those of the version before, under uploads', { skip }, async (t) => {
  const through = async (cluster) => (cluster.balancer = await Balancer.start(cluster));
  const cluster = await begin(t, 'f25', { through, binary: resolve(PREVIOUS), crowd: { atOnce: 24, answerLimit: 10_000 } });
  const { crowd, database, nodes } = cluster;
  const version = async () => (await database.query('SELECT version, min_program FROM schema'))[0];
  assert.deepEqual(await version(), { version: SCHEMA.previous, min_program: 1 });

  for (const [i, node] of nodes.entries()) {
    assert.deepEqual(await node.stop(), { code: 0, signal: null }, `${node.name} ended in order`);
    node.binary = resolve(NEXT);
    await node.restart();
    await crowd.advances();
    assert.deepEqual(await version(), { version: SCHEMA.expanded, min_program: 1 }, 'older nodes may use the schema');
    if (i < nodes.length - 1) {
      const [older, newer] = [nodes.at(-1), node];
      await exchange(older, newer, 'unclean');
      await exchange(newer, older, 'clean');
      const refused = await migrate(newer);
      assert.ok(refused.code !== 0 && /stop the servers of that version/.test(refused.stderr), JSON.stringify(refused));
    }
  }

  const migrated = await migrate(nodes[0]);
  assert.equal(migrated.code, 0, migrated.stderr);
  assert.deepEqual(await version(), { version: SCHEMA.contracted, min_program: SCHEMA.expanded });
  await crowd.advances();
  const late = await cluster.prepareNode('late');
  await assert.rejects(late.restart(), /ended before it listened/, 'the previous version cannot use the schema any more');
  nodes.pop();
  t.diagnostic(`answers that clients retried: ${JSON.stringify(crowd.counts)}`);
  await end(t, cluster);
});

/**
 * Has one node take an upload over from another. The next version asks in words that the previous one does not know,
 * which counts as no answer: those takeovers are unclean.
 */
async function exchange(from, to, kind) {
  const takeovers = () => metric(to, `longshore_takeover_seconds_count{kind="${kind}"}`);
  const before = await takeovers();
  const upload = await HandUpload.create(from, noise(400_000));
  const held = await upload.hold(from, to);
  await upload.takeOver(to);
  held.release();
  assert.notEqual(await held.answer, 204, 'one upload had two writers');
  assert.ok((await takeovers()) > before, `${to.name} takes uploads over from ${from.name}: ${kind}`);
}

/** Runs `longshore migrate` as an operator does. Returns `{code, stderr}`. */
async function migrate(node) {
  try {
    const env = withoutSettings(process.env);
    const { stderr } = await run(resolve(NEXT), ['migrate', '--config', node.configFile], { env });
    return { code: 0, stderr };
  } catch (error) {
    return { code: error.code, stderr: error.stderr };
  }
}
