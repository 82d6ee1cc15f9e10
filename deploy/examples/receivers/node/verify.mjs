// Check the signature of a webhook (Standard Webhooks 1.0.0). Node 18 or newer, no packages.

import { createHmac, timingSafeEqual } from 'node:crypto'

const TOLERANCE_SECONDS = 300
const SHORTEST_KEY = 24
const SHAPES = {
  'webhook-id': /^[!-+/-~-]{1,256}$/,
  'webhook-timestamp': /^[0-9]{1,12}$/,
  'webhook-signature': /^[^ ,]+,[^ ,]+( [^ ,]+,[^ ,]+){0,9}$/,
}

export class InvalidWebhook extends Error {}

// The secrets of the environment, decoded; both while one is rotated, with a blank between.
export function keysFrom (text) {
  const secrets = (text ?? '').split(/\s+/).filter(Boolean).map((secret) => secret.replace(/^whsec_/, ''))
  const keys = secrets.map((secret) => Buffer.from(secret, 'base64'))
  // Node decodes anything, and leaves out what is none; an empty key, or half of one, would let anybody sign.
  const areWhole = secrets.every((secret) => /^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}(==)?|[A-Za-z0-9+/]{3}=?)?$/.test(secret))
  if (keys.length === 0 || !areWhole || keys.some((key) => key.length < SHORTEST_KEY)) {
    throw new Error('WEBHOOK_SECRETS must hold the endpoint\'s secret, whole, like whsec_…, in standard base64')
  }
  return keys
}

// Returns the event's id. `headers` have lower-case names, `body` is a Buffer with the raw bytes of the request.
export function verify (headers, body, keys, now = Date.now() / 1000) {
  for (const [name, shape] of Object.entries(SHAPES)) {
    if (!shape.test(headers[name] ?? '')) throw new InvalidWebhook(`${name} is missing or malformed`)
  }
  const id = headers['webhook-id']
  const timestamp = headers['webhook-timestamp']
  if (Math.abs(Math.floor(now) - Number(timestamp)) > TOLERANCE_SECONDS) {
    throw new InvalidWebhook('the timestamp is more than five minutes away from now')
  }
  const expected = keys.map((key) => createHmac('sha256', key).update(`${id}.${timestamp}.`).update(body).digest())
  for (const entry of headers['webhook-signature'].split(' ')) {
    const [version, signature] = entry.split(',')
    const offered = Buffer.from(signature, 'base64')
    if (version === 'v1' && expected.some((one) => one.length === offered.length && timingSafeEqual(one, offered))) {
      return id
    }
  }
  throw new InvalidWebhook('no signature matches')
}
