// HTTP/1.1 by hand, one request per connection, so that it is exactly known which response arrived and which did not.

import { connect } from 'node:net';
import { sleep } from '../clients/harness/until.mjs';

/** The connection ended before the response did. The effect of the request on the server is unknown. */
export class Lost extends Error {}

/** The time for which a restarting server may refuse connections. */
const PATIENCE_MS = 60_000;

/** The time limit of a response. */
const ANSWER_LIMIT_MS = 30_000;

/** Connects; if the server is down, waits until it runs again. */
async function open(port) {
  for (const deadline = Date.now() + PATIENCE_MS; ; ) {
    try {
      return await new Promise((done, failed) => {
        const socket = connect({ port, host: '127.0.0.1', noDelay: true });
        socket.once('connect', () => done(socket.off('error', failed)));
        socket.once('error', failed);
      });
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await sleep(10);
    }
  }
}

/**
 * Sends a request and returns `{status, headers}`; rejects with `Lost` when the connection ends first. `body` is a list
 * of pieces; before each, `between(sentBytes)` is awaited and may return 'fin' or 'rst' to end the connection there.
 */
export async function request(port, method, path, headers, { body = [], between = () => {} } = {}) {
  const socket = await open(port);
  const answer = readAnswer(socket);
  answer.catch(() => {});
  const size = body.reduce((sum, piece) => sum + piece.length, 0);
  const lines = Object.entries({
    Host: `127.0.0.1:${port}`,
    'Tus-Resumable': '1.0.0',
    Connection: 'close',
    ...(method !== 'HEAD' && { 'Content-Length': size }),
    ...headers,
  }).map(([name, value]) => `${name}: ${value}\r\n`);
  try {
    socket.write(`${method} ${path} HTTP/1.1\r\n${lines.join('')}\r\n`);
    let sent = 0;
    for (const piece of body) {
      const cut = await between(sent);
      if (cut === 'rst') socket.resetAndDestroy();
      else if (cut) socket.end();
      if (cut) throw new Lost(`ended by us with a ${cut} after ${sent} bytes`);
      if (socket.destroyed) break;
      socket.write(piece);
      sent += piece.length;
    }
    return await answer;
  } finally {
    // After this client's FIN the socket stays open until the server has closed its side, as a normal client's would.
    if (socket.writableEnded && !socket.destroyed) setTimeout(() => socket.destroy(), 200).unref();
    else socket.destroy();
  }
}

function readAnswer(socket) {
  return new Promise((done, failed) => {
    let text = '';
    socket.setTimeout(ANSWER_LIMIT_MS, () => failed(new Error(`no answer within ${ANSWER_LIMIT_MS} ms`)));
    socket.on('data', (chunk) => {
      text += chunk.toString('latin1');
      const end = text.indexOf('\r\n\r\n');
      if (end >= 0) done(parseHead(text.slice(0, end)));
    });
    socket.on('error', (error) => failed(new Lost(error.message)));
    socket.on('close', () => failed(new Lost('closed before the answer')));
  });
}

function parseHead(text) {
  const [first, ...lines] = text.split('\r\n');
  const headers = Object.fromEntries(
    lines.map((line) => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 1).trim()]),
  );
  return { status: Number(first.split(' ')[1]), headers };
}
