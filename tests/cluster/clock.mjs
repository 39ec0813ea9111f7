// A clock that a test can change while a process runs, by libfaketime. Only the time of day changes: time limits that a
// program measures are real.

import { readdirSync } from 'node:fs';
import { rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { SCRATCH } from './network.mjs';

let clocks = 0;

export class FalseClock {
  #file;

  static async make() {
    const clock = new FalseClock();
    clocks += 1;
    clock.#file = join(SCRATCH, `clock-${clocks}`);
    await clock.set(0);
    return clock;
  }

  /** The variables of a process that has this clock. */
  get env() {
    const [architecture] = readdirSync('/usr/lib').filter((name) => name.endsWith('-linux-gnu'));
    return {
      LD_PRELOAD: join('/usr/lib', architecture, 'faketime/libfaketimeMT.so.1'),
      FAKETIME_TIMESTAMP_FILE: this.#file,
      FAKETIME_NO_CACHE: '1',
      FAKETIME_DONT_FAKE_MONOTONIC: '1',
    };
  }

  /** Sets it this many seconds ahead of the real time, or behind. */
  async set(seconds) {
    const text = `${seconds < 0 ? '' : '+'}${seconds}`;
    await writeFile(`${this.#file}.new`, `${text}\n`);
    await rename(`${this.#file}.new`, this.#file);
  }
}
