"""A clock that moves only when a test says so."""

EPOCH_MS = 1_760_000_000_000


class FakeClock:
    """Wall clock in ms and monotonic clock in seconds, moved together or apart."""

    def __init__(self) -> None:
        self.wall = EPOCH_MS
        self.seconds = 1000.0

    def wall_ms(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return self.seconds

    def advance_ms(self, ms: int) -> None:
        self.wall += ms
        self.seconds += ms / 1000
