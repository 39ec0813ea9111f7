// What happens to nodes at random, one mishap at a time, each undone before the next. A seed repeats the choices.

import { sleep } from '../clients/harness/until.mjs';

/** The mishaps of a node: each does something, waits, and undoes it. `wait()` takes a random time. */
const OF_NODES = {
  killed: async (node, { wait }) => {
    await node.kill();
    await wait();
    await node.restart();
  },
  frozen: async (node, { wait }) => {
    node.signal('SIGSTOP');
    await wait();
    node.signal('SIGCONT');
  },
  'stopped in order': async (node) => {
    await node.stop();
    await node.restart();
  },
  'cut off from the database': async (node, { wait, database }) => {
    await node.machine.cut(database.host);
    await wait();
    await node.machine.heal();
  },
  'deaf to the database': async (node, { wait, database }) => {
    await node.machine.cut(database.host, { to: false });
    await wait();
    await node.machine.heal();
  },
  'cut off from another node': async (node, { wait, other }) => {
    await node.machine.cut(other.machine);
    await wait();
    await node.machine.heal();
  },
};

/** The mishaps of what all nodes share. */
const OF_ALL = {
  'the database is killed': async ({ database }) => {
    await database.kill();
    await database.launch();
  },
  'all sessions of the database end': ({ database }) => database.endSessions(),
  'the balancer is reloaded': ({ balancer }) => balancer.reload(),
  'the balancer is killed': async ({ balancer }) => {
    await balancer.kill();
    await balancer.launch();
  },
};

/** Lets mishaps happen until the time is over; at least one of each kind in a long run. Returns how often each did. */
export async function haveMishaps(cluster, { dice, seconds, say = () => {} }) {
  const counts = {};
  const wait = () => sleep(dice.between(500, 9_000));
  for (const end = Date.now() + seconds * 1000; Date.now() < end; ) {
    const ofAll = dice.chance(0.25);
    const what = dice.pick(Object.keys(ofAll ? OF_ALL : OF_NODES));
    counts[what] = (counts[what] ?? 0) + 1;
    if (ofAll) {
      say(what);
      await OF_ALL[what](cluster);
    } else {
      const node = dice.pick(cluster.nodes);
      const other = dice.pick(cluster.nodes.filter((each) => each !== node));
      say(`${node.name} is ${what}`);
      await OF_NODES[what](node, { wait, other, database: cluster.database });
    }
    await sleep(dice.between(200, 2_000));
  }
  return counts;
}
