// A client that writes at one node and reads at others, which read from a replica of the database. It passes the position
// of each write on, and fails when an answer is older than what it was told.

import assert from 'node:assert/strict';
import { TUS, idOf } from '../clients/harness/api.mjs';

const POSITION = 'longshore-position';
const OCTETS = { 'Content-Type': 'application/offset+octet-stream' };
const SIZE = 2_000;

/**
 * Creates an upload at `writer`, sends its first half, sends the rest if it `completes`, and deletes it. After each step
 * its status and a list of uploads are read at every one of `readers`.
 */
export async function findOwnWrites(writer, readers, { mark, completes }) {
  const metadata = `mark ${Buffer.from(mark).toString('base64')}`;
  const created = await write(writer, 'POST', writer.endpoint, { 'Upload-Length': SIZE, 'Upload-Metadata': metadata });
  const url = new URL(created.location, writer.url).href;
  const upload = { id: idOf(url), mark };
  await assertFound(readers, upload, created, { stage: 'created', offset: 0 });

  const half = await append(writer, url, 0);
  await assertFound(readers, upload, half, { stage: 'receiving', offset: SIZE / 2 });
  if (completes) {
    const whole = await append(writer, url, SIZE / 2);
    await assertFound(readers, upload, whole, { stage: 'completed', offset: SIZE });
    const removed = await write(writer, 'DELETE', `${writer.url}/api/v1/uploads/${upload.id}`, writer.headers);
    await assertFound(readers, upload, removed, { stage: 'completed', removed: true });
  } else {
    const terminated = await write(writer, 'DELETE', url, {});
    await assertFound(readers, upload, terminated, { stage: 'terminated' });
  }
}

function append(writer, url, offset) {
  return write(writer, 'PATCH', url, { ...OCTETS, 'Upload-Offset': offset }, Buffer.alloc(SIZE / 2));
}

/** Sends a request that writes. Returns its position, and the location if there is one. */
async function write(node, method, url, headers, body) {
  const response = await fetch(url, { method, headers: { ...TUS, ...headers }, body });
  assert.ok(response.ok, `${method} ${url} answered ${response.status}: ${await response.text()}`);
  const position = response.headers.get(POSITION);
  assert.ok(position, `${method} at ${node.name} names no position`);
  return { position, location: response.headers.get('location') };
}

async function assertFound(readers, { id, mark }, { position }, { stage, offset, removed = false }) {
  for (const reader of readers) {
    const status = await read(reader, `/api/v1/uploads/${id}`, position);
    const { uploads } = await read(reader, `/api/v1/uploads?metadata.mark=${mark}`, position);
    assert.equal(uploads.length, 1, `the list of ${reader.name} lacks ${id}, which is ${stage}`);
    for (const found of [status, uploads[0]]) {
      assert.equal(found.stage, stage, `${id} at ${reader.name}`);
      if (offset !== undefined) assert.equal(found.offset, offset, `${id} at ${reader.name}`);
      assert.equal(found.removed_at !== null, removed, `${id} at ${reader.name}`);
    }
  }
}

async function read(node, path, position) {
  const response = await fetch(node.url + path, { headers: { [POSITION]: position } });
  const text = await response.text();
  assert.equal(response.status, 200, `GET ${path} at ${node.name} answered ${response.status}: ${text}`);
  return JSON.parse(text);
}

/** Returns how many queries of a node were answered by which kind of server. */
export async function readSources(node) {
  const text = await (await fetch(`${node.url}/metrics`, { headers: node.headers })).text();
  const count = (source) => Number(text.match(`longshore_read_source_total\\{source="${source}"\\} (\\d+)`)?.[1] ?? 0);
  return { primary: count('primary'), replica: count('replica') };
}
