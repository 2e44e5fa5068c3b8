'use strict'
// A foreign STREAM endpoint: ilp-protocol-stream over ilp-plugin-http, one JSON object a line.
//
//   node stream_peer.js receive PORT NODE_URL TOKEN_FROM_NODE TOKEN_TO_NODE
//     prints {"account", "secret"}, then {"received"} whenever it changes, until its input ends
//   node stream_peer.js send PORT NODE_URL TOKEN_FROM_NODE TOKEN_TO_NODE ACCOUNT SECRET AMOUNT
//     prints {"address", "sent", "delivered", "asset"} or {"error"}, then ends
const path = require('path')
const modules = path.join(__dirname, '..', 'npm', 'node_modules')
const Plugin = require(path.join(modules, 'ilp-plugin-http'))
const { createConnection, createServer } = require(path.join(modules, 'ilp-protocol-stream'))
const { DataAndMoneyStream } = require(path.join(modules, 'ilp-protocol-stream/dist/src/stream'))

// It sets `closed` on its streams, which Node.js 18 made a getter of all streams.
Object.defineProperty(DataAndMoneyStream.prototype, 'closed', { writable: true, value: false })

const print = (value, then) => process.stdout.write(JSON.stringify(value) + '\n', then)
const [mode, port, url, tokenFromNode, tokenToNode, account, secret, amount] = process.argv.slice(2)
const plugin = new Plugin({
  incoming: { port: Number(port), staticToken: tokenFromNode },
  outgoing: { url, staticToken: tokenToNode }
})

async function receive () {
  const server = await createServer({ plugin })
  let received = 0n
  server.on('connection', (connection) => {
    connection.on('stream', (stream) => {
      stream.setReceiveMax('18446744073709551615')
      stream.on('money', (chunk) => {
        received += BigInt(chunk)
        print({ received: received.toString() })
      })
    })
  })
  const credentials = server.generateAddressAndSecret()
  print({
    account: credentials.destinationAccount,
    secret: credentials.sharedSecret.toString('base64')
  })
  process.stdin.resume()
  process.stdin.on('end', () => process.exit(0))
}

async function send () {
  const connection = await createConnection({
    plugin,
    destinationAccount: account,
    sharedSecret: Buffer.from(secret, 'base64'),
    slippage: 0.05
  })
  const stream = connection.createStream()
  let problem = null
  try {
    await stream.sendTotal(amount, { timeout: 60000 })
  } catch (error) {
    problem = error.message
  }
  print({
    error: problem,
    sent: connection.totalSent,
    delivered: connection.totalDelivered,
    asset: connection.destinationAssetCode,
    address: connection.sourceAccount
  }, () => process.exit(problem ? 1 : 0))
}

(mode === 'receive' ? receive() : send()).catch((error) => {
  print({ error: error.message }, () => process.exit(1))
})
