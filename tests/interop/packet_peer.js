'use strict'
// Foreign ends of a path, packet by packet: npm's ilp-packet over Node's own HTTP.
//
//   node packet_peer.js receive PORT TOKEN_FROM_NODE DELAY_MS
//     fulfils every Prepare after a delay; prints {"listening"}, and {"fulfilled": [amount, ...]}
//     for each line of its input
//   node packet_peer.js send NODE_URL TOKEN_TO_NODE DESTINATION IN_FLIGHT FIRST_AMOUNT EXPIRY_MS
//     keeps IN_FLIGHT packets outstanding, each with an amount of its own (FIRST_AMOUNT, and 2 more
//     for each further one), until a line comes in; then lets the rest come back and prints
//     {"fulfilled": [...], "rejected": {code: [...]}, "unknown": [...]}: amounts by outcome
const crypto = require('crypto')
const http = require('http')
const path = require('path')
const readline = require('readline')
const packets = require(path.join(__dirname, '..', 'npm', 'node_modules', 'ilp-packet'))

const [mode, ...options] = process.argv.slice(2)
const print = (value) => process.stdout.write(JSON.stringify(value) + '\n')
const sha256 = (data) => crypto.createHash('sha256').update(data).digest()
const lines = readline.createInterface({ input: process.stdin })
const TYPE = 'application/octet-stream'

function receive ([port, token, delay]) {
  const fulfilled = []
  const server = http.createServer((request, response) => {
    const chunks = []
    request.on('data', (chunk) => chunks.push(chunk))
    request.on('end', () => {
      if (request.headers.authorization !== 'Bearer ' + token) {
        response.writeHead(401).end()
        return
      }
      const prepare = packets.deserializeIlpPrepare(Buffer.concat(chunks))
      setTimeout(() => {
        fulfilled.push(Number(prepare.amount))
        response.writeHead(200, { 'Content-Type': TYPE })
        response.end(packets.serializeIlpFulfill({ fulfillment: prepare.data, data: Buffer.alloc(0) }))
      }, Number(delay))
    })
  })
  server.keepAliveTimeout = 60000
  server.listen(Number(port), '127.0.0.1', () => print({ listening: Number(port) }))
  lines.on('line', () => print({ fulfilled }))
  lines.on('close', () => process.exit(0))
}

function send ([url, token, destination, inFlight, firstAmount, expiry]) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: Number(inFlight) })
  const outcome = { fulfilled: [], rejected: {}, unknown: [] }
  let next = Number(firstAmount)
  let stopping = false
  let outstanding = 0

  function settle (amount, reply, fulfillment) {
    if (reply === null) {
      outcome.unknown.push(amount)
    } else if (reply.code) {
      (outcome.rejected[reply.code] = outcome.rejected[reply.code] || []).push(amount)
    } else if (reply.fulfillment.equals(fulfillment)) {
      outcome.fulfilled.push(amount)
    } else {
      throw new Error('wrong fulfillment')
    }
    outstanding--
    if (stopping) {
      if (outstanding === 0) {
        // A pipe takes 64 KiB at a time: the end must not come before the last of it.
        process.stdout.write(JSON.stringify(outcome) + '\n', () => process.exit(0))
      }
    } else {
      setTimeout(one, reply === null ? 50 : 0)
    }
  }

  function one () {
    const amount = next
    next += 2
    outstanding++
    const fulfillment = crypto.randomBytes(32)
    const body = packets.serializeIlpPrepare({
      amount: String(amount),
      expiresAt: new Date(Date.now() + Number(expiry)),
      executionCondition: sha256(fulfillment),
      destination,
      data: fulfillment
    })
    const request = http.request(url, {
      agent,
      method: 'POST',
      headers: {
        Authorization: 'Bearer ' + token,
        'Content-Type': TYPE,
        'Content-Length': body.length
      }
    })
    let settled = false
    const done = (reply) => {
      if (!settled) {
        settled = true
        settle(amount, reply, fulfillment)
      }
    }
    request.on('error', () => done(null))
    request.on('response', (response) => {
      const chunks = []
      response.on('data', (chunk) => chunks.push(chunk))
      response.on('error', () => done(null))
      response.on('close', () => done(null))
      response.on('end', () => {
        if (!response.complete || response.statusCode !== 200) {
          done(null)
          return
        }
        done(packets.deserializeIlpReply(Buffer.concat(chunks)))
      })
    })
    request.end(body)
  }

  lines.once('line', () => { stopping = true })
  lines.on('close', () => process.exit(1))
  for (let i = 0; i < Number(inFlight); i++) one()
}

(mode === 'receive' ? receive : send)(options)
