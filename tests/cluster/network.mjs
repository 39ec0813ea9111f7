// Hosts: network namespaces on the bridge of tests/cluster/sandbox.sh. The tests themselves are at its address.
//
// A host can be cut off by firewall rules inside its namespace, in one direction or in both, and its line can be slow.
// Everything is gone at the end of tests/cluster/sandbox.sh, which must run the tests.

import { execFile, spawn } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** The address of clients and of receivers of webhooks. */
export const HERE = '10.77.0.1';
export const NETWORK = '10.77.0.0/24';
/** All addresses that hosts may have. */
export const ADDRESSES = Array.from({ length: 60 }, (_, i) => `10.77.0.${i + 1}`);

/** An empty folder in memory, for mounts. */
export const SCRATCH = process.env.CLUSTER_SCRATCH;
if (!SCRATCH) throw new Error('please run this by tests/cluster/sandbox.sh');

let hosts = 0;

export class Host {
  #port;

  /** Adds a host to the network. Addresses are never used twice. */
  static async add(name) {
    hosts += 1;
    const host = new Host();
    host.name = `${name}-${hosts}`;
    host.address = `10.77.0.${hosts + 1}`;
    const port = (host.#port = `port${hosts}`);
    await ip('netns', 'add', host.name);
    await ip('link', 'add', port, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', host.name);
    await ip('link', 'set', port, 'master', 'br0', 'up');
    await host.#run('ip', 'link', 'set', 'lo', 'up');
    await host.#run('ip', 'address', 'add', `${host.address}/24`, 'dev', 'eth0');
    await host.#run('ip', 'link', 'set', 'eth0', 'up');
    return host;
  }

  /** The command that executes another one on this host; it becomes that process. */
  get prefix() {
    return ['ip', 'netns', 'exec', this.name];
  }

  /** Starts a program on this host. */
  spawn(program, args, options) {
    const [ip, ...within] = this.prefix;
    return spawn(ip, [...within, program, ...args], options);
  }

  /** Mounts a file system in memory of this size, and returns its folder. */
  async disk(size) {
    const folder = join(SCRATCH, this.name);
    await mkdir(folder);
    await run('mount', ['-t', 'tmpfs', '-o', `size=${size},mode=0755`, 'tmpfs', folder]);
    return folder;
  }

  /**
   * Drops packets from and to another host until `heal`. `how` is `{from, to, port}`: only packets from that host, only
   * those to it, only those of connections to this port, on either of the two hosts.
   */
  async cut(other, { from = true, to = true, port } = {}) {
    const ports = port ? [`tcp dport ${port}`, `tcp sport ${port}`] : [''];
    const rules = (is, side) => (is ? ports.map((which) => `ip ${side} ${other.address} ${which} drop;`).join(' ') : '');
    await this.#nft(`
      table ip cuts {
        chain arriving { type filter hook input priority 0; ${rules(from, 'saddr')} }
        chain leaving { type filter hook output priority 0; ${rules(to, 'daddr')} }
      }`);
  }

  /** Lets every packet pass again. */
  async heal() {
    await this.#nft('table ip cuts\ndelete table ip cuts');
  }

  /** Limits what arrives at this host, in bytes per second. */
  async limitRate(bytes) {
    const shape = ['tbf', 'rate', `${bytes * 8}bit`, 'burst', '64kb', 'latency', '100ms'];
    await run('tc', ['qdisc', 'replace', 'dev', this.#port, 'root', ...shape]);
  }

  /** Sends a signal to every process of this host, as when its power fails. */
  async signalAll(signal) {
    const { stdout } = await run('ip', ['netns', 'pids', this.name]);
    for (const pid of stdout.split('\n').filter(Boolean)) sendSignal(Number(pid), signal);
  }

  async #run(...command) {
    await run(this.prefix[0], [...this.prefix.slice(1), ...command]);
  }

  async #nft(rules) {
    const nft = this.spawn('nft', ['-f', '-'], { stdio: ['pipe', 'inherit', 'inherit'] });
    nft.stdin.end(rules);
    const code = await new Promise((done) => nft.once('close', done));
    if (code !== 0) throw new Error(`nft has rejected: ${rules}`);
  }
}

/** Sends a signal to a process, unless it has ended. */
export function sendSignal(pid, signal) {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if (error.code !== 'ESRCH') throw error;
  }
}

async function ip(...args) {
  await run('ip', args);
}
