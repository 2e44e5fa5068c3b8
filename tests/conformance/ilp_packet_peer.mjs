// npm's ilp-packet behind stdin and stdout: one JSON request a line, one JSON answer a line.
//
//   {"decode": hex}            -> {"type", ...fields} or {"error": text}
//   {"encode": {type, fields}} -> {"hex"}
//
// Bytes are hex, amounts decimal strings, moments milliseconds since the epoch.

import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'

const require = createRequire(new URL('../npm/package.json', import.meta.url))
const ilp = require('ilp-packet')

const BYTES = ['executionCondition', 'fulfillment', 'data']

function decode (hex) {
  const raw = Buffer.from(hex, 'hex')
  // A node knows which of the two it waits for; the reply reader takes what is no Fulfill for a Reject.
  const value = raw[0] === ilp.Type.TYPE_ILP_PREPARE
    ? ilp.deserializeIlpPrepare(raw)
    : ilp.deserializeIlpReply(raw)
  for (const field of BYTES) if (field in value) value[field] = value[field].toString('hex')
  if (value.expiresAt) value.expiresAt = value.expiresAt.valueOf()
  return { type: raw[0], ...value }
}

function encode ({ type, ...value }) {
  for (const field of BYTES) if (field in value) value[field] = Buffer.from(value[field], 'hex')
  if ('expiresAt' in value) value.expiresAt = new Date(value.expiresAt)
  return { hex: ilp.serializeIlpPacket({ type, data: value }).toString('hex') }
}

function answer (request) {
  try {
    return request.decode === undefined ? encode(request.encode) : decode(request.decode)
  } catch (error) {
    return { error: String(error.message) }
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(JSON.stringify(answer(JSON.parse(line))) + '\n')
}
