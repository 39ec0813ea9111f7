// Every configuration printed in docs/proxies.md, run as printed except for addresses: it carries uploads, its health
// checks pass, and it exposes nothing that is closed. A block without a test fails.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { noise } from '../clients/harness/bytes.mjs';
import { Server, scratchFolder } from '../clients/harness/server.mjs';
import { until } from '../clients/harness/until.mjs';

const page = await readFile(new URL('../../docs/proxies.md', import.meta.url), 'utf8');
const blocks = [...page.matchAll(/^```([\w-]+)\n(.*?)^```$/gms)]
  .map(([, language, text]) => ({ language, text }))
  // That one needs nodes: tests/cluster/balancer.test.mjs.
  .filter(({ language }) => language !== 'haproxy-cluster');
const HOST = 'uploads.example.com';
const TOKEN = 'correct-horse-battery-staple';
const PATH = `${process.env.PATH}:/usr/sbin`;
const ENDPOINT = JSON.stringify({ id: 'spy', url: 'https://attacker.example/', events: ['*'] });

// The configuration around a printed block, and the command that runs it. `marks` is set when requests show the proxy.
const nginx = (inner, folder, modules = '') => `
${modules}
daemon off;
master_process off;
pid ${folder}/nginx.pid;
events { worker_connections 200; }
${inner}
`;
const nginxArguments = (file, folder) => ['-p', folder, '-c', file, '-e', join(folder, 'error.log')];
const temporary = (folder) =>
  ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${folder}/${name};`).join('\n');
const changed = (text, place, by) => {
  assert.match(text, place);
  return text.replace(place, () => by);
};
const printed = (language) => blocks.find((block) => block.language === language).text;
const RECIPES = {
  haproxy: { program: 'haproxy', marks: true, checks: true, whole: (text) => text.replace(' check\n', ' check inter 100ms\n'), call: (file) => ['-db', '-f', file] },
  nginx: {
    program: 'nginx',
    marks: true,
    whole: (text, folder) =>
      nginx(`http {\naccess_log off;\n${temporary(folder)}\nserver {\nlisten 127.0.0.1:8081;\n${text}\n}\n}`, folder),
    call: nginxArguments,
  },
  'nginx-stream': {
    program: 'nginx',
    marks: false,
    whole: (text, folder) =>
      nginx(`stream {\n${text}\n}`, folder, 'load_module /usr/lib/nginx/modules/ngx_stream_module.so;'),
    call: nginxArguments,
  },
  'nginx-locations': {
    program: 'nginx',
    narrow: true,
    whole: (text, folder) => RECIPES.nginx.whole(changed(printed('nginx'), /^location \/ \{.*?^\}\n/ms, text), folder),
    call: nginxArguments,
  },
  'haproxy-rules': {
    program: 'haproxy',
    narrow: true,
    whole: (text) => RECIPES.haproxy.whole(changed(printed('haproxy'), /^(?= *default_backend)/m, text)),
    call: (file) => ['-db', '-f', file],
  },
  caddyfile: { program: 'caddy', marks: true, whole: (text) => `{\nadmin off\n}\n${text}`, call: (file) => ['run', '--adapter', 'caddyfile', '--config', file] },
};

/** Sends a request with exactly these headers and reads the whole response. */
async function read(port, method, path, headers, body = '') {
  const sent = request({ host: '127.0.0.1', port, method, path, headers: { ...headers, 'Content-Length': body.length }, agent: false });
  sent.end(body);
  const [answer] = await once(sent, 'response');
  const pieces = await answer.toArray();
  return { status: answer.statusCode, headers: answer.headers, body: Buffer.concat(pieces) };
}

/** Makes a folder that is removed with the test. */
async function folderOf(name, t) {
  const folder = await scratchFolder(name);
  t.after(() => rm(folder, { recursive: true }));
  return folder;
}

/** Starts a recipe in front of a server; returns its port. */
async function startProxy({ language, text }, server, t) {
  const { program, whole, call, narrow } = RECIPES[language];
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address();
  probe.close();
  await once(probe, 'close');
  const folder = await folderOf(program, t);
  const file = join(folder, 'proxy.conf');
  const addressed = whole(text, folder).replaceAll(/:8081\b/g, `:${port}`).replaceAll(/:8080\b/g, `:${server.port}`);
  assert.ok(addressed.includes(`:${port}`) && addressed.includes(`:${server.port}`), `${language} names both addresses`);
  await mkdir(join(folder, 'home'));
  await writeFile(file, addressed);
  const env = { ...process.env, PATH, HOME: join(folder, 'home'), XDG_DATA_HOME: folder, XDG_CONFIG_HOME: folder };
  const child = spawn(program, call(file, folder), { env, stdio: ['ignore', 'ignore', 'pipe'] });
  let complaint = '';
  child.stderr.on('data', (chunk) => (complaint += chunk));
  const failed = once(child, 'error').then(([error]) => (complaint += error));
  const gone = Promise.race([once(child, 'close'), failed]);
  t.after(async () => {
    child.kill('SIGTERM');
    await gone;
  });
  await until(`${program} to answer`, async () => {
    if (child.exitCode !== null || child.pid === undefined) throw new Error(`${program} ended: ${complaint}`);
    const ready = narrow ? { path: '/files', status: 401 } : { path: '/healthz', status: 200 };
    return read(port, 'GET', ready.path, { Host: HOST }).then(({ status }) => status === ready.status, () => false);
  });
  return port;
}

/** Starts the server with the settings that the page requires. */
async function asOnThePage(t) {
  const folder = await folderOf('token', t);
  await writeFile(join(folder, 'token'), TOKEN);
  const { text } = blocks.find(({ language }) => language === 'toml');
  assert.ok(text.includes(HOST) && text.includes('token_file'), 'the page says what Longshore has to know');
  const publicUrl = /public_url = "(.*)"/.exec(text)[1];
  const config = { public_url: publicUrl, auth: { token_file: join(folder, 'token') } };
  return Server.start({ name: 'behind-a-proxy', config: { ...config, log: { level: 'debug' } }, t });
}

describe('docs/proxies.md', () => {
  test('prints nothing that is not run here', () => {
    const languages = blocks.map(({ language }) => language).filter((language) => language !== 'toml');
    assert.deepEqual([...new Set(languages)].sort(), Object.keys(RECIPES).sort());
  });

  for (const block of blocks.filter(({ language }) => RECIPES[language]?.narrow)) {
    test(`${block.language}: publishes uploads and their status, and nothing else`, async (t) => {
      const server = await asOnThePage(t);
      const port = await startProxy(block, server, t);
      const bearer = { Host: HOST, Authorization: `Bearer ${TOKEN}` };
      const created = await read(port, 'POST', '/files', { ...bearer, 'Tus-Resumable': '1.0.0', 'Upload-Length': 0 });
      assert.equal(created.status, 201);
      const { pathname } = new URL(created.headers.location);
      const id = pathname.split('/').pop();
      for (const path of [pathname, `/api/v1/uploads/${id}`]) {
        assert.equal((await read(port, 'GET', path, bearer)).status, 200, path);
      }
      const session = await read(port, 'POST', '/upload/storage/v1/b/films/o?uploadType=resumable&name=a', bearer);
      assert.equal(session.status, 200);
      const lists = ['/api/v1/uploads', '/api/v1/uploads/', '/api/v1/uploads//', '//api/v1/uploads', '/api/v1/%75ploads', '/api/v1/uploads/?limit=1'];
      const escapes = ['/files/../metrics', '/files/%2e%2e/metrics', `/api/v1/uploads/${id}/..`, `/api/v1/uploads/${id}/%2e%2e/`];
      const others = ['/', '/metrics', '/healthz', '/readyz', '/api/v1/events', '/api/v1/webhooks/endpoints'];
      for (const path of [...lists, ...escapes, ...others]) {
        const { status } = await read(port, 'GET', path, bearer);
        assert.ok(status === 404 || status === 301, `${path}: ${status}`);
      }
    });
  }

  for (const block of blocks.filter(({ language }) => language in RECIPES && !RECIPES[language].narrow)) {
    const { marks, checks } = RECIPES[block.language];

    test(`${block.language}: carries an upload and keeps the administration closed`, async (t) => {
      const server = await asOnThePage(t);
      const port = await startProxy(block, server, t);
      const bearer = { Host: HOST, Authorization: `Bearer ${TOKEN}` };
      const bytes = noise(3 << 20, 5);
      const tus = { ...bearer, 'Tus-Resumable': '1.0.0' };
      const created = await read(port, 'POST', '/files', { ...tus, 'Upload-Length': bytes.length });
      assert.equal(created.status, 201);
      const location = new URL(created.headers.location);
      assert.equal(location.host, HOST, 'links name the public address');
      const octets = { 'Content-Type': 'application/offset+octet-stream', 'Upload-Offset': 0 };
      const sent = await read(port, 'PATCH', location.pathname, { ...tus, ...octets }, bytes);
      assert.deepEqual([sent.status, sent.headers['upload-offset']], [204, String(bytes.length)]);
      const given = await read(port, 'GET', location.pathname, bearer);
      assert.ok(given.status === 200 && given.body.equals(bytes), 'the bytes come back');
      for (const path of ['/healthz', '/readyz']) assert.equal((await read(port, 'GET', path, { Host: HOST })).status, 200);
      assert.equal((await read(port, 'GET', '/api/v1/uploads', { Host: HOST })).status, 401);
      for (const Host of [HOST, 'localhost', '127.0.0.1:8080']) {
        const refused = await read(port, 'POST', '/api/v1/webhooks/endpoints', { ...bearer, Host }, ENDPOINT);
        assert.equal(refused.status, 403, `${Host}: the token does not open the administration`);
      }
      if (checks) {
        const asked = async () => (await readFile(server.logFile, 'utf8')).split('\n').filter((line) => line.includes('/readyz'));
        const checked = await until('health checks', async () => (await asked()).length > 5 && asked());
        assert.ok(checked.every((line) => line.includes('200')), checked.join('\n'));
        assert.equal((await read(port, 'GET', '/api/v1/uploads', bearer)).status, 200, 'and the server counts as up');
      }
    });

    test(`${block.language}: a server that was told nothing gives nothing away`, async (t) => {
      const server = await Server.start({ name: 'told-nothing', t });
      const port = await startProxy(block, server, t);
      for (const [method, path] of [['GET', '/api/v1/uploads'], ['POST', '/files'], ['POST', '/api/v1/webhooks/endpoints']]) {
        const refused = await read(port, method, path, { Host: HOST }, method === 'POST' ? ENDPOINT : '');
        assert.equal(refused.status, 421, `${method} ${path} under a host it does not know`);
      }
      assert.equal((await read(port, 'GET', '/healthz', { Host: HOST })).status, 200);
      assert.match(await readFile(server.logFile, 'utf8'), /WARN.*auth\.hosts/);
      // Without a mark, only public_url shows that there is a proxy; the test above covers that.
      if (!marks) return;
      for (const Host of ['localhost', '127.0.0.1', '[::1]', 'localhost:80@evil.example']) {
        for (const [method, path] of [['POST', 'endpoints'], ['POST', 'pause'], ['GET', 'deliveries']]) {
          const body = method === 'POST' ? ENDPOINT : '';
          const refused = await read(port, method, `/api/v1/webhooks/${path}`, { Host }, body);
          assert.ok([400, 403, 421].includes(refused.status), `${Host} ${path}: ${refused.status}`);
        }
      }
      const endpoints = await (await fetch(`${server.url}/api/v1/webhooks/endpoints`)).json();
      assert.deepEqual(endpoints, { endpoints: [] }, 'no endpoint was made');
    });
  }
});
