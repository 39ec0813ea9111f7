// Samples of the documents: extracted from a page as a reader would copy them, and run.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { scratchFolder } from './server.mjs';
import { until, within } from './until.mjs';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

/** Returns the only block of a page in this language that contains this text. */
export function sample(page, language, holding) {
  const text = readFileSync(join(ROOT, page), 'utf8');
  const blocks = [...text.matchAll(/^```(\S*)\n(.*?)^```$/gms)].map(([, kind, body]) => ({ kind, body }));
  const found = blocks.filter(({ kind, body }) => kind === language && body.includes(holding));
  if (found.length !== 1) throw new Error(`${page} has ${found.length} blocks of ${language} with ${holding}`);
  return found[0].body;
}

/** Returns a sample with the addresses of a test instead of those of the document; each of the latter must occur. */
export function readdressed(text, addresses) {
  return Object.entries(addresses).reduce((changed, [told, real]) => {
    if (!changed.includes(told)) throw new Error(`the sample does not have ${told}`);
    return changed.replaceAll(told, real);
  }, text);
}

/** Returns a port without a listener. */
export async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

/** A program in its own folder, with the packages of the tests. */
export class Program {
  output = '';

  static async start({ t, name, text, command = [process.execPath], args = [], env = {}, listens }) {
    const program = new Program();
    const folder = await scratchFolder('sample');
    await writeFile(join(folder, name), text);
    await symlink(join(ROOT, 'tests/node_modules'), join(folder, 'node_modules'));
    program.child = spawn(command[0], [...command.slice(1), name, ...args], {
      cwd: folder,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    program.ended = once(program.child, 'close').then(([code]) => code);
    for (const stream of [program.child.stdout, program.child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => (program.output += text));
    }
    t.after(() => program.child.kill('SIGKILL'));
    if (listens) await until(`${name} to listen; it said ${program.output}`, () => program.#answers(listens));
    return program;
  }

  async #answers(port) {
    if (this.child.exitCode !== null) throw new Error(`it has ended: ${this.output}`);
    const response = await fetch(`http://127.0.0.1:${port}/`, { method: 'POST', body: '{}' });
    return response.status === 400;
  }

  get lines() {
    return this.output.split('\n').filter((line) => line);
  }

  /** Waits until it has printed this text. */
  prints(pattern) {
    return until(`${pattern} to be printed, not ${this.output}`, () => pattern.exec(this.output));
  }

  /** Waits for its end, and returns its exit status. */
  ends() {
    return within(60_000, 'the sample to end', this.ended);
  }
}
