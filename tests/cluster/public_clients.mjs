// Clients that people use, each in a process, and what makes them resume. Each function returns the URL of its upload.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { basename } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { list } from '../clients/harness/api.mjs';
import { sleep } from '../clients/harness/until.mjs';
import { UploadProcess } from '../clients/node/client.mjs';

const run = promisify(execFile);
const PYTHON = fileURLToPath(new URL('../../target/test-venv/bin/python', import.meta.url));
const TUSPY = fileURLToPath(new URL('tuspy_upload.py', import.meta.url));

/** tus-js-client. Returns `{process, done}`: the process tells what it was answered. */
export function tusJsClient(endpoint, file, { timeout }) {
  const process = new UploadProcess({ endpoint, file, options: { metadata: { filename: basename(file) } } });
  return { process, done: process.success({ timeout }) };
}

/** tuspy, in chunks. */
export async function tuspy(endpoint, file, { timeout }) {
  const { stdout } = await run(PYTHON, ['-B', TUSPY, `${endpoint}/`, file], { timeout });
  return stdout.trim();
}

/** curl, which sends a file and, after a break, the rest from the offset that the status reports. */
export async function curl(server, file, { timeout }) {
  const name = basename(file);
  const deadline = Date.now() + timeout;
  const send = async (...args) => {
    const { stdout } = await run('curl', ['-sS', '-o', '/dev/null', '-w', '%{http_code}', ...args]).catch(() => ({ stdout: '000' }));
    return Number(stdout);
  };
  let code = await send('-T', file, `${server.endpoint}/${name}`);
  for (;;) {
    const uploads = await list(server, 'limit=500').catch(() => []);
    const upload = uploads.find(({ filename }) => filename === name);
    if (upload?.stage === 'completed') return `${server.endpoint}/${upload.id}`;
    assert.ok(Date.now() < deadline, `curl has not finished; its last answer was ${code}, its upload is ${JSON.stringify(upload)}`);
    if (upload) code = await send('-C', String(upload.offset), '-T', file, `${server.endpoint}/${upload.id}`);
    else code = await send('-T', file, `${server.endpoint}/${name}`);
    await sleep(200);
  }
}
