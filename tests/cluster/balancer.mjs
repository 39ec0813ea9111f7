// HAProxy on a host of the network, with the configuration of docs/proxies.md.

import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { readdressed, sample } from '../clients/harness/documents.mjs';
import { until } from '../clients/harness/until.mjs';
import { Host } from './network.mjs';

export class Balancer {
  #child;
  #ended;
  port = 8081;

  /** Starts it in front of three nodes. */
  static async start({ nodes, folder }) {
    const balancer = new Balancer();
    balancer.machine = await Host.add('balancer');
    balancer.host = balancer.machine.address;
    balancer.name = 'the balancer';
    balancer.configFile = join(folder, 'haproxy.cfg');
    balancer.logFile = join(folder, 'haproxy.log');
    const addresses = { '10.0.0.10:8081': `${balancer.host}:${balancer.port}` };
    for (const [i, { host, port }] of nodes.entries()) addresses[`10.0.0.1${i + 1}:8080`] = `${host}:${port}`;
    await writeFile(balancer.configFile, readdressed(sample('docs/proxies.md', 'haproxy-cluster', 'balance'), addresses));
    await balancer.launch();
    return balancer;
  }

  get url() {
    return `http://${this.host}:${this.port}`;
  }

  get endpoint() {
    return `${this.url}/files`;
  }

  /** Starts it, with a master process that can be told to reload, and waits until it forwards requests. */
  async launch() {
    const log = openSync(this.logFile, 'a');
    this.#child = this.machine.spawn('haproxy', ['-W', '-f', this.configFile], { stdio: ['ignore', log, log] });
    closeSync(log);
    this.#ended = once(this.#child, 'close');
    await until(`the balancer to forward requests; see ${this.logFile}`, async () => (await fetch(`${this.url}/healthz`)).ok);
  }

  /** Returns whether it has ever taken a node out of service. */
  async hasLeftOut(node) {
    return (await readFile(this.logFile, 'utf8')).includes(`same_upload_same_node/${node} is DOWN`);
  }

  /** Replaces the process that serves; the former one serves the requests that it has. */
  reload() {
    this.#child.kill('SIGUSR2');
  }

  /** `kill -9` of all its processes. */
  async kill() {
    await this.machine.signalAll('SIGKILL');
    await this.#ended;
  }
}
