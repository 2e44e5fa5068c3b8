import pytest

from connector.packets import codes
from connector.packets.codes import NAMES, ErrorClass, error_class


def test_every_constant_is_named_by_its_code_and_name() -> None:
    constants = {name: code for name, code in vars(codes).items() if name[1:3].isdigit()}
    assert len(constants) == len(NAMES) == 21
    for constant, code in constants.items():
        assert constant == f"{code}_{NAMES[code].upper().replace(' ', '_')}"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("F00", ErrorClass.FINAL),
        ("F08", ErrorClass.FINAL),
        ("F09", ErrorClass.FINAL),
        ("F99", ErrorClass.FINAL),
        ("T04", ErrorClass.TEMPORARY),
        ("T77", ErrorClass.TEMPORARY),
        ("R01", ErrorClass.RELATIVE),
        ("R99", ErrorClass.RELATIVE),
        ("t00", ErrorClass.FINAL),
        ("\0\0\0", ErrorClass.FINAL),
        ("", ErrorClass.FINAL),
    ],
)
def test_classes(code: str, kind: ErrorClass) -> None:
    assert error_class(code) is kind
