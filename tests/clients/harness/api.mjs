// The requests of an application to the server: status, lists, deliveries, events, downloads. `server` has a `url`, and
// `headers` if its requests need credentials.

import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { digestOfStream } from './bytes.mjs';
import { sleep } from './until.mjs';

export const TUS = { 'Tus-Resumable': '1.0.0' };

/** Returns the id at the end of an upload's URL. */
export function idOf(uploadUrl) {
  return new URL(uploadUrl).pathname.split('/').pop();
}

/**
 * `fetch` for requests that may be repeated: if a kept connection turns out to be closed, as a server may do with idle
 * ones, the request is sent once more on another connection (RFC 9112, 9.3.1), after a moment in which closed
 * connections are noticed.
 */
async function ask(url, options) {
  try {
    return await fetch(url, options);
  } catch (error) {
    if (!['EPIPE', 'ECONNRESET', 'UND_ERR_SOCKET'].includes(error.cause?.code)) throw error;
    await sleep(100);
    return fetch(url, options);
  }
}

async function json(server, url) {
  const response = await ask(url, { headers: server.headers });
  const text = await response.text();
  assert.equal(response.status, 200, `GET ${url} answered ${response.status}: ${text}`);
  return JSON.parse(text);
}

export function status(server, id) {
  return json(server, `${server.url}/api/v1/uploads/${id}`);
}

/** Returns all pages of a list, joined. */
async function pages(server, path, field) {
  const all = [];
  for (let cursor = ''; ; ) {
    const page = new URL(path, server.url);
    if (cursor) page.searchParams.set('cursor', cursor);
    const answer = await json(server, page);
    all.push(...answer[field]);
    if (!answer.next) return all;
    cursor = answer.next;
  }
}

export function list(server, query = '') {
  return pages(server, `/api/v1/uploads?${query}`, 'uploads');
}

export function deliveries(server, query = '') {
  return pages(server, `/api/v1/webhooks/deliveries?${query}`, 'deliveries');
}

/** Sends a request to the administration of webhooks. Returns `{status, headers, body}`, whatever the response is. */
export async function administer(server, method, path, body, headers = {}) {
  const response = await fetch(`${server.url}/api/v1/webhooks${path}`, {
    method,
    headers: { ...headers, ...(body && { 'Content-Type': 'application/json' }) },
    body: body && JSON.stringify(body),
  });
  const text = await response.text();
  return { status: response.status, headers: response.headers, body: text ? JSON.parse(text) : undefined };
}

/** Returns the body of a response that must be a success. */
export async function administered(server, method, path, body) {
  const answer = await administer(server, method, path, body);
  assert.ok(answer.status < 300, `${method} ${path} answered ${answer.status}: ${JSON.stringify(answer.body)}`);
  return answer.body;
}

/** Returns `{status, offset, length, headers}` from a tus HEAD. */
export async function head(uploadUrl) {
  const response = await ask(uploadUrl, { method: 'HEAD', headers: TUS });
  const number = (name) => (response.headers.has(name) ? Number(response.headers.get(name)) : undefined);
  return {
    status: response.status,
    offset: number('upload-offset'),
    length: number('upload-length'),
    headers: response.headers,
  };
}

/** Downloads, and returns the size and digests: `{size, crc32c, sha256}`. */
export async function download(uploadUrl) {
  const response = await ask(uploadUrl);
  assert.equal(response.status, 200, `GET ${uploadUrl}`);
  return digestOfStream(Readable.fromWeb(response.body));
}

/** Yields the server-sent events of `url` as they arrive: `{id, event, data}`, with the data parsed. */
export async function* events(url, { lastEventId, signal } = {}) {
  const headers = { Accept: 'text/event-stream' };
  if (lastEventId !== undefined) headers['Last-Event-ID'] = lastEventId;
  const response = await ask(url, { headers, signal });
  assert.equal(response.status, 200, `GET ${url}`);
  assert.match(response.headers.get('content-type'), /^text\/event-stream/);
  let text = '';
  for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
      const fields = text.slice(0, end).split('\n').filter((line) => line && !line.startsWith(':'));
      text = text.slice(end + 2);
      if (fields.length) yield parseEvent(fields);
    }
  }
}

function parseEvent(fields) {
  const found = { id: undefined, event: 'message', data: [] };
  for (const field of fields) {
    const [, name, value] = /^([^:]+):? ?(.*)$/.exec(field);
    if (name === 'data') found.data.push(value);
    else found[name] = value;
  }
  const data = found.data.join('\n');
  return { ...found, data: data ? JSON.parse(data) : undefined };
}

/**
 * Asserts the properties of a finished upload, however it was sent: HEAD reports offset = length, the status is
 * completed with the right CRC-32C, and the download is the source.
 */
export async function assertStored(server, uploadUrl, source) {
  const url = `${server.endpoint}/${idOf(uploadUrl)}`;
  const { status: headStatus, offset, length } = await head(url);
  assert.deepEqual({ headStatus, offset, length }, { headStatus: 200, offset: source.size, length: source.size });
  const told = await status(server, idOf(url));
  assert.equal(told.stage, 'completed');
  assert.equal(told.offset, source.size);
  assert.equal(told.length, source.size);
  assert.equal(told.digests.crc32c, source.crc32c);
  assert.deepEqual(await download(url), source);
  return told;
}
