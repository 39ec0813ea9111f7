// A client that follows the events of all uploads over whatever happens, as an application would: it reconnects at the
// next node with the id of the last event that it has received.

import { events } from '../clients/harness/api.mjs';
import { sleep, until } from '../clients/harness/until.mjs';

/** The time without anything, heartbeats included, after which a connection counts as dead. */
const SILENCE_MS = 8_000;

export class Follower {
  /** Every event in the order of arrival: `{id, sequence, type, era}`. */
  seen = [];
  /** Number of snapshots. After the first, each stands for events that are not sent again. */
  era = 0;
  connections = 0;
  #isOver = new AbortController();
  #lastEventId;
  #finished;

  /** Follows the events at these servers, one at a time. Resolves once it has begun. */
  static async start(servers) {
    const follower = new Follower();
    follower.#finished = follower.#follow(servers);
    try {
      await until('the first snapshot', () => follower.era > 0);
    } catch (error) {
      await follower.stop();
      throw error;
    }
    return follower;
  }

  async stop() {
    this.#isOver.abort();
    await this.#finished;
  }

  async #follow(servers) {
    for (let turn = 0; !this.#isOver.signal.aborted; turn += 1) {
      const server = servers[turn % servers.length];
      const silence = new AbortController();
      const alarm = setTimeout(() => silence.abort(), SILENCE_MS);
      try {
        this.connections += 1;
        const options = { lastEventId: this.#lastEventId, signal: AbortSignal.any([silence.signal, this.#isOver.signal]) };
        for await (const { id, event, data } of events(`${server.url}/api/v1/events`, options)) {
          alarm.refresh();
          if (id) this.#lastEventId = id;
          if (event === 'snapshot') this.era += 1;
          else if (data?.data?.sequence) this.#see(data);
        }
      } catch {
        // The connection has ended, or there was none.
        await sleep(100);
      }
      clearTimeout(alarm);
    }
  }

  #see({ type, data }) {
    this.seen.push({ id: data.upload_id, sequence: data.sequence, type, era: this.era });
  }
}
