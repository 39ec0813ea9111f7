// Real uploads for a given time, with nine healthy webhook receivers and one that never answers. The hanging one must
// not affect the others: nothing lost, nothing duplicated, and each event delivered within a second (webhooks E2). It
// has no breaker, so it is called all the time, with all the concurrent attempts it may have, and each of them hangs
// until it times out.
//     node tests/faults/webhook_soak.mjs [--minutes 1] [--durability relaxed]
//
// Uploads cause 200 events per second in total. Metadata selects the endpoints of each upload: each healthy endpoint
// gets 20 events per second, the hanging one 100. At the end the script prints the arrivals and their latency, which is
// the time from the event's timestamp, that of its commit, to its arrival at the receiver. For comparison it prints the
// time that the disk alone took for one small write, because no commit is faster than that; `--durability relaxed`
// takes the disk out of the measurement.

import assert from 'node:assert/strict';
import { open, readFile } from 'node:fs/promises';
import { Agent, request } from 'node:http';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { parseArgs } from 'node:util';
import { administered, deliveries } from '../clients/harness/api.mjs';
import { Receiver } from '../clients/harness/receiver.mjs';
import { Server } from '../clients/harness/server.mjs';
import { sleep, until } from '../clients/harness/until.mjs';

const { values: options } = parseArgs({
  options: { minutes: { type: 'string', default: '1' }, durability: { type: 'string', default: 'strict' } },
});
const LENGTH_MS = Number(options.minutes) * 60_000;

const HEALTHY = 9;
const EVENTS_PER_UPLOAD = 6;
const EVENTS_PER_SECOND = 200;
const EVERY_MS = (1000 * EVENTS_PER_UPLOAD) / EVENTS_PER_SECOND;

/**
 * The maximum of concurrent uploads; when the server is slower than that, the script reports it instead of adding load.
 */
const MOST_AT_ONCE = 64;

/** The limit of the 99th percentile. It is not checked if the disk alone takes that long for one write. */
const LIMIT_MS = 1000;
const SLOW_DISK_MS = 250;

/** The load of the hanging receiver: the number of concurrent attempts, and the duration of each. */
const HANGING_AT_ONCE = 10;
const HANGING_MS = 15_000;

/** The permitted growth of memory after it has settled. */
const GROWTH_LIMIT_BYTES = 96 << 20;
const SAMPLE_EVERY_MS = 1000;

const body = Buffer.from('a small upload, as small as they come');
const agent = new Agent({ keepAlive: true, maxSockets: MOST_AT_ONCE });

/** Creates an upload with all its bytes, in one request on a kept connection; returns its id. */
function upload(port, metadata) {
  const encoded = Object.entries(metadata).map(([name, value]) => `${name} ${Buffer.from(value).toString('base64')}`);
  const headers = {
    'Tus-Resumable': '1.0.0',
    'Upload-Length': body.length,
    'Upload-Metadata': encoded.join(),
    'Content-Type': 'application/offset+octet-stream',
    'Content-Length': body.length,
  };
  return new Promise((done, failed) => {
    const asked = request({ port, host: '127.0.0.1', method: 'POST', path: '/files', headers, agent }, (answer) => {
      answer.resume();
      if (answer.statusCode === 201) done(answer.headers.location.split('/').pop());
      else failed(new Error(`an upload is answered ${answer.statusCode}`));
    });
    asked.on('error', failed);
    asked.end(body);
  });
}

/** The events that each receiver has received, in compact form: a soak test delivers hundreds of thousands. */
class Ear {
  latencies = [];
  /** By upload, one bit for each sequence. */
  heard = new Map();
  arrivals = 0;
  repeats = 0;

  static async open(name, answers) {
    const ear = new Ear();
    ear.name = name;
    ear.receiver = await Receiver.start();
    ear.receiver.behave((entry) => {
      ear.#note(entry);
      ear.receiver.requests.length = 0;
      return answers ? 200 : 'hang';
    });
    return ear;
  }

  #note({ uploadId, sequence, at, event }) {
    this.arrivals += 1;
    const before = this.heard.get(uploadId) ?? 0;
    const bit = 1 << sequence;
    if (before & bit) this.repeats += 1;
    else this.latencies.push(at - Date.parse(event.timestamp));
    this.heard.set(uploadId, before | bit);
  }

  /** Returns the number of events of these uploads that have not arrived. */
  missing(uploads) {
    const all = (2 << EVENTS_PER_UPLOAD) - 2;
    return uploads.reduce((sum, id) => sum + bits(all & ~(this.heard.get(id) ?? 0)), 0);
  }
}

