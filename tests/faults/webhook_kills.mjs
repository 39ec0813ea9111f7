// Kills the server between every two steps of an event, from the change that it reports to the record of its delivery,
// and proves that no event is lost, changed or out of order, and that none is duplicated without a reason.
//     node tests/faults/webhook_kills.mjs [--rounds 5] [--only answered,arrived] [--at-once 3] [--seed N]
//
// Each kind of kill has its own server and receivers. A round consists of some uploads, a `kill -9` at that moment, a
// restart, and the delivery of everything. Then, for every upload whose creation was acknowledged: all events have
// reached every endpoint, with one id and the same bytes each time; sequences have no gap; first arrivals are in order;
// and only deliveries that were in progress at a kill have arrived twice.

import assert from 'node:assert/strict';
import { parseArgs } from 'node:util';
import { administer, administered, deliveries, list } from '../clients/harness/api.mjs';
import { noise, random } from '../clients/harness/bytes.mjs';
import { Proxy } from '../clients/harness/proxy.mjs';
import { Receiver, newSecret } from '../clients/harness/receiver.mjs';
import { Server } from '../clients/harness/server.mjs';
import { sleep, until } from '../clients/harness/until.mjs';
import { HMAC } from '../clients/harness/verifiers.mjs';
import { Lost, request } from './wire.mjs';

const TYPES = ['created', 'receiving', 'received', 'verified', 'stored', 'completed'].map((stage) => `upload.${stage}`);
const UPLOADS_PER_ROUND = 4;

/** Metadata near the limit, so that the server can die in the middle of the request. */
const METADATA_BYTES = 5800;

/**
 * A response that was sent this long before a kill must have been recorded by then. A disk that is busy with other work
 * takes seconds for one commit; on a fast disk, no delivery of an earlier round may be repeated.
 */
const RECORDED_WITHIN_MS = 15_000;

/** The number of deliveries of a replay that are queued per second, and the minimum number of its uploads. */
const REPLAY_RATE = 40;
const UPLOADS_TO_REPLAY = 12;

const PATIENCE = { timeout: 60_000, every: 50 };

/**
 * The moments of the kills. For one round of a trial, each returns `before`, which creates the situation for a kill and
 * resolves at the right time, and if needed `down`, called while the server is down, and `up`, called when it runs
 * again.
 */
