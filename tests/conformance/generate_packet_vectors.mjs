// Writes packet_vectors.json: packets, values and refusals as the npm codecs see them.
//
//   npm ci --prefix tests/npm && node tests/conformance/generate_packet_vectors.mjs
//
// The same versions write the same file: what looks random comes from SHA-256 of a counter.
// Long data is one byte repeated, and packets beyond 600 bytes are kept as their SHA-256.

import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const peers = new URL('../npm/', import.meta.url)
const require = createRequire(new URL('package.json', peers))
const ilp = require('ilp-packet')
const ildcp = require('ilp-protocol-ildcp')
const { Reader, Writer } = require('oer-utils')

const HEX_BYTES_MAX = 600
const SIZES = [0, 1, 63, 64, 65, 66, 127, 128, 129, 190, 191, 192, 193, 255, 256, 257, 1000, 32767]

let drawn = 0
const random32 = () => createHash('sha256').update(`jirani ${drawn++}`).digest()
const packetForm = (packet) => packet.length <= HEX_BYTES_MAX
  ? { hex: packet.toString('hex') }
  : { sha256: createHash('sha256').update(packet).digest('hex'), bytes: packet.length }
const filled = (octet, length) => ({ octet, length })
const bytesOf = ({ octet, length }) => Buffer.alloc(length, octet)

function prepare (amount, expiresAtMs, destination, data) {
  const executionCondition = random32()
  const packet = ilp.serializeIlpPrepare({
    amount, expiresAt: new Date(expiresAtMs), executionCondition, destination, data: bytesOf(data)
  })
  return {
    amount, expiresAtMs, executionCondition: executionCondition.toString('hex'), destination, data,
    packet: packetForm(packet)
  }
}

function fulfill (data) {
  const fulfillment = random32()
  const packet = ilp.serializeIlpFulfill({ fulfillment, data: bytesOf(data) })
  return { fulfillment: fulfillment.toString('hex'), data, packet: packetForm(packet) }
}

function reject (code, triggeredBy, message, data) {
  const packet = ilp.serializeIlpReject({ code, triggeredBy, message, data: bytesOf(data) })
  return { code, triggeredBy, message, data, packet: packetForm(packet) }
}

const AMOUNTS = ['0', '1', '255', '256', '4294967295', '4294967296', '9007199254740993',
  '9223372036854775807', '9223372036854775808', '18446744073709551615']
const MOMENTS_MS = [1, 999, 1000, Date.UTC(2000, 1, 29), Date.UTC(2026, 11, 31, 23, 59, 59, 999),
  Date.UTC(2028, 1, 29, 12, 30, 15, 7), Date.UTC(2100, 2, 1), Date.UTC(9999, 11, 31, 23, 59, 59, 999),
  Date.UTC(1969, 11, 31, 23, 59, 59, 999), Date.UTC(1000, 0, 1)]
const ADDRESSES = ['g.a', 'private.x', 'example.alice', 'peer.config', 'self.me', 'test.a', 'test1.a',
  'test2.a', 'test3.a', 'local.a', 'g.us.acme.bob~ipsum.dolor-sit_amet.0', 'g.' + 'a'.repeat(1021)]
const MESSAGES = ['', 'missing destination', 'é€𝄞', 'x'.repeat(127), 'x'.repeat(128), '€'.repeat(300)]

const prepares = [
  ...AMOUNTS.map((amount) => prepare(amount, MOMENTS_MS[4], 'test.alice', filled(1, 10))),
  ...MOMENTS_MS.map((ms) => prepare('107', ms, 'test.alice', filled(2, 10))),
  ...ADDRESSES.map((address) => prepare('107', MOMENTS_MS[4], address, filled(3, 10))),
  ...SIZES.map((size) => prepare('107', MOMENTS_MS[4], 'g.a', filled(4, size)))
]
const fulfills = SIZES.map((size) => fulfill(filled(5, size)))
const rejects = [
  ...Object.values(ilp.Errors.codes).map((code) => reject(code, 'test.connector', '', filled(6, 0))),
  ...['', ...ADDRESSES].map((address) => reject('T00', address, 'x', filled(7, 3))),
  ...MESSAGES.map((message) => reject('F99', 'g.a', message, filled(8, 3))),
  ...SIZES.map((size) => reject('F99', 'g.a', '', filled(9, size)))
]

