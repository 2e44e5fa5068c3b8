"""Exceptions of the node, one hierarchy.

Three kinds of trouble, three treatments. A protocol outcome is a ``Reject`` value. An expected
refusal in the domain is a member of an enum, returned. Everything else is an exception from here,
caught once at the top of each server and answered in that server's own form.
"""


class ConnectorError(Exception):
    """Base of everything that the node raises on purpose."""


class DecodeError(ConnectorError):
    """Bytes from outside that are not what they should be.

    field - what was being read, dotted (``prepare.amount``); offset - byte where it began.
    """

    def __init__(self, field: str, offset: int, reason: str) -> None:
        super().__init__(f"{field} at byte {offset}: {reason}")
        self.field = field
        self.offset = offset
        self.reason = reason


class EncodeError(ConnectorError):
    """A value that cannot be written in the wire format: a fault of the caller, not of a peer."""


class LedgerUnavailable(ConnectorError):
    """The ledger gave no answer; whether a request was applied is unknown."""


class LedgerRejectedBatch(ConnectorError):
    """The ledger refused a whole request and applied nothing of it."""


class LedgerSessionLost(ConnectorError):
    """The ledger ended this process's session (evicted or closed): only a restart helps."""


class StoreUnavailable(ConnectorError):
    """Postgres or Redis cannot be reached."""


class ConfigError(ConnectorError):
    """A setting that is missing, malformed or out of bounds. The message names it."""


class Conflict(ConnectorError):
    """What is asked for contradicts what exists."""


class NotFound(ConnectorError):
    """What is asked for does not exist."""


class InvalidInput(ConnectorError):
    """A value given by an operator breaks a rule. The message says which, and what would do."""
