// Real videos, made and played by ffmpeg, and their sizes.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** Returns the number of bytes in a text such as 48MiB. */
export function bytesOf(text) {
  const [, number, unit = 'B'] = /^(\d+)([KMG]iB)?$/.exec(text) ?? assert.fail(`not a size: ${text}`);
  return Number(number) * { B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 }[unit];
}

export const mib = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

/** Makes an MP4 of about `size` bytes: a few noisy seconds, encoded once and repeated until it is large enough. */
export async function makeVideo(folder, size) {
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
export async function play(file) {
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
