"""Both outer ends of a first payment: sends one packet through a node and receives it behind.

``python examples/first_payment.py [AMOUNT]`` sends as the peer ``alice`` and receives as the peer
``bob``, set up as the README says. Only the packet codec is Jirani's; the rest is plain HTTP.
"""

import argparse
import hashlib
import os
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

from connector.packets.expiry import format_expiry
from connector.packets.ilp import (
    Fulfill,
    decode_prepare,
    decode_reply,
    encode_fulfill,
    encode_prepare,
)

HOLD_MS = 20_000
FULFILLMENT = os.urandom(32)


class Bob(BaseHTTPRequestHandler):
    """Receives packets and fulfils them: it knows what alice's condition is the hash of."""

    def do_POST(self) -> None:
        prepare = decode_prepare(self.rfile.read(int(self.headers["Content-Length"])))
        print(f"bob was offered {prepare.amount} at {prepare.destination}")
        answer = encode_fulfill(FULFILLMENT)
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing of each request."""


def send(node: str, token: str, amount: int, destination: str) -> bytes:
    """Send one Prepare as alice; returns the node's answer."""
    packet = encode_prepare(
        amount=amount,
        expires_at=format_expiry(time.time_ns() // 1_000_000 + HOLD_MS),
        execution_condition=hashlib.sha256(FULFILLMENT).digest(),
        destination=destination,
        data=b"",
    )
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/octet-stream"}
    request = urllib.request.Request(node, packet, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("amount", nargs="?", type=int, default=1234, help="smallest units")
    parser.add_argument("--node", default="http://127.0.0.1:3002/ilp")
    parser.add_argument("--token", default="token-that-alice-has", help="alice's, towards the node")
    parser.add_argument("--destination", default="test.jirani.bob.invoice-1")
    parser.add_argument("--port", type=int, default=4002, help="where bob listens")
    options = parser.parse_args()

    bob = HTTPServer(("127.0.0.1", options.port), Bob)
    threading.Thread(target=bob.serve_forever, daemon=True).start()
    try:
        answer = send(options.node, options.token, options.amount, options.destination)
    except urllib.error.URLError as error:
        print(f"the node did not take the packet: {error}")
        return 1
    finally:
        bob.shutdown()
        bob.server_close()
    reply = decode_reply(answer)
    if isinstance(reply, Fulfill):
        print(f"fulfilled: {options.amount} went from alice to bob")
        return 0
    print(f"rejected: {reply.code} {reply.message} (by {reply.triggered_by})")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
