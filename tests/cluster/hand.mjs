// One upload by hand: the test decides which request goes to which node.

import assert from 'node:assert/strict';
import { until } from '../clients/harness/until.mjs';
import { Lost, request } from '../faults/wire.mjs';

const LIMITS = { connectLimit: 5_000, answerLimit: 30_000 };

export class HandUpload {
  /** The highest offset that was acknowledged. */
  offset = 0;

  static async create(node, bytes) {
    const upload = new HandUpload();
    const { status, headers } = await upload.#ask(node, 'POST', '/files', { 'Upload-Length': bytes.length });
    assert.equal(status, 201, `creation at ${node.name} answered ${status}`);
    upload.bytes = bytes;
    upload.path = new URL(headers.location, node.url).pathname;
    return upload;
  }

  get id() {
    return this.path.split('/').pop();
  }

  /** Sends bytes to a node, from the acknowledged offset on. Returns the status, or `Lost`. */
  async send(node, { count = this.bytes.length - this.offset, between } = {}) {
    const body = this.bytes.subarray(this.offset, this.offset + count);
    const half = body.length >> 1;
    const pieces = between ? [body.subarray(0, half), body.subarray(half)] : [body];
    const headers = { 'Content-Type': 'application/offset+octet-stream', 'Upload-Offset': this.offset };
    try {
      const { status, headers: told } = await this.#ask(node, 'PATCH', this.path, headers, { body: pieces, between });
      if (status === 204) this.#acknowledge(told, node);
      return status;
    } catch (error) {
      if (error instanceof Lost) return Lost;
      throw error;
    }
  }

  /**
   * Begins to send the rest to a node, and keeps the request open after half of it. Returns `{answer, release}`: the
   * promise of the status, or of `Lost`, and a function that sends the other half. By then the client has queried the
   * offset at `other`, another node.
   */
  async hold(node, other) {
    let release;
    let reached;
    const gate = new Promise((done) => (release = done));
    const halfway = new Promise((done) => (reached = done));
    const answer = this.send(node, {
      between: (sent) => {
        if (sent === 0) return undefined;
        reached();
        return gate;
      },
    });
    await halfway;
    await until(`the upload at ${node.name} to have an offset`, async () => (await this.query(other)) === 200 && this.offset > 0);
    return { answer, release: () => release() };
  }

  /** Queries the offset at a node. Returns the status. */
  async query(node) {
    try {
      const { status, headers } = await this.#ask(node, 'HEAD', this.path, {});
      if (status === 200) this.#acknowledge(headers, node);
      return status;
    } catch (error) {
      if (error instanceof Lost) return Lost;
      throw error;
    }
  }

  /**
   * Sends the rest to a node that does not have the upload, from the offset that the client knows, and queries it only
   * when told that it is wrong. Returns the milliseconds to the first 2xx, and what was answered when.
   */
  async takeOver(node, { limit = 20_000 } = {}) {
    const began = Date.now();
    const answers = [];
    const note = (answer) => answers.push(`${answer === Lost ? 'nothing' : answer} after ${Date.now() - began} ms`);
    let first;
    while (this.offset < this.bytes.length) {
      assert.ok(Date.now() - began < limit, `${node.name} did not take ${this.id} over within ${limit} ms: ${answers}`);
      const status = await this.send(node);
      note(status);
      if (status === 204) first ??= Date.now() - began;
      else if (status === 409) note(await this.query(node));
    }
    return { ms: first, answers: answers.join(', ') };
  }

  #acknowledge(headers, node) {
    const offset = Number(headers['upload-offset']);
    assert.ok(offset >= this.offset, `${node.name} reports offset ${offset} after ${this.offset} was acknowledged`);
    this.offset = offset;
  }

  #ask({ host, port }, method, path, headers, options) {
    return request({ host, port, ...LIMITS }, method, path, headers, options);
  }
}
