"""Balances: what the node needs from a ledger, and the ledgers that provide it."""
