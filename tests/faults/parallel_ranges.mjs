// One large file in ranges of 16 MiB, eight at a time and in any order, while connections are cut and the server is
// killed.
//     node tests/faults/parallel_ranges.mjs [--size 2GiB] [--kills 3] [--seed N] [--keep]
//
// Each connection takes a range from a shuffled list. Some ranges carry a checksum, some are cut in the middle, some
// are sent twice at once. When the server is killed (`kill -9`), everything in progress breaks. A client that knows
// only the URL requests the missing ranges and resumes. The test asserts that nothing acknowledged was ever missing
// again, and that the download is the source.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';
import { request } from 'node:http';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { status } from '../clients/harness/api.mjs';
import { digestOfFile, random } from '../clients/harness/bytes.mjs';
import { Server } from '../clients/harness/server.mjs';
import { sleep, until } from '../clients/harness/until.mjs';

const { values: options } = parseArgs({
  options: {
    size: { type: 'string', default: '2GiB' },
    kills: { type: 'string', default: '3' },
    seed: { type: 'string', default: String(Date.now() % 1e6) },
    keep: { type: 'boolean', default: false },
  },
});
const CONNECTIONS = 8;
const MIB = 2 ** 20;
const RANGE = 16 * MIB;
const SIZE = bytesOf(options.size);
const KILLS = Number(options.kills);

function bytesOf(text) {
  const [, number, unit = 'B'] = /^(\d+)([KMG]iB)?$/.exec(text) ?? assert.fail(`not a size: ${text}`);
  return Number(number) * { B: 1, KiB: 2 ** 10, MiB: MIB, GiB: 2 ** 30 }[unit];
}

const chance = random(Number(options.seed));

function shuffled(list) {
  for (let last = list.length - 1; last > 0; last -= 1) {
    const other = chance.between(0, last);
    [list[last], list[other]] = [list[other], list[last]];
  }
  return list;
}

const started = Date.now();
const say = (text) => console.log(`${((Date.now() - started) / 1000).toFixed(1).padStart(7)} s  ${text}`);

/** Makes a file whose blocks all differ. */
async function makeSource(folder) {
  const path = join(folder, 'source');
  const file = await open(path, 'w');
  const block = Buffer.alloc(4 * MIB);
  for (let at = 0; at < SIZE; at += block.length) {
    for (let word = 0; word < block.length; word += 4096) block.writeBigUInt64LE(BigInt(at + word) * 0x9e3779b9n, word);
    await file.write(block.subarray(0, Math.min(block.length, SIZE - at)));
  }
  await file.close();
  return path;
}

class Broken extends Error {}

/** Sends one request. Rejects with `Broken` if the connection breaks or the server asks the client to retry later. */
function send(method, url, { headers = {}, body, cutAfter } = {}) {
  return new Promise((fulfil, reject) => {
    const sent = request(url, { method, headers: { ...headers, 'content-length': body?.length ?? 0 }, agent: false });
    sent.on('error', (error) => reject(new Broken(error.message)));
    sent.on('response', (answer) => {
      const chunks = [];
      answer.on('data', (chunk) => chunks.push(chunk));
      answer.on('error', (error) => reject(new Broken(error.message)));
      answer.on('end', () => {
        const text = Buffer.concat(chunks).toString();
        if (answer.statusCode === 503) return reject(new Broken(text));
        return fulfil({ status: answer.statusCode, headers: answer.headers, json: text ? JSON.parse(text) : undefined });
      });
    });
    if (cutAfter === undefined) return sent.end(body);
    return sent.write(body.subarray(0, cutAfter), () => {
      sent.destroy();
      reject(new Broken('cut'));
    });
  });
}

const counts = { ranges: 0, checked: 0, cut: 0, twice: 0, broken: 0, kills: 0 };

