"""Deadlines of many packets with one timer: a wheel of short lists instead of a timer for each."""

from typing import Final, Generic, TypeVar

Item = TypeVar("Item")

TICK_S: Final = 0.02
TICKS_PER_S: Final = 50


class DeadlineWheel(Generic[Item]):
    """Hands items back once their deadline has passed, at most one tick late."""

    def __init__(self, now: float) -> None:
        self._slots: dict[int, list[Item]] = {}
        self._done = int(now * TICKS_PER_S)

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def add(self, deadline: float, item: Item) -> None:
        """Keep an item until ``deadline`` (monotonic seconds); one in the past comes at once."""
        slot = int(deadline * TICKS_PER_S) + 1
        if slot <= self._done:
            slot = self._done + 1
        items = self._slots.get(slot)
        if items is None:
            self._slots[slot] = [item]
        else:
            items.append(item)

    def expired(self, now: float) -> list[Item]:
        """Take out every item whose deadline has passed."""
        tick = int(now * TICKS_PER_S)
        due = [slot for slot in range(self._done + 1, tick + 1) if slot in self._slots]
        self._done = max(tick, self._done)
        return [item for slot in due for item in self._slots.pop(slot)]
