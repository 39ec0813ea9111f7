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
async function open({ port, host = '127.0.0.1', connectLimit }) {
  for (const deadline = Date.now() + PATIENCE_MS; ; ) {
    try {
      return await new Promise((done, failed) => {
        const socket = connect({ port, host, noDelay: true });
        socket.setTimeout(connectLimit ?? 0, () => socket.destroy(new Error(`no connection in ${connectLimit} ms`)));
        socket.once('connect', () => done(socket.setTimeout(0).removeAllListeners('timeout').off('error', failed)));
        socket.once('error', failed);
      });
    } catch (error) {
      if (connectLimit === undefined && Date.now() > deadline) throw error;
      await sleep(10);
      if (connectLimit !== undefined) throw new Lost(error.message);
    }
  }
}

/**
 * Sends a request and returns `{status, headers}`; rejects with `Lost` when the connection ends first. `target` is a port
 * of this machine, whose server always answers, or one of several servers, `{host, port, connectLimit, answerLimit}`,
 * that the client leaves when it has not connected or answered within these milliseconds. `body` is a list of pieces;
 * before each, `between(sentBytes)` is awaited and may return 'fin' or 'rst' to end the connection there.
 */
export async function request(target, method, path, headers, { body = [], between = () => {} } = {}) {
  const server = typeof target === 'number' ? { port: target } : target;
  const socket = await open(server);
  const answer = readAnswer(socket, server.answerLimit);
  answer.catch(() => {});
  const size = body.reduce((sum, piece) => sum + piece.length, 0);
  const lines = Object.entries({
    Host: `${server.host ?? '127.0.0.1'}:${server.port}`,
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

function readAnswer(socket, limit) {
  return new Promise((done, failed) => {
    let text = '';
    const NoAnswer = limit === undefined ? Error : Lost;
    const patience = limit ?? ANSWER_LIMIT_MS;
    socket.setTimeout(patience, () => failed(new NoAnswer(`no answer within ${patience} ms`)));
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