async function sendRange(url, source, [first, last]) {
  const body = Buffer.alloc(last - first + 1);
  await source.read(body, 0, body.length, first);
  const headers = { 'content-range': `bytes ${first}-${last}/${SIZE}` };
  if (chance.chance(0.3)) {
    headers['content-digest'] = `sha-256=:${createHash('sha256').update(body).digest('base64')}:`;
    counts.checked += 1;
  }
  if (chance.chance(0.15)) {
    counts.cut += 1;
    await send('PUT', url, { headers, body, cutAfter: chance.between(0, body.length - 1) });
  }
  const requests = [send('PUT', url, { headers, body })];
  if (chance.chance(0.05)) {
    counts.twice += 1;
    requests.push(send('PUT', url, { headers, body }));
  }
  const outcomes = await Promise.allSettled(requests);
  const answer = outcomes.find((outcome) => outcome.status === 'fulfilled');
  if (answer === undefined) throw outcomes[0].reason;
  assert.ok([200, 202].includes(answer.value.status), JSON.stringify(answer.value));
  counts.ranges += 1;
  return [first, last];
}

/**
 * Returns the missing bytes, as the server reports them to a client that knows only the URL, in ranges of at most 16
 * MiB.
 */
async function askMissing(url) {
  const { status: code, json } = await send('PUT', url, { headers: { 'content-range': 'bytes */*' } });
  assert.ok([200, 202].includes(code), JSON.stringify(json));
  const ranges = [];
  for (const [first, last] of json.missing ?? []) {
    // Cuts at multiples of the size, so that boundaries stay aligned.
    for (let at = first; at <= last; ) {
      const end = Math.min(last, Math.floor(at / RANGE) * RANGE + RANGE - 1);
      ranges.push([at, end]);
      at = end + 1;
    }
  }
  return { ranges, complete: json.complete };
}

const holds = (ranges, [first, last]) => !ranges.some(([from, to]) => from <= last && first <= to);

const server = await Server.start({ name: 'parallel-ranges' });
try {
  say(`seed ${options.seed}`);
  const path = await makeSource(server.folder);
  const digest = await digestOfFile(path);
  const source = await open(path);
  const created = await send('POST', server.endpoint, {
    headers: { 'content-type': 'application/json' },
    body: Buffer.from(JSON.stringify({ name: 'film.mp4', size: SIZE })),
  });
  assert.equal(created.status, 201);
  const id = created.json.id;
  const url = () => `${server.endpoint}/${id}`;
  say(`${SIZE / MIB} MiB in ranges of ${RANGE / MIB} MiB, ${CONNECTIONS} at a time`);

  const kept = [];
  let complete = false;
  const killAt = Array.from({ length: KILLS }, (_, kill) => Math.floor(((kill + 1) * SIZE) / RANGE / (KILLS + 1)));
  while (!complete) {
    const told = await askMissing(url());
    for (const range of kept) assert.ok(told.complete || holds(told.ranges, range), `${range} was taken back`);
    complete = told.complete;
    const queue = shuffled(told.ranges);
    let dead = false;
    const lane = async () => {
      while (queue.length > 0 && !dead) {
        try {
          kept.push(await sendRange(url(), source, queue.pop()));
        } catch (error) {
          if (!(error instanceof Broken)) throw error;
          counts.broken += 1;
        }
        if (kept.length >= killAt[0]) {
          killAt.shift();
          dead = true;
          counts.kills += 1;
          await server.kill();
        }
      }
    };
    await Promise.all(Array.from({ length: CONNECTIONS }, lane));
    if (dead) {
      say(`killed with ${kept.length} ranges acknowledged`);
      await server.restart();
    }
    await sleep(20);
  }
  say(JSON.stringify(counts));
  assert.equal(counts.kills, KILLS);

  const told = await until('completion', async () => {
    const now = await status(server, id);
    return now.stage === 'completed' && now;
  });
  assert.equal(told.digests.crc32c, digest.crc32c);
  const hash = createHash('sha256');
  const download = await fetch(url());
  for await (const chunk of download.body) hash.update(chunk);
  assert.equal(hash.digest('hex'), digest.sha256, 'the download is the source');
  await source.close();
  say('the download is the source');
  console.log('ok');
} finally {
  if (!options.keep) await server.dispose();
}