function bits(word) {
  let count = 0;
  for (let rest = word; rest; rest &= rest - 1) count += 1;
  return count;
}

function percentile(sorted, share) {
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * share) - 1)] : NaN;
}

async function memoryOf(pid) {
  const found = /^VmRSS:\s+(\d+) kB$/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'));
  return Number(found[1]) * 1024;
}

/** Makes the same demand on the disk as each commit, a few times per second: one block, made durable. */
class Disk {
  times = [];
  #stopped = false;
  #asking = this.#ask();

  async #ask() {
    const file = await open(join(server.folder, 'disk'), 'w');
    for (const block = Buffer.alloc(4096); !this.#stopped; await sleep(200)) {
      const began = Date.now();
      await file.write(block, 0, block.length, 0);
      await file.datasync();
      this.times.push(Date.now() - began);
    }
    await file.close();
    this.times.sort((a, b) => a - b);
  }

  async stop() {
    this.#stopped = true;
    await this.#asking;
  }
}

const mib = (bytes) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
const median = (list) => percentile([...list].sort((a, b) => a - b), 0.5);

console.log(`webhook soak: ${options.minutes} min, ${EVENTS_PER_SECOND} events/s, ${HEALTHY} healthy receivers and one that hangs`);
const healthy = await Promise.all(Array.from({ length: HEALTHY }, (_, i) => Ear.open(`healthy-${i}`, true)));
const hanging = await Ear.open('hanging', false);
const endpoint = (ear, metadata) => ({ ...ear.receiver.endpoint({ name: ear.name }), metadata });
const hung = { ...endpoint(hanging, { slow: 'yes' }), max_in_flight: HANGING_AT_ONCE, timeout: `${HANGING_MS}ms` };
const endpoints = [...healthy.map((ear, i) => endpoint(ear, { group: String(i) })), hung];
const server = await Server.prepare({ name: 'webhook-soak', config: { log: { level: 'warn' }, storage: { durability: options.durability }, webhooks: { breaker_failures: 0, endpoints } } });

try {
  await server.restart();
  await soak();
  await server.dispose();
} catch (error) {
  console.error(error);
  console.error(`webhook soak: FAILED; the server's log and data are in ${server.folder}`);
  await server.kill();
  process.exit(1);
}
console.log('webhook soak: passed');
process.exit(0);

async function soak() {
  const lag = monitorEventLoopDelay({ resolution: 10 });
  lag.enable();
  const disk = new Disk();
  const sent = await load();
  await disk.stop();
  lag.disable();
  await until('all healthy receivers to have heard everything', () => healthy.every((ear, i) => !ear.missing(sent.byGroup[i])), {
    timeout: 60_000,
    every: 250,
  }).catch((error) => console.error(String(error)));
  await sleep(1000); // Time for duplicates to arrive.
  await report(sent, disk, lag);
}

/** Sends uploads at an even rate until time is up; returns the uploads, and the server's memory over time. */
async function load() {
  const sent = { count: 0, refused: 0, skipped: 0, byGroup: Array.from({ length: HEALTHY + 1 }, () => []), slow: [], memory: [] };
  const living = new Set();
  const began = Date.now();
  let sampled = 0;
  for (let number = 0; Date.now() - began < LENGTH_MS; number += 1) {
    const ahead = began + number * EVERY_MS - Date.now();
    if (ahead > 0) await sleep(ahead);
    if (Date.now() - sampled >= SAMPLE_EVERY_MS) {
      sampled = Date.now();
      sent.memory.push(await memoryOf(server.pid));
    }
    if (living.size >= MOST_AT_ONCE) {
      sent.skipped += 1;
      await Promise.race(living);
    }
    // Ten groups; no healthy endpoint receives the last one, and the hanging endpoint also gets every second upload.
    const group = number % (HEALTHY + 1);
    const isSlow = Math.floor(number / (HEALTHY + 1)) % 2 === 0;
    const one = upload(server.port, { group: String(group), slow: isSlow ? 'yes' : 'no' })
      .then((id) => {
        sent.count += 1;
        sent.byGroup[group].push(id);
        if (isSlow) sent.slow.push(id);
      }, (error) => {
        sent.refused += 1;
        sent.error = error;
      })
      .finally(() => living.delete(one));
    living.add(one);
  }
  await Promise.all(living);
  sent.seconds = (Date.now() - began) / 1000;
  return sent;
}

