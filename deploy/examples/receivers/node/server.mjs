// Receive webhooks with Node's own HTTP server, without packages.
//
//   WEBHOOK_SECRETS='whsec_new whsec_old' PORT=9000 node server.mjs
//   node server.mjs --verify schemas/vectors/cases.psv

import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { InvalidWebhook, keysFrom, verify } from './verify.mjs'

const LARGEST_BODY = 1_048_576

async function rawBody (request) {
  const chunks = []
  let size = 0
  for await (const chunk of request) {
    size += chunk.length
    if (size > LARGEST_BODY) return null
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

// Ids of finished events. Yours belong into a table with a unique key, shared by all your processes, for 30 days.
const seen = new Set()
const underway = new Set()

// Does the work unless it is done, and returns what to answer.
async function workOnce (id, body) {
  if (seen.has(id)) {
    console.log('duplicate', id)
    return 204
  }
  // The first delivery may still fail: this one comes again.
  if (underway.has(id)) return 409
  underway.add(id)
  try {
    await work(id, body)
  } finally {
    underway.delete(id)
  }
  seen.add(id)
  if (seen.size > 10_000) seen.delete(seen.values().next().value)
  return 204
}

// Put the event into a queue and do the rest later: the sender waits five seconds.
async function work (id, body) {
  console.log('received', id, JSON.parse(body).type)
}

async function answer (request, response, keys) {
  if (request.method !== 'POST') return response.writeHead(405).end()
  const body = await rawBody(request)
  if (body === null) return response.writeHead(413, { connection: 'close' }).end()
  try {
    const id = verify(request.headers, body, keys)
    response.writeHead(await workOnce(id, body)).end()
  } catch (fault) {
    // What fails here is delivered again later.
    const status = fault instanceof InvalidWebhook ? 400 : 500
    if (status === 500) console.error(fault)
    response.writeHead(status).end(status === 400 ? fault.message : '')
  }
}

function check (file) {
  for (const line of readFileSync(file, 'utf8').trimEnd().split('\n')) {
    const [, name, now, secrets, id, timestamp, signature, body] = line.split('|')
    const headers = { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': signature }
    let verdict = 'accept'
    try {
      verify(headers, Buffer.from(body, 'base64'), keysFrom(secrets), Number(now))
    } catch (fault) {
      if (!(fault instanceof InvalidWebhook)) throw fault
      verdict = 'refuse'
    }
    console.log(`${verdict}|${name}`)
  }
}

if (process.argv[2] === '--verify') {
  check(process.argv[3])
} else {
  const keys = keysFrom(process.env.WEBHOOK_SECRETS || process.env.WEBHOOK_SECRET)
  const server = createServer((request, response) => {
    answer(request, response, keys).catch(() => response.destroy())
  })
  server.listen(Number(process.env.PORT ?? 9000), '127.0.0.1', () => {
    console.log(`receiving on http://127.0.0.1:${server.address().port}/`)
  })
}
