// tus-js-client, in this process and in others.

import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { Upload } from 'tus-js-client';
import { until, within } from '../harness/until.mjs';

const SCRIPT = fileURLToPath(new URL('./upload.mjs', import.meta.url));

/** Frequent, early retries: these tests cut connections on purpose. */
const IMPATIENT = [0, ...Array(100).fill(100)];

/** The time limit of one upload, with all its retries. */
const LIMIT_MS = 60_000;

/** Starts an upload. Returns the client's object, and `done`, which resolves to the upload's URL or rejects. */
export function startUpload(source, options) {
  let upload;
  const ended = new Promise((onDone, onError) => {
    upload = new Upload(source, {
      retryDelays: IMPATIENT,
      ...options,
      onSuccess: () => onDone(upload.url),
      onError,
    });
    upload.start();
  });
  const done = within(LIMIT_MS, 'the client to finish', ended).catch(async (error) => {
    await upload.abort();
    throw error;
  });
  done.catch(() => {}); // A test that awaits `done` sees the error; a test that abandons the upload does not need it.
  return { upload, done };
}

export function uploadAll(source, options) {
  return startUpload(source, options).done;
}

/** tus-js-client in a separate process: its output, and ways to end it. */
export class UploadProcess {
  told = [];

  /**
   * Starts the process. `task` is the argument of upload.mjs. With a node:test context `t`, the process ends with the
   * test.
   */
  constructor(task, { t } = {}) {
    this.child = spawn(process.execPath, [SCRIPT, JSON.stringify(task)], { stdio: ['ignore', 'pipe', 'inherit'] });
    this.exit = new Promise((done) => this.child.once('close', (code, signal) => done({ code, signal })));
    t?.after(() => this.kill());
    createInterface({ input: this.child.stdout }).on('line', (line) => this.told.push(JSON.parse(line)));
  }

  all(event) {
    return this.told.filter((line) => line.event === event);
  }

  get url() {
    return this.all('url')[0]?.url ?? this.all('success')[0]?.url;
  }

  /** Waits until the client knows the URL of its upload. */
  async urlKnown() {
    return until('the client to have an upload URL', () => this.url);
  }

  async kill() {
    this.child.kill('SIGKILL');
    return this.exit;
  }

  /** Waits for the client to exit without help, and for its success. */
  async success({ timeout = LIMIT_MS } = {}) {
    const exit = await within(timeout, 'the client process to end', this.exit);
    const [success] = this.all('success');
    if (!success) throw new Error(`the client ended with ${JSON.stringify(exit)}: ${JSON.stringify(this.told.slice(-3))}`);
    return success.url;
  }
}
