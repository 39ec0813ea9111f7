// One upload by tus-js-client in a separate process, which a test can kill and start again.
//     node upload.mjs '{"endpoint": "http://…/files", "file": "…", "storage": "…", "options": {…}}'
//
// With "storage", a file, the upload's URL is stored there, and an upload found in it is resumed. Progress is printed
// to standard output, one JSON object per line: {event: "url" | "answer" | "retry" | "success" | "error", …}.

import { createReadStream } from 'node:fs';
import { FileUrlStorage, Upload } from 'tus-js-client';

const { endpoint, file, storage, options = {} } = JSON.parse(process.argv[2]);
const tell = (event, details) => console.log(JSON.stringify({ event, at: Date.now(), ...details }));

const upload = new Upload(createReadStream(file), {
  endpoint,
  retryDelays: Array(200).fill(150),
  ...(storage && { urlStorage: new FileUrlStorage(storage) }),
  ...options,
  onUploadUrlAvailable: () => tell('url', { url: upload.url }),
  onAfterResponse: (request, response) =>
    tell('answer', {
      method: request.getMethod(),
      status: response.getStatus(),
      offset: Number(response.getHeader('upload-offset') ?? -1),
    }),
  onShouldRetry: (error) => {
    const status = error.originalResponse?.getStatus() ?? 0;
    const again = status < 400 || status >= 500 || status === 409 || status === 423;
    tell('retry', { again, message: error.message });
    return again;
  },
  onSuccess: () => tell('success', { url: upload.url }),
  onError: (error) => {
    tell('error', { message: error.message });
    process.exitCode = 1;
  },
});

const [previous] = storage ? await upload.findPreviousUploads() : [];
if (previous) upload.resumeFromPreviousUpload(previous);
upload.start();
