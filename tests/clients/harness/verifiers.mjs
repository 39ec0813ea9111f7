// Verifiers of webhooks: independent libraries, and node's own cryptography for ed25519, which those libraries do not
// support. A verifier is a function of the body as text and the headers; it returns the event or throws.

import { createPublicKey, verify } from 'node:crypto';
import { Webhook as StandardWebhook } from 'standardwebhooks';
import { Webhook as SvixWebhook } from 'svix';

/** By package: a function that makes a verifier for a secret, `whsec_…`. */
export const HMAC = {
  standardwebhooks: (secret) => (body, headers) => new StandardWebhook(secret).verify(body, headers),
  // The library returns nothing; it throws if the verification fails.
  svix: (secret) => (body, headers) => {
    new SvixWebhook(secret).verify(body, headers);
    return JSON.parse(body);
  },
};

/** The tolerance of the libraries. */
const TOLERANCE_S = 300;

/** Returns a verifier of `v1a` for a public key: `whpk_` and its 32 bytes in base64. */
export function ed25519(publicKey) {
  const raw = Buffer.from(publicKey.replace(/^whpk_/, ''), 'base64');
  if (!publicKey.startsWith('whpk_') || raw.length !== 32) throw new Error(`not a public key: ${publicKey}`);
  const key = createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x: raw.toString('base64url') }, format: 'jwk' });
  return (body, headers) => {
    const { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': signatures } = headers;
    if (!/^\d+$/.test(timestamp)) throw new Error(`not a timestamp: ${timestamp}`);
    if (Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE_S) throw new Error('too old, or too new');
    const signed = Buffer.from(`${id}.${timestamp}.${body}`);
    const fits = signatures.split(' ').some((signature) => {
      const [version, text] = signature.split(',');
      return version === 'v1a' && verify(null, signed, key, Buffer.from(text, 'base64'));
    });
    if (!fits) throw new Error('no signature fits');
    return JSON.parse(body);
  };
}

/**
 * Returns a verifier that accepts what one of several accepts, as a receiver does while its secret is being replaced.
 */
export function anyOf(verifiers) {
  return (body, headers) => {
    const errors = [];
    for (const one of verifiers) {
      try {
        return one(body, headers);
      } catch (error) {
        errors.push(error);
      }
    }
    throw new AggregateError(errors, errors.map(String).join('; '));
  };
}
