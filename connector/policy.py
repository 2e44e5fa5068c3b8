"""Admission rules of the packet path: expiry window and token buckets. Pure.

Clocks are arguments. Buckets count in integers, so that nothing is lost however often they are
asked.
"""

from typing import Final

NS_PER_S: Final = 1_000_000_000

# The next hop gets at least this long, as in Rafiki: less is a packet that will only time out.
FORWARD_MS_MIN: Final = 1000


def outgoing_expiry_ms(
    expires_at_ms: int, now_ms: int, margin_ms: int, hold_ms_max: int
) -> int | None:
    """The expiry to forward a packet with, or None if too little time is left (R02).

    Units: ms since the epoch; margin_ms - what we keep for ourselves on the way back; hold_ms_max -
    the longest that a packet may be on its way behind us.
    Spec: RFC 18 "Connector Risk Mitigations", RFC 27.
    """
    forwarded_ms = min(expires_at_ms - margin_ms, now_ms + hold_ms_max)
    return None if forwarded_ms < now_ms + FORWARD_MS_MIN else forwarded_ms


class TokenBucket:
    """A token bucket in exact integers: ``per_period`` tokens flow in evenly in ``period_ns``.

    The level is kept in tokens x nanoseconds, so what flows in between two calls is never rounded,
    at any rate. An amount above the burst can only be taken from a full bucket, which is in debt
    afterwards.
    """

    __slots__ = ("_at_ns", "_level", "_level_max", "per_period", "period_ns")

    def __init__(self, per_period: int, burst: int, now_ns: int, period_ns: int = NS_PER_S) -> None:
        """A full bucket of ``burst`` tokens."""
        self.per_period = per_period
        self.period_ns = period_ns
        self._level_max = burst * period_ns
        self._level = self._level_max
        self._at_ns = now_ns

    def take(self, amount: int, now_ns: int) -> bool:
        """Use up ``amount`` tokens, all or nothing. A clock that steps back adds nothing."""
        if now_ns > self._at_ns:
            if self._level < self._level_max:
                flowed_in = (now_ns - self._at_ns) * self.per_period
                self._level = min(self._level_max, self._level + flowed_in)
            self._at_ns = now_ns
        needed = amount * self.period_ns
        if self._level < min(needed, self._level_max):
            return False
        self._level -= needed
        return True

    def fill(self, tokens: int, now_ns: int) -> None:
        """Set the level, also to more than the burst or to a debt."""
        self._level = tokens * self.period_ns
        self._at_ns = now_ns

    def tokens(self) -> int:
        """Whole tokens at the last call; below 0 if in debt."""
        return self._level // self.period_ns


def share_ceil(tokens: int, sharers: int) -> int:
    """What one of ``sharers`` may use of ``tokens``: at least one while there are any.

    A debt is shared, too.
    """
    return -(-tokens // sharers)
