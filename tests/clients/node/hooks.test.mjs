// tus-js-client and an application with hooks before uploads are created, finished and deleted: a rejection is a
// failure, and while the application is unavailable the client retries on its own. The server's content policy rejects
// in the same way.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { assertStored, idOf, list, status } from '../harness/api.mjs';
import { digestOf, noise } from '../harness/bytes.mjs';
import { Receiver } from '../harness/receiver.mjs';
import { Server } from '../harness/server.mjs';
import { startUpload, uploadAll } from './client.mjs';

const bytes = noise(700_001);
const source = digestOf(bytes);

/** Begins like an MP3 file, and contains no duration. */
const song = Buffer.concat([Buffer.from('ID3\x04\0\0\0\0\0\0', 'latin1'), bytes]);

/** Returns an answer of the application in JSON. */
function saying(answer) {
  return (_entry, _request, response) => {
    response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(answer));
  };
}

const refusing = (message) => saying({ reject: { status: 422, message } });

/** Starts an application, and a server that calls its hooks. `hooks` are further settings. */
async function start(t, name, hooks, more = {}) {
  const application = await Receiver.start({ t });
  const urls = Object.fromEntries(hooks.map((hook) => [hook, application.url]));
  const server = await Server.start({ name, t, config: { hooks: { secret: application.secret, ...urls }, ...more } });
  return { application, server };
}

for (const protocol of ['tus-v1', 'ietf-draft-03', 'ietf-draft-05']) {
  describe(`tus-js-client with ${protocol} and an application that is asked`, () => {
    /** Uploads, and records requests and responses. */
    function upload(server, options = {}, file = bytes) {
      const answers = [];
      const done = uploadAll(file, {
        protocol,
        endpoint: server.endpoint,
        onAfterResponse: (request, response) => answers.push(`${request.getMethod()} ${response.getStatus()}`),
        ...options,
      });
      return { answers, done };
    }

    for (const uploadDataDuringCreation of [false, true]) {
      const how = uploadDataDuringCreation ? 'sent with the creation' : 'sent after the creation';

      test(`takes a no before the creation for a failure, ${how}`, async (t) => {
        const { application, server } = await start(t, 'refused-creation', ['pre_create']);
        application.behave(refusing('your plan is full'));
        const { answers, done } = upload(server, { uploadDataDuringCreation });
        await assert.rejects(done, /your plan is full/);
        assert.deepEqual(answers, ['POST 422'], 'and does not try again');
        assert.deepEqual(await list(server), []);
      });

      test(`takes a no before completion for a failure, ${how}`, async (t) => {
        const { application, server } = await start(t, 'refused-finish', ['pre_finish']);
        application.behave(refusing('not a video'));
        const { answers, done } = upload(server, { uploadDataDuringCreation });
        await assert.rejects(done, /not a video/);
        assert.equal(answers.at(-1), uploadDataDuringCreation ? 'POST 422' : 'PATCH 422');
        const [told, ...others] = await list(server);
        assert.deepEqual([told.stage, told.error.code, others], ['failed', 'rejected-by-application', []]);
      });

      test(`takes a no for what it is for a failure, ${how}`, async (t) => {
        for (const [media, file, answer, code] of [
          [{ allowed_types: ['video/*'] }, bytes, 415, 'type-not-allowed'],
          [{ max_durations: ['audio/*=1m'], require_duration: true }, song, 422, 'duration-unknown'],
        ]) {
          const server = await Server.start({ name: code, t, config: { media } });
          const { answers, done } = upload(server, { uploadDataDuringCreation }, file);
          await assert.rejects(done, new RegExp(code));
          assert.equal(answers.at(-1), `${uploadDataDuringCreation ? 'POST' : 'PATCH'} ${answer}`);
          const [told, ...others] = await list(server);
          assert.deepEqual([told.stage, told.error.code, others], ['failed', code, []]);
        }
      });
    }

    test('waits by itself until the application can be asked before the creation', async (t) => {
      const { application, server } = await start(t, 'outage-creation', ['pre_create']);
      application.behave(() => (application.requests.length < 4 ? 500 : 204));
      const { answers, done } = upload(server);
      await assertStored(server, await done, source);
      assert.deepEqual(answers.slice(0, 4), ['POST 503', 'POST 503', 'POST 503', 'POST 201']);
    });

    // With its default delays, against a server with its defaults.
    test('waits by itself until the application can be asked before completion', async (t) => {
      const { application, server } = await start(t, 'outage-finish', ['pre_finish']);
      application.behave(() => (application.requests.length < 2 ? 500 : 204));
      const { answers, done } = upload(server, { retryDelays: [0, 1000, 3000, 5000] });
      await assertStored(server, await done, source);
      assert.ok(answers.includes('PATCH 503'), `${answers}`);
      assert.equal((await list(server)).length, 1, `nothing was sent twice: ${answers}`);
    });

    test('is not told of success when the late answer is no', async (t) => {
      const { application, server } = await start(t, 'late-refusal', ['pre_finish']);
      application.behave((...question) => (application.requests.length < 2 ? 500 : refusing('not a video')(...question)));
      const { answers, done } = upload(server);
      await assert.rejects(done, /not a video/);
      assert.ok(answers.includes('PATCH 503'), `${answers}`);
      for (const told of await list(server)) assert.equal(told.stage, 'failed', `${answers}`);
    });
  });
}