const MOMENTS = {
  /** The client has its response: the change is committed, and possibly no sender has claimed its events yet. */
  answered: (trial) => ({ before: () => trial.uploads() }),

  /** The whole request has arrived, and no byte of a response was sent. */
  arrived: (trial) => ({ before: () => trial.atRequest(() => {}) }),

  /** A part of the request has arrived; the rest never does. */
  halfway: (trial) => ({
    async before() {
      const held = trial.proxy.cutAfter(trial.dice.between(200, METADATA_BYTES), 'stall');
      await Promise.all([held, trial.uploads()]);
    },
    down() {
      trial.proxy.cutAll('rst');
      trial.proxy.flow();
    },
  }),

  /** The receiver has sent only the first line of its response. */
  'status-line': (trial) => ({
    before: () => trial.atRequest((_entry, response) => response.socket.write('HTTP/1.1 200 OK\r\n')),
  }),

  /** The whole response was sent; it may have been read, and its result may have been recorded. */
  responded: (trial) => ({
    async before() {
      await trial.atRequest((entry, response) => trial.accept(entry, response));
      await sleep(trial.dice.between(0, 6));
    },
  }),

  /** An attempt has failed and the next one is planned. */
  'backing-off'(trial) {
    const { server, receivers } = trial;
    let waiting;
    return {
      async before() {
        receivers.first.behave(503);
        await trial.uploads();
        waiting = await until('a failure to be on record', async () => {
          const found = await deliveries(server, 'endpoint=first&state=ready&limit=500');
          return found.find(({ attempts }) => attempts.length > 0);
        });
      },
      async up() {
        const again = await until('the attempt after the kill', () => {
          return receivers.first.accepted().find(({ id }) => id === waiting.event_id);
        });
        assert.ok(again.attempt > waiting.attempts.length, `attempt ${again.attempt}: counting goes on over a kill`);
        assert.ok(again.at >= Date.parse(waiting.next_attempt_at) - 50, 'a kill does not shorten the wait');
      },
    };
  },

  /** An endpoint is getting a new secret, another address, other headers. */
  changing(trial) {
    const { server, receivers, dice, round } = trial;
    const secret = newSecret();
    const url = `${receivers.second.url}/${round}`;
    const change = { does: () => administer(server, 'PATCH', '/endpoints/second', { url, headers: { 'X-Round': String(round) } }) };
    const rotation = { does: () => administer(server, 'POST', '/endpoints/second/rotate', { secret, overlap_ms: 3_600_000 }) };
    const shown = () => administered(server, 'GET', '/endpoints/second');
    return {
      async before() {
        trial.secrets.push(secret);
        receivers.second.verifyWith(...trial.secrets.map(HMAC.standardwebhooks));
        if (dice.chance(0.5)) await trial.uploads();
        else trial.beginUploads();
        for (const one of dice.chance(0.5) ? [change, rotation] : [rotation, change]) {
          one.does().then((answer) => (one.answer = answer), () => {}); // A lost response proves nothing.
        }
        await sleep(dice.between(0, 150));
      },
      async up() {
        const { url: found, keys } = await shown();
        const is = { changed: found === url, rotated: keys.length === round + 1 };
        for (const [one, there] of [[change, is.changed], [rotation, is.rotated]]) {
          if (one.answer) {
            assert.equal(one.answer.status, 200, JSON.stringify(one.answer.body));
            assert.ok(there, 'what was acknowledged is there');
          }
          if (!there) assert.equal((await one.does()).status, 200, 'what was not can be asked for again');
        }
        const after = await shown();
        assert.deepEqual([after.url, after.keys.length, after.headers], [url, round + 1, ['x-round']]);
        const { id } = await trial.upload();
        await receivers.second.hear('upload.completed', id);
        for (const { headers } of receivers.second.accepted(id)) {
          assert.equal(headers['x-round'], String(round), 'what is sent from now on is as the change has it');
          for (const known of trial.secrets) HMAC.svix(known)(receivers.second.accepted(id)[0].body, receivers.second.accepted(id)[0].headers);
        }
      },
    };
  },

  /** A replay has sent some of its deliveries. */
  replaying(trial) {
    const { server, dice } = trial;
    const name = `late-${trial.round}`;
    let late, job, expected;
    return {
      async before() {
        while (trial.acknowledged.length < UPLOADS_TO_REPLAY) await trial.uploads();
        await trial.settle();
        late = await Receiver.start();
        late.behave((entry, _request, response) => trial.accept(entry, response));
        await administered(server, 'POST', '/endpoints', { id: name, url: late.url, secret: late.secret });
        trial.receivers[name] = late;
        job = await administered(server, 'POST', `/endpoints/${name}/replay`, { what: 'missed' });
        expected = trial.acknowledged.length * TYPES.length;
        const some = dice.between(1, Math.floor(expected / 2));
        await until(`${some} of ${expected} to be replayed`, () => late.requests.length >= some, { timeout: 30_000, every: 5 });
      },
      async up() {
        const ended = await until('the replay to end', async () => {
          const found = await administered(server, 'GET', `/replays/${job.id}`);
          return found.finished_at && found;
        }, PATIENCE);
        assert.deepEqual([ended.state, ended.queued], ['done', expected], 'each event is queued once, over a kill too');
        await trial.settle();
        trial.check(name);
        delete trial.receivers[name];
        await administered(server, 'DELETE', `/endpoints/${name}`);
        await late.down();
      },
    };
  },

  /** The server was signaled to stop and has not ended yet. */
  stopping: (trial) => ({
    async before() {
      for (const receiver of Object.values(trial.receivers)) {
        receiver.behave((entry, _request, response) => {
          setTimeout(() => trial.accept(entry, response), trial.dice.between(0, 300));
        });
      }
      await trial.uploads();
      trial.server.signal('SIGTERM');
      await sleep(trial.dice.between(0, 250));
    },
  }),
};

/** One kind of kill, repeated. */
class Trial {
  receivers = {};
  secrets = [];
  /** Ids of the uploads whose client has a response that all their bytes are stored. */
  acknowledged = [];
  round = 0;
  counts = { rounds: 0, uploads: 0, unanswered: 0, events: 0, arrivals: 0, repeats: 0 };
  /** All uploads, as the server lists them. */
  #uploads = [];
  /** The requests of clients that are in progress. */
  #asked = [];
  /** The periods from the beginning of a kill until the server was about to start again. */
  #kills = [];
  /**
   * By endpoint: the number of requests that had arrived when everything was last delivered, and the number that were
   * checked.
   */
  #settled = {};
  /** The body of each event. */
  #bodies = new Map();

  constructor(moment, seed) {
    this.moment = moment;
    this.dice = random(seed);
  }

