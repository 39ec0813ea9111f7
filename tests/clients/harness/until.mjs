// Waiting: repeats a probe until it returns a value, or fails at a deadline and names what was awaited.

import { setTimeout as sleep } from 'node:timers/promises';

export { sleep };

/** Calls `probe` repeatedly until it returns something truthy, and returns that. */
export async function until(what, probe, { timeout = 15_000, every = 40 } = {}) {
  const deadline = Date.now() + timeout;
  let lastError;
  for (;;) {
    try {
      const answer = await probe();
      if (answer) return answer;
      lastError = undefined;
    } catch (error) {
      lastError = error;
    }
    if (Date.now() > deadline) {
      throw new Error(`waited ${timeout} ms in vain for ${what}`, { cause: lastError });
    }
    await sleep(every);
  }
}

/** Rejects if `promise` does not settle within `timeout` ms. */
export async function within(timeout, what, promise) {
  const timer = new AbortController();
  const late = sleep(timeout, undefined, { signal: timer.signal, ref: false }).then(() => {
    throw new Error(`waited ${timeout} ms in vain for ${what}`);
  });
  late.catch(() => {});
  try {
    return await Promise.race([promise, late]);
  } finally {
    timer.abort();
  }
}