const amountsTooLarge = [['0', '0'], ['1000', '999'], ['18446744073709551615', '9223372036854775808']]
  .map(([receivedAmount, maximumAmount]) => {
    const error = new ilp.Errors.AmountTooLargeError('', { receivedAmount, maximumAmount })
    return { receivedAmount, maximumAmount, data: error.ilpErrorData.toString('hex') }
  })

const ildcpRequest = {
  expiresAtMs: MOMENTS_MS[4],
  packet: ildcp.serializeIldcpRequest({ expiresAt: new Date(MOMENTS_MS[4]) }).toString('hex')
}
const ildcpResponses = [['g.conn.alice', 9, 'USD'], ['test.x', 0, ''], ['private.a.b', 255, '€UR'],
  ['g.' + 'b'.repeat(300), 6, 'X'.repeat(130)]].map(([clientAddress, assetScale, assetCode]) => ({
  clientAddress,
  assetScale,
  assetCode,
  packet: ildcp.serializeIldcpResponse({ clientAddress, assetScale, assetCode }).toString('hex')
}))

const variableIntegers = AMOUNTS.map((value) => {
  const writer = new Writer()
  writer.writeVarUInt(value)
  return { value, hex: writer.getBuffer().toString('hex') }
})

const verdict = (read) => {
  try {
    read()
    return 'accepted'
  } catch {
    return 'refused'
  }
}
const lengths = ['00', '01aa', '7f', '80', '8100', '8101aa', '817f', '8180', '81ff', '820001aa', '82007f',
  '820080', '8200ff', '820100', '83000100', '83010000'].map((hex) => {
  // As many bytes behind the length as it may announce, so that only its form is judged.
  const raw = Buffer.concat([Buffer.from(hex, 'hex'), Buffer.alloc(65536)])
  return { hex, verdict: verdict(() => Reader.from(raw).readVarOctetString()) }
})

// One good packet with another timestamp, address or code in it. Our verdict can differ: the test
// that reads this knows where, and why.
const judgedPrepare = (text, destination) => {
  const contents = new Writer()
  contents.writeUInt64('107')
  contents.write(Buffer.from(text, 'latin1'))
  contents.write(Buffer.alloc(32))
  contents.writeVarOctetString(Buffer.from(destination, 'latin1'))
  contents.writeVarOctetString(Buffer.alloc(0))
  const packet = new Writer()
  packet.writeUInt8(12)
  packet.writeVarOctetString(contents.getBuffer())
  const raw = packet.getBuffer()
  return {
    expiresAt: text,
    destination,
    packet: raw.toString('hex'),
    verdict: verdict(() => ilp.deserializeIlpPrepare(raw))
  }
}
const TIMESTAMPS = ['20171224161432279', '19700101000000000', '00000101000000000', '20171324161432200',
  '20171224240000000', '20161231235960852', '20170229000000000', '20170431000000000',
  '20171200000000000', '20170012000000000', '2017122416143227Z', '20171224161432.79', '2017122416143 79',
  '0x0A1224161432279', 'AAAAAAAAAAAAAAAAA', '\xb2\xb0171224161432279'.slice(0, 17)]
const DESTINATIONS = ['g.a', 'g', '', 'g.', '.g.a', 'g..a', 'g.a.', 'g.a\n', 'g.a b', 'G.a', 'h.a',
  'test4.a', 'g.\xe1', 'g.' + 'a'.repeat(1021), 'g.' + 'a'.repeat(1022)]
const judged = [
  ...TIMESTAMPS.map((text) => judgedPrepare(text, 'g.a')),
  ...DESTINATIONS.map((destination) => judgedPrepare('20171224161432279', destination))
]

const version = (name) => JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, peers))).version
const generator = Object.fromEntries(
  ['ilp-packet', 'ilp-protocol-ildcp', 'oer-utils'].map((name) => [name, version(name)])
)
const vectors = {
  generator,
  prepares,
  fulfills,
  rejects,
  amountsTooLarge,
  ildcpRequest,
  ildcpResponses,
  variableIntegers,
  lengths,
  judged
}
writeFileSync(new URL('packet_vectors.json', import.meta.url), JSON.stringify(vectors, null, 1) + '\n')