// Longer than HEAD waits. In the IETF drafts only 5xx marks a temporary failure, and after that this client starts
// over; so this test is for tus alone.
test('tus-js-client waits by itself through a longer outage', async (t) => {
  const limits = { takeover_timeout: '100ms', sweep_every: '300ms' };
  const { application, server } = await start(t, 'long-outage', ['pre_finish'], { limits });
  application.behave(() => (application.requests.length < 4 ? 500 : 204));
  const answers = [];
  const url = await uploadAll(bytes, {
    endpoint: server.endpoint,
    onAfterResponse: (request, response) => answers.push(`${request.getMethod()} ${response.getStatus()}`),
  });
  await assertStored(server, url, source);
  assert.ok(answers.includes('HEAD 423'), `${answers}`);
  assert.equal((await list(server)).length, 1, 'nothing was sent twice');
});

describe('tus-js-client that is not let go of an upload', () => {
  const kept = /it is still needed/;

  async function keeping(t) {
    const { application, server } = await start(t, 'kept', ['pre_terminate']);
    application.behave(refusing('it is still needed'));
    return { application, server };
  }

  test('is told so, and may delete it when the application has changed its mind', async (t) => {
    const { application, server } = await keeping(t);
    const { upload, done } = startUpload(bytes, { endpoint: server.endpoint });
    const url = await done;
    await assert.rejects(upload.abort(true), kept);
    await assertStored(server, url, source);
    assert.deepEqual(application.requests.map(({ type }) => type), ['hook.pre_terminate'], 'it does not try again');
    application.behave(204);
    await upload.abort(true);
    assert.equal((await status(server, idOf(url))).stage, 'terminated');
  });

  test('goes on with one that is unfinished', async (t) => {
    const { server } = await keeping(t);
    let upload;
    const aborted = new Promise((stopped) => {
      // The upload is aborted after its first part.
      const onChunkComplete = () => stopped(upload.abort(true).then(() => 'deleted', (error) => error));
      const begun = startUpload(bytes, { endpoint: server.endpoint, chunkSize: 300_000, onChunkComplete });
      upload = begun.upload;
      begun.done.then(undefined, stopped);
    });
    assert.match(String(await aborted), kept);
    const { stage, offset } = await status(server, idOf(upload.url));
    assert.deepEqual([stage, offset > 0], ['receiving', true]);
    const url = await uploadAll(bytes, { uploadUrl: upload.url });
    assert.equal(url, upload.url);
    await assertStored(server, url, source);
  });
});
