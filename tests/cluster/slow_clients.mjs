// Clients that send a few bytes every two seconds, each in one request that never ends by itself.

import { connect } from 'node:net';

const EVERY_MS = 2_000;
/** More than `limits.min_rate`. */
const PIECE = Buffer.alloc(200, 7);
const LENGTH = 1 << 20;

export class SlowClients {
  #sockets = [];
  #timer;
  /** What a client received or lost, which none should. */
  ended = [];

  /** Begins to send to an upload of `LENGTH` bytes at a node. */
  begin({ host, port, name }, path) {
    const socket = connect({ host, port });
    const lines = [
      `PATCH ${path} HTTP/1.1`,
      `Host: ${host}:${port}`,
      'Tus-Resumable: 1.0.0',
      'Upload-Offset: 0',
      'Content-Type: application/offset+octet-stream',
      `Content-Length: ${LENGTH}`,
    ];
    socket.write(`${lines.join('\r\n')}\r\n\r\n`);
    socket.write(PIECE);
    const end = (what) => this.ended.push(`${path} at ${name}: ${what}`);
    socket.on('data', (data) => end(data.toString('latin1').split('\r\n')[0]));
    socket.on('error', (error) => end(error.message));
    socket.on('end', () => end('the connection has ended'));
    this.#sockets.push(socket);
    this.#timer ??= setInterval(() => this.#sockets.forEach((each) => each.write(PIECE)), EVERY_MS);
  }

  static get length() {
    return LENGTH;
  }

  leave() {
    clearInterval(this.#timer);
    for (const socket of this.#sockets) socket.removeAllListeners('error').on('error', () => {}).destroy();
  }
}
