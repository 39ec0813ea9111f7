// The metrics of a node, as an operator's monitoring reads them.

import assert from 'node:assert/strict';

/** Returns the value of a metric; `name` includes the labels. */
export async function metric(node, name) {
  const response = await fetch(`${node.url}/metrics`, { headers: node.headers });
  const line = (await response.text()).split('\n').find((each) => each.startsWith(`${name} `));
  assert.ok(line, `${node.name} has no metric ${name}`);
  return Number(line.slice(name.length));
}
