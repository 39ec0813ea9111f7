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
import { createWriteStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { parseArgs } from 'node:util';
import { deliveries, head, idOf, status } from '../clients/harness/api.mjs';
import { digestOfFile } from '../clients/harness/bytes.mjs';
import { Proxy } from '../clients/harness/proxy.mjs';
import { Receiver } from '../clients/harness/receiver.mjs';
import { Schemas } from '../clients/harness/schemas.mjs';
import { Server } from '../clients/harness/server.mjs';
import { sleep, until, within } from '../clients/harness/until.mjs';
import { UploadProcess } from '../clients/node/client.mjs';
import { assertEventsArrived, assertStory } from './stories.mjs';
import { bytesOf, makeVideo, mib, play } from './video.mjs';
import { Watch } from './watch.mjs';

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
const LINE = { timeout: (SECONDS + 60) * 1000 };
const KILLS = Number(options.kills);
const started = Date.now();
const say = (text) => console.log(`${((Date.now() - started) / 1000).toFixed(1).padStart(7)} s  ${text}`);

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
    await watch.reaches((source.size * kill) / (KILLS + 1), LINE);
    const ill = kill === Math.ceil(KILLS / 2) + 1;
    if (ill) {
      receiver.behave(500);
      say('the receiver answers 500');
      await watch.reaches((source.size * (kill + 0.3)) / (KILLS + 1), LINE);
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

  await watch.reaches(source.size * 0.93, LINE);
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
