// Starts @tus/server with @tus/file-store, as their documentation shows. Arguments: PORT FOLDER [CERTIFICATE KEY]. With
// a certificate it serves HTTP/2 and HTTP/1.1 over TLS.
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { createSecureServer } from 'node:http2'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

// The packages are installed in another folder, so they are resolved there.
const require = createRequire(`${process.env.BENCH_NODE_PACKAGES}/package.json`)
const load = async (name) => import(pathToFileURL(require.resolve(name)))
const { Server } = await load('@tus/server')
const { FileStore } = await load('@tus/file-store')

const [port, directory, certificate, key] = process.argv.slice(2)
const tus = new Server({ path: '/files', relativeLocation: true, datastore: new FileStore({ directory }) })
const handle = (request, response) => tus.handle(request, response)
const server = certificate
  ? createSecureServer({ allowHTTP1: true, cert: readFileSync(certificate), key: readFileSync(key) }, handle)
  : createServer(handle)
// By default Node ends a request after five minutes. A trickling upload takes longer.
server.requestTimeout = 0
server.listen(Number(port), '127.0.0.1')
