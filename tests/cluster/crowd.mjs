// Clients that keep uploading while something happens to the servers. Each remembers what it was told, and fails when an
// offset falls or counts bytes that were never sent (tests/faults/raw_upload.mjs).

import assert from 'node:assert/strict';
import { noise, random } from '../clients/harness/bytes.mjs';
import { sleep, until } from '../clients/harness/until.mjs';
import { KINDS, RawUpload } from '../faults/raw_upload.mjs';

/** Longer than a node waits for its database. */
const ANSWER_LIMIT_MS = 20_000;

export class Crowd {
  counts = { acknowledgements: 0, resumed: 0, lost: 0, conflicts: 0 };
  /** Every upload whose URL a client has learned: its outcome and its bytes, by id. */
  known = new Map();
  /** Every growth of an offset that a client was told: `{id, offset, at}`. */
  told = [];
  retried = [423, 503];
  patience = 40_000;
  mayForget = false;
  #targets;
  #size;
  #living = new Set();
  #isOver = false;
  #stories = 0;
  #failure;

  /**
   * Each request goes to any of `targets`, the servers, and to another after `answerLimit` ms. `size` is the largest size
   * of an upload.
   */
  constructor(targets, { seed = 1, atOnce = 16, size = 600_000, answerLimit = ANSWER_LIMIT_MS } = {}) {
    this.random = random(seed);
    this.#targets = targets.map(({ host, port }) => ({ host, port, connectLimit: 1000, answerLimit }));
    this.atOnce = atOnce;
    this.#size = size;
  }

  /** Starts uploads, `atOnce` at a time, until `finish`. */
  start() {
    const refill = () => {
      while (!this.#isOver && !this.#failure && this.#living.size < this.atOnce) {
        const number = (this.#stories += 1);
        const story = this.#liveAStory(number)
          .catch((error) => (this.#failure ??= new Error(`upload ${number} failed`, { cause: error })))
          .finally(() => {
            this.#living.delete(story);
            refill();
          });
        this.#living.add(story);
      }
    };
    refill();
    return this;
  }

  /** Waits until this many further acknowledgements have arrived. */
  async advances(count = this.atOnce, { timeout = 60_000 } = {}) {
    const goal = this.told.length + count;
    await until(`${count} higher offsets`, () => this.#check() || this.told.length >= goal, { timeout });
  }

  /** Returns the growths of offsets from one time to another. */
  toldBetween(from, to) {
    return this.told.filter(({ at }) => at >= from && at < to);
  }

  /** Starts nothing new, and waits until every upload has ended as its client wanted. */
  async finish({ timeout = 90_000 } = {}) {
    this.#isOver = true;
    await until('the last uploads to end', () => this.#check() || this.#living.size === 0, { timeout });
    this.#check();
    return this;
  }

  /** Stops, whatever is unfinished. */
  abandon() {
    this.#isOver = true;
    this.#failure ??= new Error('the crowd has left');
  }

  // What a RawUpload needs.

  target() {
    if (this.#failure) throw this.#failure;
    return this.random.pick(this.#targets);
  }

  born(upload) {
    this.known.set(upload.id, upload);
  }

  advanced(upload) {
    this.told.push({ id: upload.id, offset: upload.acknowledged, at: Date.now() });
  }

  /** The servers have lost an upload that they had acknowledged. */
  forgotten(upload) {
    this.known.delete(upload.id);
    this.counts.forgotten = (this.counts.forgotten ?? 0) + 1;
  }

  check() {}

  #check() {
    if (this.#failure) throw this.#failure;
  }

  async #liveAStory(number) {
    const bytes = noise(this.random.between(1, this.#size), number);
    const metadata = { story: String(number), filename: `story-${number}.bin` };
    const upload = new RawUpload(this, bytes, { kind: this.random.pick(KINDS), metadata });
    await upload.send();
    upload.wanted = 'completed';
    if (this.random.chance(0.1)) {
      await upload.terminate();
      upload.wanted = 'terminated';
    }
    upload.endedAt = Date.now();
  }
}
