// Nodes on hosts of the network, with a database, a folder that they share, and a receiver of their webhooks.

import { createHash, randomBytes } from 'node:crypto';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Receiver } from '../clients/harness/receiver.mjs';
import { Server, scratchFolder } from '../clients/harness/server.mjs';
import { ADDRESSES, HERE, Host } from './network.mjs';
import { Pooler } from './pooler.mjs';
import { Postgres } from './postgres.mjs';

const PORT = 8080;
export const PEER_PORT = 7080;

/** A difference between the machine's clock and its steady one that no adjustment makes within a test. */
const CLOCK_SET_MS = 20;

/** Watches the machine's clock. One of a virtual machine that was paused is set, and nodes learn that one by one. */
class MachineClock {
  #aheadAtStart = MachineClock.#ahead();

  static #ahead() {
    return Date.now() - performance.now();
  }

  wasSet() {
    return Math.abs(MachineClock.#ahead() - this.#aheadAtStart) > CLOCK_SET_MS;
  }
}

export class Cluster {
  clock = new MachineClock();
  nodes = [];
  #adminKey = `lsk_${randomBytes(32).toString('base64url')}`;

  /**
   * Starts a database, with `standby` 'synchronous' or 'asynchronous' also its standby, and `nodes` nodes. One node alone
   * is not in cluster mode. With `readsStandby`, nodes read from the standby. With `pooled`, the transactions of nodes go
   * through a pooler. `binary` is a program to run
   * instead of the one under test. Everything ends with the test `t`; logs of a test that failed are kept.
   */
  static async start({ t, name, nodes = 3, standby, readsStandby = false, pooled = false, size, config, binary }) {
    const cluster = new Cluster();
    cluster.folder = await scratchFolder(`cluster-${name}`);
    Object.assign(cluster, { config, binary });
    t.after(() => cluster.#end(t.passed));
    cluster.receiver = await Receiver.start({ host: HERE });
    cluster.database = await Postgres.start({ folder: cluster.folder, size });
    if (standby) {
      const synchronous = standby === 'synchronous';
      cluster.standby = await cluster.database.addStandby({ folder: cluster.folder, synchronous });
    }
    if (pooled) cluster.pooler = await Pooler.start(cluster.database, cluster.folder);
    const databases = pooled ? [cluster.pooler] : [cluster.database, cluster.standby].filter(Boolean);
    cluster.readsStandby = readsStandby;
    cluster.databaseHosts = databases.map(({ address }) => address).join(',');
    await writeFile(join(cluster.folder, 'server.key'), `1:${randomBytes(32).toString('base64')}\n`, { mode: 0o600 });
    cluster.isAlone = nodes === 1;
    for (let node = 1; node <= nodes; node += 1) await cluster.prepareNode(`node${node}`);
    await Promise.all(cluster.nodes.map((node) => node.restart()));
    return cluster;
  }

  /** Adds a node without starting it. `config` are settings that only this node has. */
  async prepareNode(name, { config, env } = {}) {
    const host = await Host.add(name);
    const folder = join(this.folder, host.name);
    await mkdir(folder);
    const node = await Server.prepare({
      folder,
      config: merge(this.#settings(), this.isAlone ? {} : clusterSettings(host), this.config, { node_name: name }, config),
      // With an object store, nodes share no folder.
      dataDir: join(this.config?.storage?.kind === 's3' ? folder : this.folder, 'data'),
      place: { host: host.address, port: PORT, prefix: host.prefix, env, binary: this.binary },
    });
    Object.assign(node, { name, machine: host, headers: { Authorization: `Bearer ${this.#adminKey}` } });
    this.nodes.push(node);
    return node;
  }

  async #end(hasPassed) {
    await Promise.all(this.nodes.map((node) => node.dispose()));
    await this.receiver?.down();
    for (const server of [this.balancer, this.pooler, this.database, this.standby]) await server?.kill();
    if (!hasPassed || process.env.LONGSHORE_KEEP) console.log(`logs are kept in ${this.folder}`);
    else await rm(this.folder, { recursive: true, force: true });
  }

  #settings() {
    const hash = createHash('sha256').update(this.#adminKey).digest('hex');
    return {
      database: {
        url: urlOf(this.databaseHosts),
        ...(this.pooler && { direct_url: urlOf(this.database.address) }),
        replica_urls: this.readsStandby ? [urlOf(this.standby.address)] : [],
      },
      auth: { open: true, hosts: ADDRESSES, admin_keys: [`sha256:${hash}`], server_key_file: join(this.folder, 'server.key') },
      limits: {
        max_active_uploads_per_address: 1000,
        max_connections_per_address: 2000,
        sweep_every: '500ms',
        stall_after: '2s',
      },
      storage: { checkpoint_every: '100ms', checkpoint_size: '256KiB' },
      webhooks: {
        // A receiver that does not answer in time gets nothing for a minute, and this one shares a busy machine.
        timeout: '8s',
        connect_timeout: '1s',
        lease: '13s',
        retry_schedule: Array(60).fill('1s'),
        retry_jitter_percent: 0,
        breaker_pause: '1s',
        max_in_flight_per_endpoint: 64,
        progress_every: '1s',
        progress_min_size: '64KiB',
        endpoints: [this.receiver.endpoint({ name: 'all', events: ['*'] })],
      },
    };
  }
}

function urlOf(hosts) {
  return `postgres://postgres@${hosts}/postgres?sslmode=disable`;
}

function clusterSettings(host) {
  return { storage: { shared: true }, cluster: { peer_listen: `${host.address}:${PEER_PORT}` } };
}

/** Returns settings in which later arguments override earlier ones, section by section. */
function merge(...all) {
  const merged = {};
  for (const [key, value] of all.flatMap((settings) => Object.entries(settings ?? {}))) {
    const isSection = typeof value === 'object' && !Array.isArray(value);
    merged[key] = isSection ? { ...merged[key], ...value } : value;
  }
  return merged;
}
