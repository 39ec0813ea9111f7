// Rules for all events of one upload together.

import assert from 'node:assert/strict';

const ENDINGS = ['upload.completed', 'upload.failed', 'upload.expired', 'upload.terminated'];
const ONCE = ['upload.created', 'upload.receiving', 'upload.received', 'upload.verified', 'upload.stored', ...ENDINGS];

/** The events that each event may directly follow, progress excluded. */
const AFTER = {
  'upload.created': [],
  'upload.receiving': ['upload.created'],
  'upload.stalled': ['upload.receiving', 'upload.resumed'],
  'upload.resumed': ['upload.stalled'],
  'upload.received': ['upload.created', 'upload.receiving', 'upload.resumed'],
  'upload.verified': ['upload.received'],
  'upload.stored': ['upload.verified'],
  'upload.completed': ['upload.stored'],
  'upload.failed': ['upload.created'], // A concatenation that was interrupted; nothing else fails here.
  'upload.expired': ['upload.created', 'upload.receiving', 'upload.stalled', 'upload.resumed', 'upload.received'],
  'upload.terminated': Object.freeze([...ONCE.slice(0, 5), 'upload.stalled', 'upload.resumed', 'upload.completed']),
};

/** Asserts the rules. `log` is every delivery of one upload to an endpoint that receives every event, by sequence. */
export function assertStory(upload, log) {
  const types = log.map(({ type }) => type);
  const say = `${upload.id} (${upload.stage}): ${types.join(' ')}`;
  assert.deepEqual(log.map(({ sequence }) => sequence), log.map((_, i) => i + 1), `a gap in the events of ${say}`);
  for (const type of ONCE) {
    assert.ok(types.filter((other) => other === type).length <= 1, `${type} twice: ${say}`);
  }
  const steps = types.filter((type) => type !== 'upload.progress');
  for (const [i, type] of steps.entries()) {
    const before = i === 0 ? undefined : steps[i - 1];
    assert.ok(i === 0 ? type === 'upload.created' : AFTER[type].includes(before), `${type} after ${before}: ${say}`);
  }
  assert.equal(types.at(-1), `upload.${upload.stage}`, `the last event is the end: ${say}`);
}

/**
 * Asserts that every delivery in `log` is among the receiver's `arrivals`, unless a later event superseded it, and that
 * first arrivals are in order of sequence. An event may arrive before an earlier one only if the earlier one had its
 * first attempt before and was not accepted then. Returns how often that happened. With `mayLackAttempts`, the server may
 * have lost records of attempts, and all events must arrive in order. With `clocks` 'several', attempts have the times of
 * different nodes: where both first attempts were accepted, the order of arrival has shown which began first; others are
 * compared. With 'unreliable', the clocks were set meanwhile, and those are not compared.
 */
export function assertEventsArrived(log, arrivals, uploadId, { mayLackAttempts = false, clocks = 'one' } = {}) {
  const arrived = new Map(arrivals.map((arrival, place) => [arrival.id, place]));
  const due = log.filter(({ state }) => state !== 'superseded').sort((a, b) => a.sequence - b.sequence);
  let overtaken = 0;
  for (const [i, delivery] of due.entries()) {
    const what = `${delivery.type} (sequence ${delivery.sequence}) of ${uploadId}`;
    assert.equal(delivery.state, 'succeeded', `${what} is ${delivery.state}`);
    const place = arrived.get(delivery.event_id);
    assert.ok(place !== undefined, `${what} is told to be delivered and never arrived`);
    const next = due[i + 1];
    if (next && arrived.get(next.event_id) < place) {
      assert.ok(!mayLackAttempts && delivery.attempts.length > 1, `${next.type} overtook ${what}, which was delivered at the first attempt`);
      overtaken += 1;
    }
    if (next && !mayLackAttempts && clocks !== 'unreliable') {
      const [{ started_at: first, status }, { started_at: second, status: nextStatus }] = [delivery.attempts[0], next.attempts[0]];
      const isShown = clocks === 'several' && [status, nextStatus].every((each) => each >= 200 && each <= 299);
      assert.ok(isShown || first <= second, `${next.type} was first tried at ${second}, before ${what} at ${first}`);
    }
  }
  return overtaken;
}
