// The bucket under test: what is in it, asked directly, and the settings of a server that uses it.

import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const run = promisify(execFile);
const { TEST_S3_URL, TEST_S3_BUCKET, TEST_S3_KEY, TEST_S3_SECRET } = process.env;

if (!TEST_S3_URL) throw new Error('TEST_S3_URL is not set; see tests/services/seaweedfs.sh');

export const STORE = new URL(TEST_S3_URL);

let folders = 0;

/** A folder of its own in the bucket. */
export class Folder {
  prefix = `folder-${process.pid}-${(folders += 1)}`;

  /** Returns the sections of a configuration, for a store that is reached at `endpoint`. */
  config(endpoint = TEST_S3_URL, { storage, s3 } = {}) {
    return {
      storage: { kind: 's3', part_size: '5MiB', ...storage },
      s3: {
        bucket: TEST_S3_BUCKET,
        prefix: this.prefix,
        endpoint,
        path_style: true,
        access_key_id: TEST_S3_KEY,
        secret_access_key: TEST_S3_SECRET,
        ...s3,
      },
    };
  }

  /** Returns the objects: `[{key, size}]`. */
  async objects() {
    const xml = await ask(`list-type=2&prefix=${this.prefix}%2F`);
    return [...xml.matchAll(/<Contents>(.*?)<\/Contents>/gs)].map(([, object]) => ({
      key: /<Key>(.*?)<\/Key>/.exec(object)[1],
      size: Number(/<Size>(\d+)<\/Size>/.exec(object)[1]),
    }));
  }

  /** Returns the keys of unfinished multipart uploads. */
  async unfinished() {
    const xml = await ask(`prefix=${this.prefix}%2F&uploads=`);
    return [...xml.matchAll(/<Upload>(.*?)<\/Upload>/gs)].map(([, upload]) => /<Key>(.*?)<\/Key>/.exec(upload)[1]);
  }
}

async function ask(query) {
  const { stdout } = await run('curl', [
    '--silent', '--show-error', '--fail', '--aws-sigv4', 'aws:amz:us-east-1:s3',
    '--user', `${TEST_S3_KEY}:${TEST_S3_SECRET}`, `${TEST_S3_URL}/${TEST_S3_BUCKET}?${query}`,
  ]); // prettier-ignore
  return stdout;
}