async function report(sent, disk, lag) {
  const latencies = healthy.flatMap((ear) => ear.latencies).sort((a, b) => a - b);
  const [p50, p95, p99] = [0.5, 0.95, 0.99].map((share) => percentile(latencies, share));
  const missing = healthy.reduce((sum, ear, i) => sum + ear.missing(sent.byGroup[i]), 0);
  const repeats = healthy.reduce((sum, ear) => sum + ear.repeats, 0);
  const refused = [...healthy, hanging].reduce((sum, ear) => sum + ear.receiver.refused.length, 0);
  const forHealthy = sent.byGroup.slice(0, HEALTHY).reduce((sum, { length }) => sum + length, 0) * EVENTS_PER_UPLOAD;
  const forHanging = sent.slow.length * EVENTS_PER_UPLOAD;
  const shown = await administered(server, 'GET', '/endpoints/hanging');
  const dead = (await deliveries(server, 'state=dead&limit=500')).length;

  const rate = (events) => `${events} (${(events / sent.seconds).toFixed(0)}/s)`;
  const quarters = [0, 0.25, 0.5, 0.75, 1].map((share) => mib(sent.memory[Math.floor(share * (sent.memory.length - 1))]));
  const quarter = Math.max(1, Math.floor(sent.memory.length / 4));
  const [settled, last] = [median(sent.memory.slice(quarter, 2 * quarter)), median(sent.memory.slice(-quarter))];
  const lines = {
    'uploads': `${sent.count} in ${sent.seconds.toFixed(0)} s, ${sent.refused} refused, ${sent.skipped} times late`,
    'events': rate(sent.count * EVENTS_PER_UPLOAD),
    'for healthy endpoints': rate(forHealthy),
    'arrived there': `${latencies.length}, ${missing} lost, ${repeats} twice, ${refused} not verified`,
    'first attempt after': `p50 ${p50} ms, p95 ${p95} ms, p99 ${p99} ms (below ${LIMIT_MS} ms), most ${latencies.at(-1)} ms`,
    'the disk alone': `p50 ${percentile(disk.times, 0.5)} ms, p99 ${percentile(disk.times, 0.99)} ms, most ${disk.times.at(-1)} ms`,
    'for the hanging one': `${rate(forHanging)}; attempts ${hanging.arrivals}, backlog ${shown.backlog.total}, given up ${dead}`,
    'memory of the server': `${quarters.join(', ')} from start to end, most ${mib(Math.max(...sent.memory))}`,
  };
  for (const [what, value] of Object.entries(lines)) console.log(`  ${what.padEnd(22)} ${value}`);
  if (p99 >= LIMIT_MS) {
    const busy = (await readFile('/proc/loadavg', 'utf8')).split(' ', 3).join(' ');
    const late = (lag.percentile(99) / 1e6).toFixed(0);
    console.log(`  too late; the load of the machine is ${busy}, and this script itself was ${late} ms late at p99`);
  }

  assert.equal(sent.refused, 0, `uploads were refused: ${sent.error}`);
  assert.equal(refused, 0, 'every delivery is verified');
  assert.equal(missing, 0, 'events were lost');
  assert.equal(repeats, 0, 'events came twice');
  const { total, has_more: hasMore } = shown.backlog;
  // The server counts up to 100,000 of each state.
  const isKept = hasMore ? total >= 100_000 && total <= forHanging : total === forHanging;
  assert.ok(isKept, `what the hanging one has not heard is kept for it: ${total} of ${forHanging}`);
  assert.equal(dead, 0);
  // It may be called a little less than possible: a first attempt waits for an upload, and the end cuts some off.
  const rounds = Math.floor((sent.seconds * 1000) / HANGING_MS);
  assert.ok(hanging.arrivals >= (rounds * HANGING_AT_ONCE) / 2, `the hanging one was asked only ${hanging.arrivals} times`);
  const isDiskSlow = options.durability === 'strict' && percentile(disk.times, 0.99) > SLOW_DISK_MS;
  if (isDiskSlow && p99 >= LIMIT_MS) {
    console.log(`  ${'!'.repeat(100)}`);
    console.log(`  NOT JUDGED: p99 is ${p99} ms, which would fail, but the disk alone took more than ${SLOW_DISK_MS} ms.`);
    console.log('  The disk is too busy with others. Run it again when it is not, or with --durability relaxed.');
    console.log(`  ${'!'.repeat(100)}`);
  } else {
    assert.ok(p99 < LIMIT_MS, `p99 is ${p99} ms`);
  }
  assert.ok(last - settled < GROWTH_LIMIT_BYTES, `memory grows: from ${mib(settled)} to ${mib(last)} over half of the time`);
}
