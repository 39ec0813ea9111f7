// The server under test: the real executable, on its own port, with its own data folder.
//
// It is driven as an operator would drive it: flags, a configuration file, signals. `kill` is `kill -9`; `restart`
// starts it again on the same port and the same data.

import { spawn } from 'node:child_process';
import { closeSync, openSync, writeSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { within } from './until.mjs';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const TARGET = resolve(ROOT, process.env.CARGO_TARGET_DIR ?? 'target');
const BINARY = resolve(ROOT, process.env.LONGSHORE_BIN ?? join(TARGET, 'release', 'longshore'));
const SCRATCH = join(ROOT, 'target', 'test-data');

/** The time limit of a start; a debug build that recovers many uploads on a busy machine is slow. */
const START_LIMIT_MS = 90_000;

/** Makes a new empty folder for one test, below `target/`, and therefore on a real disk and ignored by git. */
export async function scratchFolder(name) {
  await mkdir(SCRATCH, { recursive: true });
  return mkdtemp(join(SCRATCH, `${name}-`));
}

export class Server {
  #child;
  #exit;
  #log;
  #ownsFolder = true;

  constructor(folder, dataDir, configFile, { host = '127.0.0.1', port = 0, prefix = [], env = {}, binary = BINARY } = {}) {
    Object.assign(this, { host, port, prefix, env, binary });
    this.folder = folder;
    this.dataDir = dataDir;
    this.configFile = configFile;
    this.logFile = join(folder, 'server.log');
    this.#log = openSync(this.logFile, 'a');
    this.starts = 0;
  }

  /**
   * Starts a server. `config` is the configuration file as an object: sections contain values, and lists of objects
   * become `[[section.name]]`. With a node:test context `t`, it ends with the test. `place` is where it runs:
   * `{host, port, prefix, env, binary}`, the address that it listens on, the command that executes the program
   * elsewhere, additional variables, and the program itself. Without `folder`, its configuration and its log are in a
   * new one, which ends with it.
   */
  static async start({ name = 'server', config = {}, dataDir, place, t } = {}) {
    const server = await Server.prepare({ name, config, dataDir, place, t });
    await server.restart();
    return server;
  }

  /** Prepares everything except the start. */
  static async prepare({ name = 'server', config = {}, dataDir, place, folder: given, t } = {}) {
    const folder = given ?? (await scratchFolder(name));
    const configFile = join(folder, 'longshore.toml');
    await writeFile(configFile, toToml(config));
    const server = new Server(folder, dataDir ?? join(folder, 'data'), configFile, place);
    server.#ownsFolder = given === undefined;
    t?.after(() => server.dispose());
    return server;
  }

  get url() {
    return `http://${this.host}:${this.port}`;
  }

  get endpoint() {
    return `${this.url}/files`;
  }

  get running() {
    return this.#child !== undefined;
  }

  get pid() {
    return this.#child?.pid;
  }

  /** Starts the program without waiting for it. */
  launch() {
    if (this.running) throw new Error('the server is running already');
    const address = `${this.host}:${this.port}`;
    const serve = [this.binary, 'serve', '--listen', address, '--data-dir', this.dataDir, '--config', this.configFile];
    const [program, ...args] = [...this.prefix, ...serve];
    const child = spawn(program, args, {
      env: { ...withoutSettings(process.env), ...this.env },
      stdio: ['ignore', 'pipe', this.#log],
    });
    this.starts += 1;
    writeSync(this.#log, `--- start ${this.starts}, process ${child.pid}\n`);
    this.#child = child;
    this.#exit = new Promise((done) => {
      child.once('error', (error) => done({ error }));
      child.once('close', (code, signal) => done({ code, signal }));
    });
    this.#exit.then((exit) => {
      if (this.#child === child) this.#child = undefined;
      if (this.#log) writeSync(this.#log, `--- ended: ${describe(exit)}\n`);
    });
    return child;
  }

  /** Starts the program on its previous port and waits until it listens. */
  async restart() {
    const child = this.launch();
    const exit = this.#exit;
    const listening = (async () => {
      for await (const line of createInterface({ input: child.stdout })) {
        const found = /^listening on http:\/\/.*:(\d+)$/.exec(line);
        if (found) return Number(found[1]);
      }
      throw new Error(`the server ended before it listened (${describe(await exit)}), ${this.binary}; see ${this.logFile}`);
    })();
    this.port = await within(START_LIMIT_MS, `the server to listen; see ${this.logFile}`, listening);
    child.stdout.resume();
    return this;
  }

  /** `kill -9`, and waits until the process is gone. */
  kill() {
    return this.#end('SIGKILL');
  }

  /** Sends `SIGTERM`; returns the end of the process: `{code, signal}`. */
  stop() {
    return this.#end('SIGTERM');
  }

  /** Sends a signal without waiting. */
  signal(name) {
    this.#child?.kill(name);
  }

  /** Resolves to the end of the process. */
  ended() {
    return this.#exit;
  }

  async #end(signal) {
    if (!this.running) return this.#exit;
    const exit = this.#exit;
    this.#child.kill(signal);
    return within(60_000, `the server to end after ${signal}; see ${this.logFile}`, exit);
  }

  /** Ends the process. A folder of its own is removed too, unless LONGSHORE_KEEP is set. */
  async dispose() {
    await this.kill();
    if (this.#log) closeSync(this.#log);
    this.#log = undefined;
    if (!this.#ownsFolder) return;
    if (process.env.LONGSHORE_KEEP) console.log(`kept ${basename(this.folder)} in ${SCRATCH}`);
    else await rm(this.folder, { recursive: true, force: true });
  }
}

function describe({ error, signal, code }) {
  return error?.message ?? signal ?? `exit status ${code}`;
}

/** LONGSHORE_BIN and similar variables belong to the tests; the server would read every LONGSHORE_* as a setting. */
export function withoutSettings(env) {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !name.startsWith('LONGSHORE_')));
}

function toToml(config) {
  const isTable = (value) => typeof value === 'object' && !Array.isArray(value);
  const isTableList = (value) => Array.isArray(value) && value.length > 0 && value.every(isTable);
  const isPlain = (value) => value !== undefined && !isTable(value) && !isTableList(value);
  const lines = [];
  const write = (table, path) => {
    // TOML strings, numbers, booleans and lists of them are written as in JSON.
    for (const [key, value] of Object.entries(table)) if (isPlain(value)) lines.push(`${key} = ${JSON.stringify(value)}`);
    for (const [key, value] of Object.entries(table)) {
      const name = [...path, key].join('.');
      if (isTableList(value)) {
        for (const entry of value) {
          lines.push('', `[[${name}]]`);
          write(entry, [...path, key]);
        }
      } else if (value !== undefined && isTable(value)) {
        lines.push('', `[${name}]`);
        write(value, [...path, key]);
      }
    }
  };
  write(config, []);
  return `${lines.join('\n')}\n`;
}
