"""Deadlines come due once, in time, whatever the order of adding."""

from hypothesis import given
from hypothesis import strategies as st

from connector.deadlines import TICK_S, DeadlineWheel

TIMES = st.floats(min_value=0, max_value=100, allow_nan=False)


@given(st.lists(TIMES), st.lists(TIMES))
def test_every_item_comes_once_and_within_a_tick(
    deadlines: list[float], looks: list[float]
) -> None:
    wheel: DeadlineWheel[int] = DeadlineWheel(0.0)
    for item, deadline in enumerate(deadlines):
        wheel.add(deadline, item)
    came: dict[int, float] = {}
    for now in [*sorted(looks), 101.0]:
        for item in wheel.expired(now):
            assert item not in came
            assert deadlines[item] <= now
            came[item] = now
        for item, deadline in enumerate(deadlines):
            assert item in came or deadline > now - 2 * TICK_S
    assert len(came) == len(deadlines)
    assert len(wheel) == 0


def test_a_deadline_in_the_past_comes_at_the_next_look() -> None:
    wheel: DeadlineWheel[str] = DeadlineWheel(50.0)
    assert wheel.expired(60.0) == []
    wheel.add(1.0, "late")
    assert wheel.expired(60.0) == []
    assert wheel.expired(60.0 + TICK_S) == ["late"]


def test_an_item_may_be_added_again() -> None:
    wheel: DeadlineWheel[str] = DeadlineWheel(0.0)
    wheel.add(1.0, "packet")
    assert wheel.expired(1.1) == ["packet"]
    wheel.add(2.0, "packet")
    assert wheel.expired(1.5) == []
    assert wheel.expired(2.1) == ["packet"]
