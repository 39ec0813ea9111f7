// Stands between a server and its object store, counts requests, and makes them fail as networks and stores do.

import { once } from 'node:events';
import { createServer, request as send } from 'node:http';
import { sleep } from '../clients/harness/until.mjs';
import { STORE } from './bucket.mjs';

/** Returns the kind of a request: what the server wants of the store. */
function kindOf({ method, url, headers }) {
  const query = new URL(url, STORE).searchParams;
  const isPart = query.has('partNumber');
  if (method === 'POST') return query.has('uploads') ? 'create' : query.has('delete') ? 'delete' : 'complete';
  if (method === 'PUT' && headers['x-amz-copy-source']) return isPart ? 'copy part' : 'copy';
  if (method === 'PUT') return isPart ? 'part' : 'put';
  if (method === 'DELETE') return query.has('uploadId') ? 'abort' : 'delete';
  if (method === 'HEAD') return 'head';
  if (query.has('uploads')) return 'list uploads';
  if (query.has('list-type')) return 'list';
  return query.has('uploadId') ? 'list parts' : 'get';
}

/**
 * What may happen to a request: `(request, response, forward)`. `forward()` sends it on, and returns the answer of the
 * store: `{status, headers, body}`.
 */
export const FAULTS = {
  'the answer is lost': async (request, response, forward) => {
    await forward();
    response.destroy();
  },
  'the request is lost': async (request, response) => {
    response.destroy();
  },
  'the store is busy': async (request, response) => {
    request.resume();
    await once(request, 'end');
    answer(response, { status: 503, body: '<Error><Code>SlowDown</Code><Message>busy</Message></Error>' });
  },
  'the store answers with nonsense': async (request, response, forward) => {
    await forward();
    answer(response, { status: 502, body: '<html>Bad gateway' });
  },
  'the answer is cut off': async (request, response, forward) => {
    const { status, headers, body } = await forward();
    response.writeHead(status, { ...headers, 'content-length': body.length + 100 });
    response.write(body.subarray(0, body.length / 2));
    await sleep(20);
    response.destroy();
  },
};

/** An error after the head of a success, and after white space; the deed is done or not. */
export const LATE_ERRORS = {
  'an error follows a success, and it is done': async (request, response, forward) => {
    await forward();
    lateError(response);
  },
  'an error follows a success, and nothing is done': async (request, response) => {
    request.resume();
    await once(request, 'end');
    lateError(response);
  },
};

/** The request is sent on after this time. */
export function late(ms) {
  return async (request, response, forward) => {
    await sleep(ms);
    const { status, headers, body } = await forward();
    response.writeHead(status, headers).end(body);
  };
}

function lateError(response) {
  const body = '\n  \n<?xml version="1.0"?>\n<Error><Code>InternalError</Code><Message>try again</Message></Error>';
  answer(response, { status: 200, body });
}

function answer(response, { status, headers = {}, body = '' }) {
  response.writeHead(status, { ...headers, 'content-length': Buffer.byteLength(body) }).end(body);
}

export class StoreProxy {
  /** Number of requests by kind, and bytes that were sent to the store in their bodies. */
  counts = {};
  sentBytes = 0;
  /** Returns what happens to a request of this kind, or nothing. */
  fault = () => undefined;

  static async start(t) {
    const proxy = new StoreProxy();
    proxy.http = createServer((request, response) => {
      proxy.#serve(request, response).catch((error) => response.destroy(error));
    });
    proxy.http.listen(0, '127.0.0.1');
    await once(proxy.http, 'listening');
    t.after(() => {
      proxy.http.close();
      proxy.http.closeAllConnections();
    });
    return proxy;
  }

  get url() {
    return `http://127.0.0.1:${this.http.address().port}`;
  }

  /** Lets the next `count` requests of a kind fail in this way. Returns how many have. */
  failNext(kind, fault, count = 1) {
    const happened = { count: 0 };
    this.fault = (of) => {
      if (of !== kind || happened.count === count) return undefined;
      happened.count += 1;
      return fault;
    };
    return happened;
  }

  async #serve(request, response) {
    const kind = kindOf(request);
    this.counts[kind] = (this.counts[kind] ?? 0) + 1;
    const forward = () => this.#forward(request);
    const fault = this.fault(kind);
    if (fault) return fault(request, response, forward);
    const { status, headers, body } = await forward();
    response.writeHead(status, headers);
    response.end(body);
  }

  /** Sends a request on with its head unchanged, which is signed. */
  #forward(request) {
    return new Promise((done, failed) => {
      const onward = send({
        host: STORE.hostname,
        port: STORE.port,
        method: request.method,
        path: request.url,
        headers: request.headers,
        agent: false,
      });
      onward.on('error', failed);
      onward.on('response', async (from) => {
        try {
          const chunks = [];
          for await (const chunk of from) chunks.push(chunk);
          done({ status: from.statusCode, headers: from.headers, body: Buffer.concat(chunks) });
        } catch (error) {
          failed(error);
        }
      });
      request.on('data', (chunk) => (this.sentBytes += chunk.length));
      // A server that was killed sends the rest never.
      request.on('close', () => request.complete || onward.destroy());
      request.pipe(onward);
    });
  }
}
