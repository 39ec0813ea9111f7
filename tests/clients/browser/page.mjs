// The page: Uppy with its tus plugin, and an EventSource on the upload that it created. The test reads `window.seen`.

import Uppy from '@uppy/core';
import Tus from '@uppy/tus';

const endpoint = new URLSearchParams(location.search).get('endpoint');

const seen = { url: undefined, sent: 0, done: undefined, failed: undefined, events: [] };
window.seen = seen;

const uppy = new Uppy({ autoProceed: true, onBeforeFileAdded: (file) => ({ ...file, meta: { ...file.meta, from: 'page' } }) });
window.uppy = uppy;
uppy.use(Tus, { endpoint, retryDelays: [100, 300, 500, 1000, 1000, 1000, 1000, 1000] });

uppy.on('upload-progress', (file, { bytesUploaded }) => {
  seen.sent = bytesUploaded;
  const url = file.tus?.uploadUrl;
  if (url && !seen.url) watch(url);
});
uppy.on('upload-success', (file, { uploadURL }) => {
  seen.done = uploadURL;
});
uppy.on('upload-error', (file, error) => {
  seen.failed = String(error);
});

document.querySelector('#file').addEventListener('change', ({ target }) => {
  for (const file of target.files) uppy.addFile({ name: file.name, type: file.type, data: file });
});

/** Follows the upload through the server's events, as an application's page would. */
function watch(url) {
  seen.url = url;
  const { origin, pathname } = new URL(url);
  const source = new EventSource(`${origin}/api/v1/uploads/${pathname.split('/').pop()}/events`);
  const note = ({ type, lastEventId, data }) => seen.events.push({ type, lastEventId, data: JSON.parse(data) });
  const steps = ['receiving', 'stalled', 'resumed', 'received', 'verified', 'stored', 'completed'];
  for (const type of ['snapshot', 'progress', ...steps.map((step) => `upload.${step}`)]) source.addEventListener(type, note);
  source.addEventListener('upload.completed', () => source.close());
}
