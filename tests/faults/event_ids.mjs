// Ids of events as the server seals them (crates/keyring/src/cursor.rs), made with its own key. Clients cannot make
// them.

import { createHmac } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

const hmac = (key, text) => createHmac('sha256', key).update(text).digest();

/** Returns the id of the event of an upload with this sequence, in the stream of that upload. */
export async function eventId(dataFolder, uploadId, sequence) {
  const lines = (await readFile(join(dataFolder, 'longshore.key'), 'utf8')).split('\n');
  const [, key] = lines.find((line) => line && !line.startsWith('#')).split(':');
  const derived = (use) => hmac(Buffer.from(key, 'base64'), `longshore event cursors v1, ${use}`);
  const tenant = Buffer.alloc(4);
  const place = Buffer.alloc(8);
  place.writeBigUInt64BE(BigInt(sequence));
  const upload = Buffer.from(uploadId.replaceAll('-', ''), 'hex');
  const code = hmac(derived('code'), Buffer.concat([Buffer.of(1), upload, tenant, place])).subarray(0, 10);
  const mask = hmac(derived('mask'), code);
  return Buffer.concat([code, place.map((byte, at) => byte ^ mask[at])]).toString('base64url');
}
