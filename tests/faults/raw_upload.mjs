// One upload through raw HTTP by a client that never trusts the server: it records every reported offset, and fails
// when one falls, when an offset counts bytes that were not sent, or when the stored bytes differ.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { Lost, request } from './wire.mjs';
import { sleep } from '../clients/harness/until.mjs';

/** The ways to send an upload. */
export const KINDS = ['plain', 'with-data', 'deferred', 'checksummed'];

/** More wrong offsets in a row than a stale connection can cause. */
const MAX_CONFLICTS = 50;

export class RawUpload {
  url;
  /** The highest offset that a response has reported. */
  acknowledged = 0;
  /** The end of the bytes that may have reached the server. */
  #sent = 0;
  #conflicts = 0;
  #refusedSince;

  /**
   * `world` has `random` and `counts`; `target()`, which returns the server of the next request; `retried`, the statuses
   * after which it repeats a request, and `patience`, the time in ms for which servers may answer with them; and
   * `check(id, bytes, offset)`, which compares the stored bytes. `advanced(upload)`, if there is one, is called for each
   * higher offset. With `mayForget`, the servers may lose what they acknowledged, and the client starts there again.
   * `metadata` and `concat` are sent with the creation.
   */
  constructor(world, bytes, { kind = 'plain', metadata = {}, concat } = {}) {
    Object.assign(this, { world, bytes, kind, metadata, concat });
  }

  get id() {
    return this.url?.split('/').pop();
  }

  get isFull() {
    return this.url !== undefined && this.acknowledged === this.bytes.length && !this.#lengthIsOwed;
  }

