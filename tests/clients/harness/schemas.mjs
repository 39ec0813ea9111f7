// Validates bodies against the schemas that are published, or that a server serves, with an independent validator
// (ajv).

import assert from 'node:assert/strict';
import { readFile, readdir } from 'node:fs/promises';
import Ajv2020 from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';

const PUBLISHED = new URL('../../../docs/events/', import.meta.url);
const ENDING = '.schema.json';

/** Schemas by type, with all schemas that they refer to. */
export class Schemas {
  #ajv = addFormats(new Ajv2020({ allErrors: true, strict: true, strictTypes: false, strictRequired: false }));
  #urls;

  /** Returns the schemas of docs/events. */
  static async published() {
    const names = (await readdir(PUBLISHED)).filter((name) => name.endsWith(ENDING) && name !== `event${ENDING}`);
    const urls = Object.fromEntries(names.map((name) => [name.slice(0, -ENDING.length), new URL(name, PUBLISHED).href]));
    return this.#gathered(urls, async (url) => JSON.parse(await readFile(new URL(url), 'utf8')));
  }

  /** Returns the schemas that a server serves. */
  static async of(server) {
    const list = `${server.url}/api/v1/webhooks/schemas`;
    const { schemas: listed } = await fetchJson(list);
    const urls = Object.entries(listed).map(([type, url]) => [type, new URL(url, list).href]);
    return this.#gathered(Object.fromEntries(urls), fetchJson);
  }

  static async #gathered(urls, load) {
    const schemas = new Schemas();
    schemas.#urls = urls;
    const waiting = Object.values(schemas.#urls);
    for (const seen = new Set(); waiting.length > 0; ) {
      const url = waiting.pop();
      if (seen.has(url)) continue;
      seen.add(url);
      const schema = await load(url);
      schemas.#ajv.addSchema(schema, url);
      waiting.push(...references(schema).map((reference) => new URL(reference, url).href));
    }
    return schemas;
  }

  get types() {
    return Object.keys(this.#urls);
  }

  /** Returns the errors of an event, by the schema of its type; nothing if it is valid. */
  errors(event) {
    const url = this.#urls[event.type];
    if (!url) return `there is no schema for ${event.type}`;
    const judge = this.#ajv.getSchema(url);
    return judge(event) ? undefined : this.#ajv.errorsText(judge.errors, { separator: '\n' });
  }

  check(event) {
    assert.equal(this.errors(event), undefined, JSON.stringify(event));
  }
}

async function fetchJson(url) {
  const response = await fetch(url);
  assert.equal(response.status, 200, `GET ${url}`);
  assert.match(response.headers.get('content-type'), /^application\/(schema\+)?json/);
  return response.json();
}

/** Returns every `$ref` to another schema, at any depth. */
function references(schema) {
  if (typeof schema !== 'object' || schema === null) return [];
  const own = typeof schema.$ref === 'string' && !schema.$ref.startsWith('#') ? [schema.$ref.split('#')[0]] : [];
  return [...own, ...Object.values(schema).flatMap(references)];
}
