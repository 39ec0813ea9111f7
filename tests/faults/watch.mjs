// The status of one upload, over its whole life.

import assert from 'node:assert/strict';
import { status } from '../clients/harness/api.mjs';
import { sleep, until } from '../clients/harness/until.mjs';

/** Requests the status all the time. Records every reported offset, and when one is smaller than an earlier one. */
export class Watch {
  answers = 0;
  unanswered = 0;
  backwards = [];
  offset = 0;
  stages = [];
  #over = false;

  /** `server` is any of the servers that know the upload. */
  constructor(server, id) {
    this.finished = this.#poll(server, id);
  }

  async #poll(server, id) {
    while (!this.#over) {
      const told = await status(server, id).catch(() => undefined);
      if (told) this.#see(told);
      else this.unanswered += 1; // The server is dead at the moment.
      await sleep(25);
    }
  }

  #see({ offset, received, stage }) {
    this.answers += 1;
    if (offset < this.offset) this.backwards.push({ from: this.offset, to: offset });
    assert.ok(received >= offset, 'what is received is at least what is committed');
    this.offset = offset;
    if (this.stages.at(-1) !== stage) this.stages.push(stage);
  }

  async reaches(offset, { timeout = 60_000 } = {}) {
    await until(`offset ${offset}`, () => this.offset >= offset, { timeout, every: 10 });
  }

  async stop() {
    this.#over = true;
    await this.finished;
  }
}