  get #lengthIsOwed() {
    return this.kind === 'deferred' && !this.lengthTold;
  }

  /** Sends bytes until all are acknowledged, or until at least `until` are. */
  async send(until = Infinity) {
    while (!this.isFull && this.acknowledged < until) {
      try {
        await (this.url ? this.#append() : this.#create());
      } catch (error) {
        if (!(error instanceof Lost)) throw error;
        this.world.counts.lost += 1;
        if (this.url) await this.resume();
      }
    }
  }

  /** Ends the upload with DELETE, however often the connection breaks. */
  async terminate() {
    for (;;) {
      try {
        const { status } = await this.#ask('DELETE', this.url, {});
        if (await this.#isToWait(status)) continue;
        // An earlier DELETE may have succeeded with its response lost.
        assert.ok([204, 404, 410].includes(status), `DELETE answered ${status}`);
        return;
      } catch (error) {
        if (!(error instanceof Lost)) throw error;
        this.world.counts.lost += 1;
      }
    }
  }

  async #create() {
    const { random } = this.world;
    const withData = this.kind === 'with-data';
    const count = withData ? random.between(0, this.bytes.length) : 0;
    const headers = {
      ...(this.kind === 'deferred' ? { 'Upload-Defer-Length': 1 } : { 'Upload-Length': this.bytes.length }),
      'Upload-Metadata': encode(this.metadata),
      ...(this.concat && { 'Upload-Concat': this.concat }),
      ...(withData && { 'Content-Type': 'application/offset+octet-stream' }),
    };
    this.#sent = count;
    const { status, headers: told } = await this.#ask('POST', '/files', headers, this.bytes.subarray(0, count));
    if (await this.#isToWait(status)) return;
    assert.equal(status, 201, `creation answered ${status}`);
    this.url = new URL(told.location, 'http://server/').pathname;
    this.world.born(this);
    if (withData) assert.equal(told['upload-offset'], String(count), 'the creation tells the offset');
    this.#acknowledge(count);
  }

  async #append() {
    const { random } = this.world;
    const start = this.acknowledged;
    const rest = this.bytes.length - start;
    const count = random.chance(0.4) ? rest : random.between(0, rest);
    const chunk = this.bytes.subarray(start, start + count);
    const checksummed = this.kind === 'checksummed' && random.chance(0.7);
    const isLast = count === rest;
    const headers = {
      'Content-Type': 'application/offset+octet-stream',
      'Upload-Offset': start,
      ...(checksummed && { 'Upload-Checksum': `sha1 ${createHash('sha1').update(chunk).digest('base64')}` }),
      ...(this.#lengthIsOwed && isLast && { 'Upload-Length': this.bytes.length }),
    };
    this.#sent = Math.max(this.#sent, start + count);
    const { status, headers: told } = await this.#ask('PATCH', this.url, headers, chunk);
    if (await this.#isToWait(status)) return;
    if (this.#isForgotten(status)) return this.#beginAnew();
    if (status === 409) return this.#conflict();
    assert.equal(status, 204, `PATCH of ${this.id} at ${start} with ${count} bytes answered ${status}`);
    this.#conflicts = 0;
    if (isLast) this.lengthTold = true;
    this.#acknowledge(Number(told['upload-offset']));
    assert.equal(this.acknowledged, start + count, 'a PATCH that succeeded stored all it carried');
  }

  /** Handles a wrong offset: a stale connection of this client was still being read when it requested the offset. */
  async #conflict() {
    this.world.counts.conflicts += 1;
    this.#conflicts += 1;
    assert.ok(this.#conflicts < MAX_CONFLICTS, `${this.id} is refused at every offset that HEAD tells`);
    await this.resume();
  }

  /** Queries the offset, however often the connection breaks. */
  async resume() {
    for (;;) {
      try {
        const { status, headers } = await this.#ask('HEAD', this.url, {});
        if (await this.#isToWait(status)) continue;
        if (this.#isForgotten(status)) return this.#beginAnew();
        assert.equal(status, 200, `HEAD of ${this.id} answered ${status}`);
        if (headers['upload-length'] !== undefined) {
          assert.equal(Number(headers['upload-length']), this.bytes.length);
          this.lengthTold = true;
        } else {
          assert.equal(headers['upload-defer-length'], '1');
        }
        this.#acknowledge(Number(headers['upload-offset']));
        this.world.counts.resumed += 1;
        await this.world.check(this.id, this.bytes, this.acknowledged);
        return;
      } catch (error) {
        if (!(error instanceof Lost)) throw error;
        this.world.counts.lost += 1;
      }
    }
  }

  /** Waits if the server asks to retry later, and returns whether it did. */
  async #isToWait(status) {
    if (!this.world.retried.includes(status)) {
      this.#refusedSince = undefined;
      return false;
    }
    this.world.counts[status] = (this.world.counts[status] ?? 0) + 1;
    this.#refusedSince ??= Date.now();
    const waited = Date.now() - this.#refusedSince;
    assert.ok(waited < this.world.patience, `${this.id} has been answered ${status} for ${waited} ms, across restarts too`);
    await sleep(50);
    return true;
  }

  /** Returns whether the servers have lost the upload, or its bytes, and may do so. */
  #isForgotten(status) {
    return this.world.mayForget && [404, 410].includes(status);
  }

  #beginAnew() {
    this.world.forgotten(this);
    Object.assign(this, { url: undefined, acknowledged: 0, lengthTold: false });
  }

  #acknowledge(offset) {
    const acknowledged = this.world.mayForget ? Math.min(this.acknowledged, offset) : this.acknowledged;
    assert.ok(offset >= acknowledged, `${this.id}: offset ${offset} after ${acknowledged} had been acknowledged`);
    assert.ok(offset <= this.#sent, `${this.id}: offset ${offset}, but only ${this.#sent} bytes were ever sent`);
    this.acknowledged = offset;
    this.world.counts.acknowledgements += 1;
    if (offset > acknowledged) this.world.advanced?.(this);
  }

  /** Sends the body in pieces of random size at a random rate, and sometimes cuts its own connection. */
  #ask(method, path, headers, body = Buffer.alloc(0)) {
    const { random } = this.world;
    const pieces = [];
    for (let at = 0; at < body.length; ) {
      const size = random.between(1, 80_000);
      pieces.push(body.subarray(at, at + size));
      at += size;
    }
    const slow = random.chance(0.5);
    const cutAt = random.chance(0.1) ? random.between(0, body.length) : Infinity;
    const how = random.pick(['fin', 'rst']);
    const between = async (sent) => {
      await sleep(slow ? random.between(0, 25) : 0);
      return sent >= cutAt ? how : undefined;
    };
    return request(this.world.target(this), method, path, headers, { body: pieces, between });
  }
}

/** Concatenates `parts`, which have all their bytes; returns the path of the final upload. */
export async function concatenate(world, parts, metadata) {
  const headers = {
    'Upload-Concat': `final;${parts.map((part) => part.url).join(' ')}`,
    'Upload-Metadata': encode(metadata),
  };
  for (;;) {
    try {
      const { status, headers: told } = await request(world.target(), 'POST', '/files', headers);
      if (status === 201) return new URL(told.location, 'http://server/').pathname;
      assert.equal(status, 503, `concatenation answered ${status}`);
      await sleep(20);
    } catch (error) {
      if (!(error instanceof Lost)) throw error;
      world.counts.lost += 1;
    }
  }
}

function encode(metadata) {
  return Object.entries(metadata)
    .map(([key, value]) => `${key} ${Buffer.from(value).toString('base64')}`)
    .join(',');
}
