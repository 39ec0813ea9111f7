// The samples of the README and of docs/, run as they are pasted. Only the addresses are replaced.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { assertStored, list } from '../harness/api.mjs';
import { digestOf, noise } from '../harness/bytes.mjs';
import { Program, freePort, readdressed, sample } from '../harness/documents.mjs';
import { newSecret } from '../harness/receiver.mjs';
import { Server } from '../harness/server.mjs';
import { uploadAll } from './client.mjs';
import { writeFile } from 'node:fs/promises';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const BINARY = process.env.LONGSHORE_BIN ?? join(ROOT, 'target/release/longshore');
const PYTHON = join(ROOT, 'target/test-venv/bin/python');
const UPLOADED = ['created', 'receiving', 'received', 'verified', 'stored', 'completed'].map((stage) => `upload.${stage}`);
const bytes = noise(300_000, 9);

/** Runs `longshore webhooks test`, as an operator would. */
async function testEndpoint(server, name) {
  const { stdout } = await promisify(execFile)(BINARY, ['webhooks', 'test', name, '--server', server.url]);
  return stdout;
}

const RECEIVERS = [
  { page: 'README.md', language: 'js', file: 'receiver.mjs', command: [process.execPath], about: (line) => /^\d+ (\S+) video\.mp4 \d+\/300000$/.exec(line)?.[1] },
  { page: 'docs/webhooks.md', language: 'js', file: 'receiver.mjs', command: [process.execPath], about: (line) => /^evt_\S+ [-0-9a-f]{36} \d+ (\S+)$/.exec(line)?.[1] },
  { page: 'docs/webhooks.md', language: 'python', file: 'receiver.py', command: [PYTHON], about: (line) => /^evt_\S+ [-0-9a-f]{36} \d+ (\S+)$/.exec(line)?.[1] },
];

for (const { page, language, file, command, about } of RECEIVERS) {
  test(`the receiver of ${page} in ${language} hears a test and a whole upload`, async (t) => {
    const port = await freePort();
    const text = sample(page, language, 'WEBHOOK_SECRET');
    const secret = newSecret();
    const endpoint = { name: 'backend', url: `http://127.0.0.1:${port}/hooks`, secret, events: ['*'] };
    const config = { webhooks: { endpoints: [endpoint], retry_schedule: ['1h'], progress_every: '1s', progress_min_size: '1B' } };
    const env = { WEBHOOK_SECRET: secret };
    const receiver = await Program.start({ t, name: file, text: readdressed(text, { 9000: String(port) }), command, env, listens: port });
    const server = await Server.start({ name: 'documents', t, config });
    assert.match(await testEndpoint(server, 'backend'), /^result: 204 in /m);
    await receiver.prints(/webhook\.ping/);
    assert.doesNotMatch(receiver.output, /undefined|None|Traceback/, 'a test is no upload');
    await uploadAll(bytes, { endpoint: server.endpoint, metadata: { filename: 'video.mp4' } });
    await receiver.prints(/upload\.completed/);
    const heard = receiver.lines.map(about).filter((type) => type && type !== 'upload.progress');
    assert.deepEqual(heard, UPLOADED, receiver.output);
    const unread = await server.stop();
    assert.equal(unread.code, 0);
  });
}

test('the upload of the README sends a file', async (t) => {
  const server = await Server.start({ name: 'documents', t });
  const text = readdressed(sample('README.md', 'js', 'tus-js-client'), { 'http://127.0.0.1:8080': server.url });
  const path = join(server.folder, 'video.mp4');
  await writeFile(path, bytes);
  const program = await Program.start({ t, name: 'upload.mjs', text, args: [path] });
  assert.equal(await program.ends(), 0, program.output);
  const [, url] = /uploaded: (\S+)/.exec(program.output);
  const stored = await assertStored(server, url, digestOf(bytes));
  assert.equal(stored.filename, 'video.mp4');
});

for (const [how, token] of [
  ['without a token', undefined],
  ['with a read token', 'the-token-of-the-backend'],
]) {
  test(`the sample of docs/status.md follows an upload to its end, ${how}`, async (t) => {
    const server = await Server.start({ name: 'documents', t, config: token ? { auth: { token } } : {} });
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const url = await uploadAll(bytes, { endpoint: server.endpoint, headers });
    const text = sample('docs/status.md', 'js', 'follow.mjs');
    const address = url.replace('/files/', '/api/v1/uploads/');
    const env = {};
    if (token) env.TOKEN = (await (await fetch(`${address}/read-token`, { method: 'POST', headers })).json()).token;
    const program = await Program.start({ t, name: 'follow.mjs', text, args: [address], env });
    assert.equal(await program.ends(), 0, program.output);
    assert.equal(program.output, 'completed 100\n');
  });
}

test('the application of docs/hooks.md decides who may do what', async (t) => {
  const port = await freePort();
  const secret = newSecret();
  const text = readdressed(sample('docs/hooks.md', 'js', 'HOOKS_SECRET'), { 9000: String(port) });
  await Program.start({ t, name: 'hooks.mjs', text, env: { HOOKS_SECRET: secret }, listens: port });
  const asked = `http://127.0.0.1:${port}/hooks`;
  const hooks = { secret, forward_headers: ['authorization'], pre_create: asked, pre_finish: asked, pre_terminate: asked };
  const server = await Server.start({ name: 'documents', t, config: { hooks } });
  const alice = { Authorization: 'Bearer a-session-of-alice' };
  const options = { endpoint: server.endpoint, metadata: { filename: 'holiday.mp4', user: 'bob' } };
  await assert.rejects(uploadAll(bytes, options), /log in first/);
  await assert.rejects(uploadAll(bytes, { ...options, headers: alice }), /only videos, please/);
  const video = Buffer.concat([Buffer.from('000000186674797069736f6d0000020069736f6d69736f32', 'hex'), bytes]);
  const url = await uploadAll(video, { ...options, headers: alice });
  const [stored] = await list(server, 'stage=completed');
  assert.deepEqual(stored.metadata, { filename: 'holiday.mp4', user: 'alice' }, 'not as whom the client says');
  const remove = (headers) => fetch(url, { method: 'DELETE', headers: { 'Tus-Resumable': '1.0.0', ...headers } });
  assert.equal((await remove({})).status, 403);
  assert.equal((await remove(alice)).status, 204);
});
