// A video by tus-js-client and files by tuspy and curl through HAProxy, over a slow line, while nodes are killed, frozen
// and restarted in turn. CLUSTER_INPUT_SIZE (24MiB) is the size of the video; 2GiB works.

import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { assertStored, idOf } from '../clients/harness/api.mjs';
import { digestOf, digestOfFile, noise } from '../clients/harness/bytes.mjs';
import { sleep } from '../clients/harness/until.mjs';
import { bytesOf, makeVideo, mib } from '../faults/video.mjs';
import { Watch } from '../faults/watch.mjs';
import { Balancer } from './balancer.mjs';
import { Cluster } from './cluster.mjs';
import { Follower } from './follower.mjs';
import { judge } from './judge.mjs';
import { curl, tusJsClient, tuspy } from './public_clients.mjs';

const SIZE = bytesOf(process.env.CLUSTER_INPUT_SIZE ?? '24MiB');
/** The time that the line takes for the video, without interruptions. */
const SECONDS = 20 + SIZE / 2 ** 25;
const LIMIT = { timeout: (SECONDS * 4 + 120) * 1000 };

/** What happens to the nodes, in turn. */
const MISHAPS = [
  ['killed', async (node) => node.kill().then(() => node.restart())],
  ['frozen', async (node) => {
    node.signal('SIGSTOP');
    await sleep(8_000);
    node.signal('SIGCONT');
  }],
  ['stopped', async (node) => node.stop().then(() => node.restart())],
]; // prettier-ignore

test('F0: tus-js-client, tuspy and curl resume over everything', async (t) => {
  const cluster = await Cluster.start({ t, name: 'clients' });
  const { folder, nodes } = cluster;
  cluster.follower = await Follower.start(nodes);
  t.after(() => cluster.follower.stop());
  const balancer = (cluster.balancer = await Balancer.start(cluster));
  balancer.headers = nodes[0].headers;
  const video = await makeVideo(folder, SIZE);
  const source = await digestOfFile(video);
  const bytes = noise(6_000_001, 7);
  const files = { tuspy: join(folder, 'tuspy.bin'), curl: join(folder, 'curl.bin') };
  for (const file of Object.values(files)) await writeFile(file, bytes);
  await balancer.machine.limitRate((source.size + 2 * bytes.length) / SECONDS);

  const js = tusJsClient(balancer.endpoint, video, LIMIT);
  const others = [tuspy(balancer.endpoint, files.tuspy, LIMIT), curl(balancer, files.curl, LIMIT)];
  for (const other of others) other.catch(() => {}); // Awaited below.
  const id = idOf(await js.process.urlKnown());
  const watch = new Watch(balancer, id);
  for (const [i, [what, happens]] of MISHAPS.entries()) {
    await watch.reaches((source.size * (i + 1)) / (MISHAPS.length + 2), LIMIT);
    t.diagnostic(`${nodes[i].name} is ${what} at ${mib(watch.offset)}`);
    await happens(nodes[i]);
  }
  await js.done;
  const urls = await Promise.all(others);
  await watch.stop();

  assert.deepEqual(watch.backwards, [], 'the offset went backwards');
  for (const url of urls) await assertStored(nodes[0], url, digestOf(bytes));
  assert.equal(js.process.all('answer').filter(({ method }) => method === 'POST').length, 1, 'one upload, never begun anew');
  const known = new Map(urls.map((url) => [idOf(url), { wanted: 'completed', bytes }]));
  known.set(id, { wanted: 'completed', source });
  await judge({ ...cluster, crowd: { known } });
  t.diagnostic(`${mib(source.size)} of video; the status was answered ${watch.answers} times, ${watch.unanswered} times not`);
  t.diagnostic(`${cluster.receiver.accepted().length} webhooks, ${cluster.follower.seen.length} events followed`);
});
