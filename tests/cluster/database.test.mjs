// One node, and what can happen to its database. The name of a test begins with its row in the table of faults
// (docs/requirements/scale-out.md).

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sleep, until } from '../clients/harness/until.mjs';
import { judge } from './judge.mjs';
import { findOwnWrites, readSources } from './own_writes.mjs';
import { IN_FLIGHT_MS, assertSilence, begin, end } from './scene.mjs';

test('F5: the answers of the database do not arrive', async (t) => {
  const cluster = await begin(t, 'f5', { nodes: 1 });
  const { machine } = cluster.nodes[0];
  await machine.cut(cluster.database.host, { from: true, to: false });
  const cut = Date.now();
  await sleep(18_000);
  assertSilence(cluster.crowd, cut, Date.now());
  await machine.heal();
  await cluster.crowd.advances();
  await end(t, cluster);
});

test('F9: the primary is killed in the middle of commits, and its synchronous standby replaces it', async (t) => {
  const cluster = await begin(t, 'f9', { nodes: 1, standby: 'synchronous' });
  await failOver(t, cluster);
  await end(t, cluster);
});

/** Kills the primary, promotes its standby, and waits until clients go on. */
async function failOver(t, cluster) {
  const { crowd, database, standby } = cluster;
  await database.kill();
  await standby.promote();
  const promoted = Date.now();
  await crowd.advances(1, { timeout: 10_000 });
  t.diagnostic(`the first higher offset came ${crowd.told.at(-1).at - promoted} ms after the promotion`);
  await crowd.advances();
  Object.assign(cluster, { database: standby, standby: database });
}

test('F11: the former primary comes back with its old data', async (t) => {
  const cluster = await begin(t, 'f11', { nodes: 1, standby: 'synchronous' });
  await failOver(t, cluster);
  const { crowd, database, standby: former } = cluster;
  await former.launch();
  await former.query('ALTER SYSTEM RESET synchronous_standby_names');
  await former.query('SELECT pg_reload_conf()');
  const untouched = await changesIn(former);

  await database.endSessions();
  await crowd.advances();
  await database.kill();
  const killed = Date.now();
  await sleep(6_000);
  assertSilence(crowd, killed, Date.now());
  assert.deepEqual(await changesIn(former), untouched, 'the former primary is not written to');
  await database.launch();
  await crowd.advances();
  await end(t, cluster);
});

/** Returns numbers that every change of an upload increases. */
async function changesIn(database) {
  return database.query('SELECT (SELECT sum(version) FROM upload_progress) AS versions, (SELECT count(*) FROM events) AS events');
}

test('F10: the primary is killed, and its asynchronous standby lacks the latest commits', async (t) => {
  const cluster = await begin(t, 'f10', { nodes: 1, standby: 'asynchronous' });
  const { crowd, database, standby } = cluster;
  crowd.mayForget = true;
  const behind = Date.now() - IN_FLIGHT_MS;
  await standby.host.cut(database.host);
  await crowd.advances(48);
  await database.kill();
  await standby.host.heal();
  await standby.promote();
  const promoted = Date.now();
  await crowd.advances(48);
  await crowd.finish();

  // The clients of these uploads have left before they could notice. Others would resume them.
  const left = [...crowd.known.values()].filter(({ endedAt }) => endedAt >= behind && endedAt < promoted);
  for (const upload of left.filter(({ wanted }) => wanted === 'completed')) {
    await upload.resume();
    await upload.send();
  }
  for (const upload of left.filter(({ wanted }) => wanted === 'terminated')) crowd.known.delete(upload.id);
  t.diagnostic(`${left.length} uploads ended on the former primary only; ${JSON.stringify(crowd.counts)}`);
  // The follower has seen events that are lost. So has the receiver, and attempts that nobody knows of any more; it must
  // get all events that are in the log now.
  await cluster.follower.stop();
  await judge({ ...cluster, database: standby, follower: undefined, mayLackAttempts: true });
});

test('F12: the replay of the replica that nodes read from is paused', async (t) => {
  // However far behind it is, the nodes do not pass it over for that.
  const config = { database: { replica_max_lag: '1h' } };
  const cluster = await begin(t, 'f12', { nodes: 2, standby: 'asynchronous', readsStandby: true, config });
  const { crowd, standby, nodes } = cluster;
  const reader = await cluster.prepareNode('reader', { config: { role: 'read' } });
  await reader.restart();
  const readers = [...nodes];
  const writers = readers.filter((node) => node !== reader);
  await until('the replica to be read from', async () => {
    await (await fetch(`${reader.url}/api/v1/uploads?limit=1`)).text();
    return (await readSources(reader)).replica > 0;
  });

  await standby.query('SELECT pg_wal_replay_pause()');
  await until('the pause', async () => (await standby.query("SELECT pg_get_wal_replay_pause_state() = 'paused' AS done"))[0].done);
  const paused = await readSources(reader);
  for (let round = 0; round < 12; round += 1) {
    const options = { mark: `paused-${round}`, completes: round % 2 === 0 };
    await findOwnWrites(writers[round % writers.length], readers, options);
  }
  await crowd.advances();
  assert.equal((await readSources(reader)).replica, paused.replica, 'the replica has nothing that is new enough');

  // The replica cancels whatever delays it for too long, this statement too.
  await standby.query('SELECT pg_wal_replay_resume()').catch(() => {});
  await until('the replica to answer', async () => {
    const before = await readSources(reader);
    await findOwnWrites(writers[0], readers, { mark: `resumed-${Date.now()}`, completes: true });
    const after = await readSources(reader);
    return after.replica > before.replica && after.primary === before.primary;
  });
  await crowd.advances();
  await end(t, cluster);
});

test('F13: the synchronous standby hangs', async (t) => {
  const cluster = await begin(t, 'f13', { nodes: 1, standby: 'synchronous' });
  const { crowd, standby } = cluster;
  const receiver = await standby.signalReceiver('SIGSTOP');
  const frozen = Date.now();
  await sleep(18_000);
  assertSilence(crowd, frozen, Date.now());
  process.kill(receiver, 'SIGCONT');
  await crowd.advances();
  await end(t, cluster);
});

test('F14: the pooler, in transaction mode, is killed and starts again', async (t) => {
  const cluster = await begin(t, 'f14', { nodes: 1, pooled: true });
  const { crowd, pooler } = cluster;
  await pooler.kill();
  const killed = Date.now();
  await sleep(3_000);
  assertSilence(crowd, killed, Date.now());
  await pooler.launch();
  await crowd.advances();
  await end(t, cluster);
});

test('F24: the disk of the database is full', async (t) => {
  const cluster = await begin(t, 'f24', { nodes: 1, size: '160m' });
  const { crowd, database } = cluster;
  crowd.retried.push(507);
  const turnedAway = () => (crowd.counts[503] ?? 0) + (crowd.counts[507] ?? 0);
  await database.fillDisk();
  await until('clients to be turned away', () => turnedAway() > 24, { timeout: 60_000 });
  await database.freeDisk();
  // Without space for its log, PostgreSQL ends.
  if (!database.isRunning) await database.launch();
  await crowd.advances();
  await end(t, cluster);
});
