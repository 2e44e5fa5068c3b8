"""The Interledger node: packets in, packets out, and money that moves with them."""

__version__ = "0.1.0"
