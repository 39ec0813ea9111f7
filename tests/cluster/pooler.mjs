// PgBouncer on the host of the database, in transaction mode: sessions share few server connections.

import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';
import { until } from '../clients/harness/until.mjs';
import { AS_OWNER } from './postgres.mjs';

const PORT = 6432;

export class Pooler {
  #child;
  #ended;

  static async start(database, folder) {
    const pooler = new Pooler();
    pooler.host = database.host;
    pooler.logFile = join(folder, 'pooler.log');
    // Beside the data, since the owner may not be allowed to read the folder of the logs.
    pooler.configFile = join(dirname(database.data), 'pgbouncer.ini');
    await writeFile(pooler.configFile, `
[databases]
* = host=127.0.0.1 port=5432 user=postgres
[pgbouncer]
listen_addr = *
listen_port = ${PORT}
unix_socket_dir =
auth_type = any
pool_mode = transaction
max_client_conn = 200
default_pool_size = 6
`);
    await pooler.launch();
    return pooler;
  }

  get address() {
    return `${this.host.address}:${PORT}`;
  }

  async launch() {
    const log = openSync(this.logFile, 'a');
    const [setpriv, ...owner] = AS_OWNER;
    this.#child = this.host.spawn(setpriv, [...owner, 'pgbouncer', this.configFile], { stdio: ['ignore', log, log] });
    closeSync(log);
    this.#ended = once(this.#child, 'close');
    await until(`the pooler to listen; see ${this.logFile}`, () => this.#accepts());
  }

  async kill() {
    this.#child.kill('SIGKILL');
    await this.#ended;
  }

  #accepts() {
    return new Promise((done, failed) => {
      const socket = connect({ host: this.host.address, port: PORT });
      socket.once('error', failed);
      socket.once('connect', () => done(socket.destroy()));
    });
  }
}
