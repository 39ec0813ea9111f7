// A real video, uploaded by tus-js-client over a slow line, while the server is killed repeatedly.
//     node tests/faults/real_input.mjs [--size 48MiB] [--seconds N] [--kills 4] [--keep]
//
// The video is made by ffmpeg, is an MP4 and can be played. The client, in a separate process, sends it through a proxy
// that slows it down. The server is killed (`kill -9`) along the way and once more at the moment of completion, and
// each time starts again on the same port. The webhook receiver is down at the beginning, later answers 500 for a
// while, and is down at the end. The test asserts that the client has resumed without help, that the offset in the
// status has never fallen, that the download is the source and can be played, and that each webhook has arrived,
// verified and in order.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { parseArgs, promisify } from 'node:util';
import { deliveries, head, idOf, status } from '../clients/harness/api.mjs';
import { digestOfFile } from '../clients/harness/bytes.mjs';
import { Proxy } from '../clients/harness/proxy.mjs';
import { Receiver } from '../clients/harness/receiver.mjs';
import { Schemas } from '../clients/harness/schemas.mjs';
import { Server } from '../clients/harness/server.mjs';
import { sleep, until, within } from '../clients/harness/until.mjs';
import { UploadProcess } from '../clients/node/client.mjs';
import { assertEventsArrived, assertStory } from './stories.mjs';

const { values: options } = parseArgs({
  options: {
    size: { type: 'string', default: '48MiB' },
    seconds: { type: 'string' },
    kills: { type: 'string', default: '4' },
    keep: { type: 'boolean', default: false },
  },
});
const SIZE = bytesOf(options.size);
/** The time that the line takes for the whole file, without interruptions. */
const SECONDS = Number(options.seconds ?? 12 + SIZE / 2 ** 26);
const KILLS = Number(options.kills);
const run = promisify(execFile);

function bytesOf(text) {
  const [, number, unit = 'B'] = /^(\d+)([KMG]iB)?$/.exec(text) ?? assert.fail(`not a size: ${text}`);
  return Number(number) * { B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 }[unit];
}

const mib = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
const started = Date.now();
const say = (text) => console.log(`${((Date.now() - started) / 1000).toFixed(1).padStart(7)} s  ${text}`);

/** Makes an MP4 of about `size` bytes: a few noisy seconds, encoded once and repeated until it is large enough. */
async function makeVideo(folder, size) {
  const clip = join(folder, 'clip.mp4');
  const video = join(folder, 'source.mp4');
  const quiet = ['-v', 'error', '-nostdin', '-y'];
  const picture = 'testsrc2=size=1280x720:rate=30,noise=alls=60:allf=t';
  await run('ffmpeg', [
    ...quiet, '-f', 'lavfi', '-i', picture, '-f', 'lavfi', '-i', 'sine=frequency=440:sample_rate=48000',
    '-t', '4', '-c:v', 'mpeg4', '-q:v', '4', '-pix_fmt', 'yuv420p', '-c:a', 'aac', clip,
  ]); // prettier-ignore
  await run('ffmpeg', [...quiet, '-stream_loop', '-1', '-i', clip, '-c', 'copy', '-fs', String(size), video]);
  return video;
}

/**
 * Returns the properties that a player finds in a file. Decodes the first and the last seconds, and fails on any error
 * in them.
 */
async function play(file) {
  const { stdout } = await run('ffprobe', ['-v', 'error', '-of', 'json', '-show_format', '-show_streams', file]);
  const { format, streams } = JSON.parse(stdout);
  for (const from of [['-ss', '0'], ['-sseof', '-3']]) {
    const decode = ['-v', 'error', '-xerror', '-nostdin', ...from, '-i', file, '-t', '3', '-f', 'null', '-'];
    const { stderr } = await run('ffmpeg', decode);
    assert.equal(stderr, '', `decoding ${file}`);
  }
  return {
    duration: Number(format.duration),
    streams: streams.map(({ codec_name: codec, nb_frames: frames }) => `${codec} × ${frames}`),
  };
}

/** Requests the status all the time. Records every reported offset, and when one is smaller than an earlier one. */
class Watch {
  answers = 0;
  unanswered = 0;
  backwards = [];
  offset = 0;
  stages = [];
  #over = false;

  constructor(server, id) {
    this.finished = this.#poll(server, id);
  }

  async #poll(server, id) {
    while (!this.#over) {
      try {
        const told = await status(server, id);
        this.answers += 1;
        if (told.offset < this.offset) this.backwards.push({ from: this.offset, to: told.offset });
        assert.ok(told.received >= told.offset, 'what is received is at least what is committed');
        this.offset = told.offset;
        if (this.stages.at(-1) !== told.stage) this.stages.push(told.stage);
      } catch (error) {
        if (error instanceof assert.AssertionError) throw error;
        this.unanswered += 1; // The server is dead at the moment.
      }
      await sleep(25);
    }
  }

  async reaches(offset) {
    await until(`offset ${offset}`, () => this.offset >= offset, { timeout: (SECONDS + 60) * 1000, every: 10 });
  }

  async stop() {
    this.#over = true;
    await this.finished;
  }
}

async function killAndRestart(server, watch, meanwhile = async () => {}) {
  const before = watch.offset;
  await server.kill();
  await meanwhile();
  const restarting = Date.now();
  await server.restart();
  say(`killed at offset ${before} (${mib(before)}); back after ${Date.now() - restarting} ms`);
}

