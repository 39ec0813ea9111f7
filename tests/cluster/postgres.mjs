// PostgreSQL servers on hosts of the network: a primary, its standby, and what happens to them.

import { execFile } from 'node:child_process';
import { closeSync, openSync, readdirSync } from 'node:fs';
import { chown, mkdir, open, rm, writeFile } from 'node:fs/promises';
import { once } from 'node:events';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { until } from '../clients/harness/until.mjs';
import { Host, NETWORK, sendSignal } from './network.mjs';

const run = promisify(execFile);
const PORT = 5432;

/** PostgreSQL and its poolers refuse to run as root. */
export const AS_OWNER = ['setpriv', '--reuid=postgres', '--regid=postgres', '--clear-groups'];

/** Who may connect: everyone on the network, and a pooler on the same host. */
const ACCESS = ['all', 'replication'].map((to) => `host ${to} all ${NETWORK} trust\nhost ${to} all 127.0.0.1/32 trust\n`).join('');

/** The name by which the standby is known to `synchronous_standby_names`. */
const STANDBY = 'standby';

export class Postgres {
  #server;
  #settings;

  /**
   * Starts a new database server on a host of its own. Its data is in memory, `size` at most. With `synchronous`, commits
   * wait for the standby.
   */
  static async start({ name = 'db', size = '1g', settings = {}, folder }) {
    const server = await Postgres.#prepare(name, size, settings, folder);
    await server.#asOwner('initdb', '-D', server.data, '-U', 'postgres', '--auth=trust', '--no-locale', '-E', 'UTF8', '--no-sync');
    await writeFile(join(server.data, 'pg_hba.conf'), ACCESS);
    await server.launch();
    return server;
  }

  /** Starts a standby of this server. `synchronous`: from then on commits of this server wait for it. */
  async addStandby({ name = 'standby', size = '1g', synchronous = true, folder }) {
    const standby = await Postgres.#prepare(name, size, {}, folder);
    const from = `host=${this.host.address} port=${PORT} user=postgres application_name=${STANDBY}`;
    await standby.#asOwner('pg_basebackup', '-d', from, '-D', standby.data, '--checkpoint=fast', '--write-recovery-conf', '--no-sync');
    await standby.launch();
    await until('the standby to follow', async () => (await this.query('SELECT state FROM pg_stat_replication'))[0]?.state === 'streaming');
    if (synchronous) await this.#set('synchronous_standby_names', `ANY 1 (${STANDBY})`);
    return standby;
  }

  static async #prepare(name, size, settings, folder) {
    const server = new Postgres();
    server.host = await Host.add(name);
    const disk = await server.host.disk(size);
    server.data = join(disk, 'data');
    server.logFile = join(folder, `${server.host.name}.log`);
    await mkdir(server.data, { mode: 0o700 });
    const { stdout } = await run('id', ['-u', 'postgres']);
    await chown(server.data, Number(stdout), Number(stdout));
    server.#settings = {
      listen_addresses: '*',
      unix_socket_directories: '',
      max_connections: 300,
      max_locks_per_transaction: 256,
      shared_buffers: '64MB',
      max_wal_size: '256MB',
      // Losses of power are not simulated here; a process that is killed loses nothing without this.
      fsync: 'off',
      wal_receiver_timeout: '5s',
      wal_sender_timeout: '5s',
      ...settings,
    };
    return server;
  }

  get address() {
    return `${this.host.address}:${PORT}`;
  }

  /** Starts the server on its data, and waits until it accepts connections. */
  async launch() {
    const log = openSync(this.logFile, 'a');
    const settings = Object.entries(this.#settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
    const [setpriv, ...owner] = AS_OWNER;
    const server = this.host.spawn(setpriv, [...owner, program('postgres'), '-D', this.data, ...settings], {
      stdio: ['ignore', log, log],
    });
    closeSync(log);
    const ended = once(server, 'close');
    this.#server = { pid: server.pid, ended, isRunning: true };
    const own = this.#server;
    ended.then(() => (own.isRunning = false));
    await until(
      `${this.host.name} to accept connections; see ${this.logFile}`,
      () => {
        if (!own.isRunning) throw new Error(`the database server has ended; see ${this.logFile}`);
        return this.query('SELECT 1');
      },
      { timeout: 60_000 },
    );
  }

  get isRunning() {
    return this.#server.isRunning;
  }

  /** `kill -9` of the server and all its sessions at once, as when the machine fails. */
  async kill() {
    await this.host.signalAll('SIGKILL');
    await this.#server.ended;
    await rm(join(this.data, 'postmaster.pid'), { force: true });
  }

  /** Makes a standby the primary. Its commits wait for nobody. */
  async promote() {
    await this.query('SELECT pg_promote()');
    await until('the promotion', async () => !(await this.query('SELECT pg_is_in_recovery() AS is_standby'))[0].is_standby);
  }

  /** Sends a signal to the process that receives the log of the primary. */
  async signalReceiver(signal) {
    const [{ pid }] = await this.query("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walreceiver'");
    sendSignal(pid, signal);
    return pid;
  }

  /** Fills the disk, until `freeDisk`. */
  async fillDisk() {
    const filler = await open(this.#filler, 'w');
    const block = Buffer.alloc(64 << 10);
    try {
      for (;;) await filler.write(block);
    } catch (error) {
      if (error.code !== 'ENOSPC') throw error;
    } finally {
      await filler.close();
    }
  }

  async freeDisk() {
    await rm(this.#filler);
  }

  get #filler() {
    return join(dirname(this.data), 'filler');
  }

  /** Ends every session of the nodes. */
  async endSessions() {
    await this.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'longshore'");
  }

  /** Runs a query and returns its rows as objects. */
  async query(sql) {
    const text = /^\s*(select|with)/i.test(sql) ? `SELECT coalesce(json_agg(q), '[]') FROM (${sql}) q` : sql;
    const args = ['-h', this.host.address, '-U', 'postgres', '-X', '-A', '-t', '-q', '-v', 'ON_ERROR_STOP=1', '-c', text];
    const env = { ...process.env, PGCONNECT_TIMEOUT: '2' };
    const { stdout } = await run(program('psql'), args, { env, maxBuffer: 1 << 28 });
    return stdout.trim() ? JSON.parse(stdout) : [];
  }

  async #set(name, value) {
    await this.query(`ALTER SYSTEM SET ${name} = '${value}'`);
    await this.query('SELECT pg_reload_conf()');
  }

  async #asOwner(command, ...args) {
    const [ip, ...within] = this.host.prefix;
    await run(ip, [...within, ...AS_OWNER, program(command), ...args], { cwd: '/' });
  }
}

/** Returns the path of a program of the newest version of PostgreSQL. */
function program(name) {
  if (process.env.PGBIN) return join(process.env.PGBIN, name);
  const versions = readdirSync('/usr/lib/postgresql').sort((a, b) => Number(b) - Number(a));
  return join('/usr/lib/postgresql', versions[0], 'bin', name);
}
