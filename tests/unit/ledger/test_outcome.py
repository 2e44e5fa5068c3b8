"""What the ledger's statuses mean for a chain."""

import pytest

from connector.ledger.ledger import CREATED, TransferStatus
from connector.ledger.outcome import (
    NOT_APPLIED,
    chain_status,
    hold_refusal,
    is_account_missing,
    is_applied,
    is_released,
)
from connector.packets import codes

LINKED_FAILED = int(TransferStatus.LINKED_EVENT_FAILED)
EXISTS = int(TransferStatus.EXISTS)
EXCEEDS = int(TransferStatus.EXCEEDS_CREDITS)


@pytest.mark.parametrize(
    ("failures", "expected", "applied"),
    [
        ({}, (0, CREATED), True),
        ({4: EXCEEDS}, (0, CREATED), True),
        ({5: EXCEEDS, 6: LINKED_FAILED}, (0, EXCEEDS), False),
        ({5: LINKED_FAILED, 6: EXCEEDS}, (1, EXCEEDS), False),
        ({5: EXISTS, 6: LINKED_FAILED}, (0, EXISTS), True),
        ({5: LINKED_FAILED, 6: EXISTS}, (1, EXISTS), False),
    ],
)
def test_the_first_failing_event_decides(
    failures: dict[int, int], expected: tuple[int, int], applied: bool
) -> None:
    leg, status = chain_status(failures, 5, 2)
    assert (leg, status) == expected
    assert is_applied(leg, status) is applied


@pytest.mark.parametrize("status", [int(status) for status in TransferStatus] + [NOT_APPLIED, 999])
def test_every_status_has_one_meaning(status: int) -> None:
    meanings = [is_applied(0, status), is_released(status), is_account_missing(status)]
    assert sum(meanings) <= 1
    code, message = hold_refusal(0, status)
    assert code in (codes.T00_INTERNAL_ERROR, codes.T04_INSUFFICIENT_LIQUIDITY)
    assert message


def test_balance_and_liquidity_share_a_code_and_differ_in_words() -> None:
    assert hold_refusal(0, EXCEEDS) == ("T04", "exceeded maximum balance.")
    assert hold_refusal(1, EXCEEDS) == ("T04", "insufficient liquidity")