const receiver = await Receiver.start();
const server = await Server.start({
  name: 'real-input',
  config: {
    limits: { sweep_every: '500ms', stall_after: '1s' },
    webhooks: {
      timeout: '1s',
      connect_timeout: '1s',
      lease: '6s',
      retry_schedule: Array(100).fill('1s'),
      breaker_pause: '1s',
      retry_jitter_percent: 0,
      progress_every: '1s',
      progress_min_size: '1MiB',
      endpoints: [receiver.endpoint({ name: 'everything', events: ['*'] })],
    },
  },
});
const proxy = await Proxy.start(server);

try {
  const file = await makeVideo(server.folder, SIZE);
  const source = await digestOfFile(file);
  const played = await play(file);
  say(`made ${mib(source.size)} of video, ${played.duration.toFixed(1)} s, ${played.streams.join(', ')}`);

  proxy.rate = source.size / SECONDS;
  await receiver.down();
  say('the receiver is down');
  const client = new UploadProcess({
    endpoint: proxy.endpoint,
    file,
    options: { metadata: { filename: 'holiday – März.mp4', filetype: 'video/mp4' } },
  });
  const id = idOf(await client.urlKnown());
  const uploadStarted = Date.now();
  const watch = new Watch(server, id);

  // The kills are spread over the file; the receiver returns while the server is dead, and fails in the middle.
  for (let kill = 1; kill <= KILLS; kill += 1) {
    await watch.reaches((source.size * kill) / (KILLS + 1));
    const ill = kill === Math.ceil(KILLS / 2) + 1;
    if (ill) {
      receiver.behave(500);
      say('the receiver answers 500');
      await watch.reaches((source.size * (kill + 0.3)) / (KILLS + 1));
    }
    await killAndRestart(server, watch, async () => {
      if (receiver.isUp) return;
      await receiver.up();
      say('the receiver is up while the server is dead');
    });
    if (ill) {
      await sleep(1500);
      receiver.behave(200);
      say('the receiver is well again');
    }
  }

  await watch.reaches(source.size * 0.93);
  await receiver.down();
  say('the receiver is down');
  await within((SECONDS + 120) * 1000, 'the client to finish', client.success());
  const seconds = (Date.now() - uploadStarted) / 1000;
  await killAndRestart(server, watch, () => receiver.up());
  say('the receiver is up; the client finished just before the kill');

  const told = await until('completion', async () => {
    const now = await status(server, id);
    return now.stage === 'completed' && now;
  });
  assert.equal(told.digests.crc32c, source.crc32c);
  const { offset, length } = await head(`${server.endpoint}/${id}`);
  assert.deepEqual([offset, length], [source.size, source.size]);

  await receiver.hear('upload.completed', id, { timeout: 60_000 });
  const log = await until('every event to be delivered', async () => {
    const found = await deliveries(server, `upload=${id}&limit=500`);
    return !found.some(({ state }) => !['succeeded', 'superseded'].includes(state)) && found;
  });
  log.sort((a, b) => a.sequence - b.sequence);
  await watch.stop();

  const copy = join(server.folder, 'download.mp4');
  const answer = await fetch(`${server.endpoint}/${id}`);
  assert.equal(answer.headers.get('content-type'), 'video/mp4');
  await pipeline(Readable.fromWeb(answer.body), createWriteStream(copy));
  assert.deepEqual(await digestOfFile(copy), source, 'the download is the source');
  assert.deepEqual(await play(copy), played, 'the download plays as the source does');
  say(`downloaded ${mib((await stat(copy)).size)}: the same bytes, and they play`);

  assert.deepEqual(watch.backwards, [], 'the offset went backwards');
  assert.deepEqual(receiver.refused, [], 'every webhook is verified');
  const schemas = await Schemas.of(server);
  for (const { event } of receiver.requests) schemas.check(event);
  assertStory(told, log);
  const overtaken = assertEventsArrived(log, receiver.accepted(id), id);

  const resumes = client.all('answer').filter(({ method, status }) => method === 'HEAD' && status === 200);
  assert.ok(resumes.length >= KILLS, `only ${resumes.length} resumes`);
  assert.equal(client.all('answer').filter(({ method }) => method === 'POST').length, 1, 'one upload, never begun anew');
  const states = (state) => log.filter((delivery) => delivery.state === state).length;
  console.log(`
  source      ${source.size} bytes, sha256 ${source.sha256}, crc32c ${source.crc32c}
  upload      ${seconds.toFixed(1)} s at ${mib(proxy.rate)}/s; ${mib(proxy.sent)} went over the line, ${proxy.connections} connections
  kills       ${server.starts - 1}, each survived; the client resumed at ${resumes.map(({ offset: at }) => mib(at)).join(', ')}
  status      ${watch.answers} answers, ${watch.unanswered} while dead; never backwards; stages seen: ${watch.stages.join(' → ')}
  events      ${log.map(({ type }) => type.slice(7)).join(' ')}
  deliveries  ${states('succeeded')} succeeded, ${states('superseded')} progress superseded; ${receiver.requests.length} requests verified,
              ${log.reduce((sum, { attempts }) => sum + attempts.length, 0)} attempts recorded; first attempts in order${overtaken ? `; ${overtaken} overtaken while waiting for a retry` : ', and so did they arrive'}
`);
} catch (error) {
  console.error(error);
  console.error(`real input: FAILED; the server's log and data are kept in ${server.folder}`);
  await server.kill();
  process.exit(1);
}

await receiver.down();
await proxy.stop();
if (options.keep) console.log(`kept in ${server.folder}`);
else await server.dispose();
console.log('real input: passed');
process.exit(0);
