// A TCP proxy that acts as a bad network: slow, stalled, or cut after a number of bytes, with FIN or with RST.

import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import { sleep } from './until.mjs';

export class Proxy {
  #listener;
  #pairs = new Set();
  #cuts = [];
  /** Bytes forwarded to the server since the start. */
  sent = 0;
  /** Bytes forwarded to clients since the start. */
  received = 0;
  connections = 0;
  /** Bytes per second towards the server, over all connections; 0 is unlimited. */
  rate = 0;
  /** The delay of each chunk, in milliseconds. */
  latency = 0;
  #stalled;

  /** `target` has a `port`, which may change. With a node:test context `t`, the proxy ends with the test. */
  static async start(target, { t } = {}) {
    const proxy = new Proxy();
    proxy.#listener = createServer({ allowHalfOpen: true }, (client) => proxy.#accept(client, target.port));
    proxy.#listener.listen(0, '127.0.0.1');
    await once(proxy.#listener, 'listening');
    proxy.port = proxy.#listener.address().port;
    t?.after(() => proxy.stop());
    return proxy;
  }

  get url() {
    return `http://127.0.0.1:${this.port}`;
  }

  get endpoint() {
    return `${this.url}/files`;
  }

  /**
   * Cuts the connection that carries the `bytes`-th byte from now, with `how` 'fin' or 'rst'; with 'stall' it forwards
   * nothing after that byte. Resolves when done.
   */
  cutAfter(bytes, how, direction = 'up') {
    const count = direction === 'up' ? this.sent : this.received;
    return new Promise((done) => this.#cuts.push({ at: count + bytes, how, direction, done }));
  }

  /** Cuts every open connection now. */
  cutAll(how = 'rst') {
    for (const pair of [...this.#pairs]) this.#cut(pair, how);
  }

  /** Forwards nothing, with connections left open, until `flow`. */
  stall() {
    if (this.#stalled) return;
    let release;
    const freed = new Promise((done) => (release = done));
    this.#stalled = { freed, release };
  }

  flow() {
    this.#stalled?.release();
    this.#stalled = undefined;
  }

  async stop() {
    this.flow();
    this.cutAll();
    this.#listener.close();
  }

  #accept(client, port) {
    this.connections += 1;
    const server = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
    const pair = { client, server };
    this.#pairs.add(pair);
    for (const socket of [client, server]) {
      // An error on one side becomes a reset on the other, as on a real network.
      socket.on('error', () => this.#cut(pair, 'rst'));
      socket.on('close', () => client.destroyed && server.destroyed && this.#pairs.delete(pair));
    }
    this.#pump(pair, client, server, 'up');
    this.#pump(pair, server, client, 'down');
  }

  async #pump(pair, from, to, direction) {
    try {
      for await (const chunk of from.iterator({ destroyOnReturn: false })) {
        if (this.latency) await sleep(this.latency);
        await this.#stalled?.freed;
        let rest = chunk;
        const cut = this.#nextCut(direction, rest.length);
        if (cut) rest = rest.subarray(0, Math.max(0, cut.at - this.#count(direction)));
        this.#add(direction, rest.length);
        if (!to.write(rest)) await once(to, 'drain');
        if (direction === 'up' && this.rate) await sleep((rest.length * 1000) / this.rate);
        if (!cut) continue;
        this.#cuts.splice(this.#cuts.indexOf(cut), 1);
        if (cut.how !== 'stall') {
          this.#cut(pair, cut.how);
          cut.done();
          return;
        }
        this.stall();
        cut.done();
        await this.#stalled.freed;
        if (to.destroyed) return;
        const held = chunk.subarray(rest.length);
        this.#add(direction, held.length);
        to.write(held);
      }
      to.end();
    } catch {
      this.#cut(pair, 'rst');
    }
  }

  #count(direction) {
    return direction === 'up' ? this.sent : this.received;
  }

  #add(direction, count) {
    if (direction === 'up') this.sent += count;
    else this.received += count;
  }

  #nextCut(direction, count) {
    const end = this.#count(direction) + count;
    return this.#cuts.find((cut) => cut.direction === direction && cut.at <= end);
  }

  #cut({ client, server }, how) {
    for (const socket of [client, server]) {
      if (socket.destroyed) continue;
      // A socket that is shutting down can no longer be reset: node would spin at exit, waiting for it to close.
      if (how === 'rst' && !socket.writableEnded) socket.resetAndDestroy();
      else if (how === 'rst') socket.destroy();
      else socket.destroySoon();
    }
  }
}