  async run(rounds) {
    const began = Date.now();
    try {
      await this.#prepare();
      while (this.round < rounds) {
        this.round += 1;
        await this.#killOnce();
      }
      assert.deepEqual(await this.server.stop(), { code: 0, signal: null }, 'an orderly stop');
    } catch (cause) {
      const kept = `the server's log and data are in ${this.server?.folder}`;
      throw new Error(`${this.moment}, round ${this.round} of ${rounds}: ${cause.message}; ${kept}`, { cause });
    } finally {
      await this.server?.kill();
      for (const receiver of Object.values(this.receivers)) await receiver.down();
      await this.proxy?.stop();
    }
    await this.server.dispose();
    this.counts.seconds = Math.round((Date.now() - began) / 1000);
    return this.counts;
  }

  /** The first endpoint is in the configuration and behind a proxy; the second one was created through the API. */
  async #prepare() {
    const [first, second] = [await Receiver.start(), await Receiver.start()];
    this.receivers = { first, second };
    this.secrets.push(second.secret);
    this.proxy = await Proxy.start(first);
    const waits = { timeout: '5s', connect_timeout: '5s', lease: '12s', retry_schedule: Array(50).fill('1s'), retry_jitter_percent: 0 };
    const endpoint = { ...first.endpoint({ name: 'first' }), url: `${this.proxy.url}${first.path}` };
    const others = { breaker_failures: 0, replay_rate: REPLAY_RATE, allow_networks: ['127.0.0.0/8'] };
    const config = { shutdown_timeout: '5s', webhooks: { ...waits, ...others, endpoints: [endpoint] } };
    this.server = await Server.prepare({ name: `kill-${this.moment}`, config });
    await this.server.restart();
    const made = { id: 'second', url: second.url, secret: second.secret, ordering: 'strict' };
    await administered(this.server, 'POST', '/endpoints', made);
  }

  async #killOnce() {
    this.#behaveWell();
    const { before, down, up } = MOMENTS[this.moment](this);
    await before();
    const kill = { sent: Date.now() };
    this.#kills.push(kill);
    await this.server.kill();
    this.#behaveWell();
    await down?.();
    // The deliveries that have arrived are recorded before any new one can arrive.
    await Promise.all(Object.values(this.receivers).map((receiver) => receiver.left()));
    kill.over = Date.now();
    await this.server.restart();
    await Promise.all(this.#asked.splice(0));
    await up?.();
    await this.settle();
    for (const name of Object.keys(this.receivers)) this.check(name);
    this.counts.rounds += 1;
  }

  #behaveWell() {
    for (const receiver of Object.values(this.receivers)) {
      receiver.behave((entry, _request, response) => this.accept(entry, response));
    }
  }

  accept(entry, response) {
    if (response.destroyed) return;
    entry.status = 200;
    entry.answeredAt = Date.now();
    response.writeHead(200).end();
  }

  /**
   * Begins uploads, and resolves when one of their many requests has arrived at the first receiver, and `act` was
   * called with it.
   */
  async atRequest(act) {
    let left = this.dice.between(1, UPLOADS_PER_ROUND * TYPES.length);
    const came = new Promise((done) => {
      this.receivers.first.behave((entry, _request, response) => {
        left -= 1;
        if (left !== 0) return this.accept(entry, response);
        act(entry, response);
        done();
      });
    });
    this.beginUploads();
    await came;
  }

  /** Lets clients send concurrently, without waiting for them. */
  beginUploads() {
    for (let i = 0; i < UPLOADS_PER_ROUND; i += 1) this.#asked.push(this.upload());
  }

  async uploads() {
    this.beginUploads();
    await Promise.all(this.#asked.splice(0));
  }

  /** Sends one small upload in one request; returns `{id}` if its client has a response that all bytes are stored. */
  async upload() {
    const bytes = noise(this.dice.between(1, 5000), this.counts.uploads);
    this.counts.uploads += 1;
    const headers = {
      'Upload-Length': bytes.length,
      'Upload-Metadata': `filename ${Buffer.from('x'.repeat(METADATA_BYTES)).toString('base64')}`,
      'Content-Type': 'application/offset+octet-stream',
    };
    try {
      const { status: told, headers: said } = await request(this.server.port, 'POST', '/files', headers, { body: [bytes] });
      if (told === 201 && Number(said['upload-offset']) === bytes.length) {
        const id = said.location.split('/').pop();
        this.acknowledged.push(id);
        return { id };
      }
      assert.ok([201, 503].includes(told), `a creation is answered ${told}`);
    } catch (error) {
      if (!(error instanceof Lost)) throw error;
    }
    this.counts.unanswered += 1;
    return {};
  }

  /** Waits until no upload is completing and every event is delivered. */
  async settle() {
    this.#uploads = await until('every upload to be at rest', async () => {
      const found = await list(this.server, 'limit=500');
      return found.every(({ stage }) => ['created', 'receiving', 'completed'].includes(stage)) && found;
    }, PATIENCE);
    const stages = new Map(this.#uploads.map(({ id, stage }) => [id, stage]));
    for (const id of this.acknowledged) assert.equal(stages.get(id), 'completed', `${id} was acknowledged`);
    const open = async () => {
      const states = ['waiting', 'ready', 'leased', 'paused', 'dead'];
      return (await Promise.all(states.map((state) => deliveries(this.server, `state=${state}&limit=500`)))).flat();
    };
    let left = [];
    try {
      await until('every event to be delivered', async () => (left = await open()).length === 0, PATIENCE);
    } catch (error) {
      const what = left.slice(0, 5).map((delivery) => JSON.stringify(delivery)).join('\n');
      throw new Error(`${error.message}; left are ${left.length}:\n${what}`);
    }
  }

  /** Checks an endpoint after everything is delivered. */
  check(name) {
    const receiver = this.receivers[name];
    assert.deepEqual(receiver.refused, [], `what ${name} hears is verified`);
    for (const entry of receiver.requests) {
      const body = this.#bodies.get(entry.id) ?? entry.body;
      assert.equal(entry.body, body, `${entry.id} has the same bytes each time, at ${name} too`);
      this.#bodies.set(entry.id, body);
    }
    const requests = new Map(this.#uploads.map(({ id }) => [id, []]));
    for (const entry of receiver.requests) requests.get(entry.uploadId).push(entry);
    for (const { id, stage } of this.#uploads) {
      const say = `of ${id}, which is ${stage}, at ${name}`;
      const heard = requests.get(id);
      const accepted = [...new Map(heard.filter(({ status }) => status === 200).map((entry) => [entry.id, entry])).values()];
      accepted.sort((a, b) => a.sequence - b.sequence);
      const types = TYPES.slice(0, TYPES.indexOf(`upload.${stage}`) + 1);
      const sequences = types.map((_, i) => i + 1);
      assert.deepEqual(accepted.map(({ type }) => type), types, `events ${say}`);
      assert.deepEqual(accepted.map(({ sequence }) => sequence), sequences, `sequences ${say}`);
      const firsts = new Set(heard.map(({ sequence }) => sequence));
      assert.deepEqual([...firsts], sequences, `the order of first arrivals ${say}`);
    }
    this.#checkRepeats(name, receiver);
  }

  /** Checks that an accepted delivery is repeated only if the server died before it can have recorded the response. */
  #checkRepeats(name, receiver) {
    const settled = this.#settled[name] ?? 0;
    const last = new Map();
    for (const [place, entry] of receiver.requests.entries()) {
      if (entry.status !== 200) continue;
      const before = last.get(entry.id);
      last.set(entry.id, { ...entry, place });
      if (!before || place < settled) continue;
      const say = `${entry.type} of ${entry.uploadId} came to ${name} again`;
      assert.ok(before.place >= settled, `${say} after all had been recorded`);
      const kill = this.#kills.find(({ over }) => before.at <= over && over <= entry.at);
      assert.ok(kill, `${say} without a kill in between`);
      const unrecorded = kill.sent - before.answeredAt;
      assert.ok(unrecorded < RECORDED_WITHIN_MS, `${say}; it was accepted ${unrecorded} ms before the kill`);
      this.counts.repeats += 1;
    }
    this.counts.events += last.size - (this.#settled[`${name} events`] ?? 0);
    this.counts.arrivals += receiver.requests.length - settled;
    this.#settled[`${name} events`] = last.size;
    this.#settled[name] = receiver.requests.length;
  }
}

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    only: { type: 'string', default: Object.keys(MOMENTS).join() },
    'at-once': { type: 'string', default: '3' },
    seed: { type: 'string', default: String(Date.now() % 2 ** 31) },
  },
});
const seed = Number(options.seed);
console.log(`webhook kills: ${options.rounds} rounds of each, --seed ${seed}`);

const waiting = options.only.split(',');
const results = {};
let failures = 0;
await Promise.all(Array.from({ length: Number(options['at-once']) }, async () => {
  for (let moment = waiting.shift(); moment !== undefined; moment = waiting.shift()) {
    try {
      assert.ok(MOMENTS[moment], `no moment is called ${moment}; they are ${Object.keys(MOMENTS)}`);
      results[moment] = await new Trial(moment, seed).run(Number(options.rounds));
    } catch (error) {
      console.error(error);
      failures += 1;
    }
  }
}));
console.table(results);
console.log(failures ? `webhook kills: FAILED; repeat with --seed ${seed}` : 'webhook kills: passed');
process.exit(failures ? 1 : 0);
