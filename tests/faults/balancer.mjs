// HAProxy and nginx in front of the server, configured for large uploads as an operator would do it.

import { spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { once } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { until } from '../clients/harness/until.mjs';

const PATH = `${process.env.PATH}:/usr/sbin`;

const PROGRAMS = {
  haproxy: {
    args: (file) => ['-db', '-f', file],
    config: (port, target) => `
global
    maxconn 200
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend front
    bind 127.0.0.1:${port}
    default_backend longshore
backend longshore
    server one 127.0.0.1:${target}
`,
  },
  nginx: {
    args: (file, folder) => ['-p', folder, '-c', file, '-e', join(folder, 'error.log')],
    config: (port, target, folder) => `
daemon off;
worker_processes 1;
pid ${folder}/nginx.pid;
events { worker_connections 200; }
http {
  access_log off;
  client_body_temp_path ${folder}/body;
  proxy_temp_path ${folder}/proxy;
  fastcgi_temp_path ${folder}/fastcgi;
  uwsgi_temp_path ${folder}/uwsgi;
  scgi_temp_path ${folder}/scgi;
  server {
    listen 127.0.0.1:${port};
    client_max_body_size 0;
    location / {
      proxy_pass http://127.0.0.1:${target};
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header Connection "";
      proxy_request_buffering off;
      proxy_buffering off;
    }
  }
}
`,
  },
};

async function freePort() {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address();
  probe.close();
  await once(probe, 'close');
  return port;
}

/** Starts the program in front of `server`; it ends with the test `t`. Returns its port. */
export async function startBalancer(name, server, t) {
  const { args, config } = PROGRAMS[name];
  const port = await freePort();
  const folder = join(server.folder, name);
  const file = join(folder, `${name}.conf`);
  await mkdir(folder, { recursive: true });
  await writeFile(file, config(port, server.port, folder));
  const child = spawn(name, args(file, folder), { env: { ...process.env, PATH }, stdio: ['ignore', 'inherit', 'pipe'] });
  let complaint = '';
  child.stderr.on('data', (chunk) => (complaint += chunk));
  const gone = once(child, 'close');
  t.after(async () => {
    child.kill('SIGTERM');
    await gone;
  });
  await until(`${name} to answer`, async () => {
    if (child.exitCode !== null) throw new Error(`${name} ended: ${complaint}`);
    return (await fetch(`http://127.0.0.1:${port}/healthz`)).ok;
  });
  return port;
}
