// A webhook receiver that verifies requests with the Standard Webhooks library, validates them against the published
// schemas, and records them. It can be made to go down, to hang, or to answer with errors.

import { once } from 'node:events';
import { createServer } from 'node:http';
import { randomBytes } from 'node:crypto';
import { Schemas } from './schemas.mjs';
import { until } from './until.mjs';
import { HMAC, anyOf } from './verifiers.mjs';

const schemas = await Schemas.published();

export function newSecret() {
  return `whsec_${randomBytes(32).toString('base64')}`;
}

export class Receiver {
  #http;
  #behave = () => 200;
  #verify;
  /**
   * Every verified request: `{id, type, uploadId, sequence, at, attempt, status, headers, body, event}`, in order of
   * arrival. `status` is 0 until the response is sent.
   */
  requests = [];
  /** Requests that failed verification, or do not conform to their schema (webhooks P4), with the reason. */
  refused = [];
  path = '/hook';
  port = 0;

  /**
   * Starts a receiver. `verify` is a verifier to use instead of the library, `host` the address to listen on. With a
   * node:test context `t`, it ends with the test.
   */
  static async start({ secret = newSecret(), verify, host = '127.0.0.1', t } = {}) {
    const receiver = new Receiver();
    receiver.host = host;
    receiver.secret = secret;
    receiver.verifyWith(verify ?? HMAC.standardwebhooks(secret));
    await receiver.up();
    t?.after(() => receiver.down());
    return receiver;
  }

  get url() {
    return `http://${this.host}:${this.port}${this.path}`;
  }

  /** Returns the endpoint in the form of the server's configuration file. */
  endpoint({ name = 'test', events } = {}) {
    return { name, url: this.url, secret: this.secret, events };
  }

  /**
   * Sets the reply: a status, 'hang', or a function of the delivery (its `event`, and the raw request and response).
   */
  behave(how) {
    this.#behave = typeof how === 'function' ? how : () => how;
  }

  /** From now on accepts requests that one of these verifiers accepts. */
  verifyWith(...verifiers) {
    this.#verify = anyOf(verifiers);
  }

  get isUp() {
    return this.#http !== undefined;
  }

  /** Listens again on its previous port. */
  async up() {
    if (this.isUp) return;
    const http = createServer((request, response) => this.#receive(request, response));
    http.listen(this.port, this.host);
    await once(http, 'listening');
    this.#http = http;
    this.port = http.address().port;
  }

  /** Waits until no client is connected: everything sent by then has been recorded. */
  async left() {
    const count = () => new Promise((done) => this.#http.getConnections((_error, open) => done(open)));
    await until('everyone to have left the receiver', async () => (await count()) === 0);
  }

  /** Stops listening: connections are refused. */
  async down() {
    const http = this.#http;
    if (!http) return;
    this.#http = undefined;
    const closed = once(http, 'close');
    http.close();
    http.closeAllConnections();
    await closed;
  }

  /** Returns the events that were answered with a 2xx, each once, in order of first arrival. */
  accepted(uploadId) {
    const seen = new Set();
    return this.requests.filter((request) => {
      if (uploadId && request.uploadId !== uploadId) return false;
      if (request.status < 200 || request.status > 299 || seen.has(request.id)) return false;
      seen.add(request.id);
      return true;
    });
  }

  types(uploadId) {
    return this.accepted(uploadId).map((request) => request.type);
  }

  /** Waits for an accepted event of this type. */
  async hear(type, uploadId, options) {
    return until(
      `webhook ${type} of upload ${uploadId ?? '(any)'}`,
      () => this.accepted(uploadId).find((request) => request.type === type),
      options,
    );
  }

  async #receive(request, response) {
    const chunks = [];
    try {
      for await (const chunk of request) chunks.push(chunk);
    } catch {
      return; // The sender has disconnected; it will send again.
    }
    const body = Buffer.concat(chunks).toString('utf8');
    let event;
    try {
      event = this.#verify(body, request.headers);
      const sentType = request.headers['content-type'] ?? '';
      if (request.method !== 'POST' || !sentType.startsWith('application/json')) {
        throw new Error(`${request.method} with content type ${sentType}`);
      }
      const wrong = schemas.errors(event);
      if (wrong) {
        // A test that waits for this event waits in vain, and should show the reason.
        console.error(`a body does not conform to its schema: ${wrong}\n${body}`);
        throw new Error(wrong);
      }
    } catch (error) {
      this.refused.push({ error: String(error), headers: request.headers, body });
      response.writeHead(400).end();
      return;
    }
    const entry = {
      id: request.headers['webhook-id'],
      attempt: Number(request.headers['webhook-attempt']),
      type: event.type,
      uploadId: event.data.upload_id,
      sequence: event.data.sequence,
      at: Date.now(),
      status: 0,
      headers: request.headers,
      body,
      event,
    };
    this.requests.push(entry);
    const answer = this.#behave(entry, request, response);
    if (answer === 'hang' || answer === undefined) return;
    entry.status = answer;
    response.writeHead(answer).end();
  }
}
