"""Fixtures of the fault tests."""

from tests.support.ledger_server import faulty_postgres, faulty_replica, ledger_server
from tests.support.line import gate, idle_line, line

__all__ = ["faulty_postgres", "faulty_replica", "gate", "idle_line", "ledger_server", "line"]
