"""Error codes of Reject packets (RFC 27, "Error Codes")."""

from enum import Enum

F00_BAD_REQUEST = "F00"
F01_INVALID_PACKET = "F01"
F02_UNREACHABLE = "F02"
F03_INVALID_AMOUNT = "F03"
F04_INSUFFICIENT_DESTINATION_AMOUNT = "F04"
F05_WRONG_CONDITION = "F05"
F06_UNEXPECTED_PAYMENT = "F06"
F07_CANNOT_RECEIVE = "F07"
F08_AMOUNT_TOO_LARGE = "F08"
F99_APPLICATION_ERROR = "F99"
T00_INTERNAL_ERROR = "T00"
T01_PEER_UNREACHABLE = "T01"
T02_PEER_BUSY = "T02"
T03_CONNECTOR_BUSY = "T03"
T04_INSUFFICIENT_LIQUIDITY = "T04"
T05_RATE_LIMITED = "T05"
T99_APPLICATION_ERROR = "T99"
R00_TRANSFER_TIMED_OUT = "R00"
R01_INSUFFICIENT_SOURCE_AMOUNT = "R01"
R02_INSUFFICIENT_TIMEOUT = "R02"
R99_APPLICATION_ERROR = "R99"

# A code outside this table can arrive: only these may become a metric's label.
NAMES = {
    F00_BAD_REQUEST: "Bad Request",
    F01_INVALID_PACKET: "Invalid Packet",
    F02_UNREACHABLE: "Unreachable",
    F03_INVALID_AMOUNT: "Invalid Amount",
    F04_INSUFFICIENT_DESTINATION_AMOUNT: "Insufficient Destination Amount",
    F05_WRONG_CONDITION: "Wrong Condition",
    F06_UNEXPECTED_PAYMENT: "Unexpected Payment",
    F07_CANNOT_RECEIVE: "Cannot Receive",
    F08_AMOUNT_TOO_LARGE: "Amount Too Large",
    F99_APPLICATION_ERROR: "Application Error",
    T00_INTERNAL_ERROR: "Internal Error",
    T01_PEER_UNREACHABLE: "Peer Unreachable",
    T02_PEER_BUSY: "Peer Busy",
    T03_CONNECTOR_BUSY: "Connector Busy",
    T04_INSUFFICIENT_LIQUIDITY: "Insufficient Liquidity",
    T05_RATE_LIMITED: "Rate Limited",
    T99_APPLICATION_ERROR: "Application Error",
    R00_TRANSFER_TIMED_OUT: "Transfer Timed Out",
    R01_INSUFFICIENT_SOURCE_AMOUNT: "Insufficient Source Amount",
    R02_INSUFFICIENT_TIMEOUT: "Insufficient Timeout",
    R99_APPLICATION_ERROR: "Application Error",
}


class ErrorClass(Enum):
    """What the sender may do after a Reject."""

    FINAL = "F"
    """Do not repeat unchanged."""
    TEMPORARY = "T"
    """Repeat after a pause."""
    RELATIVE = "R"
    """Repeat with more money or more time, not for ever."""


def error_class(code: str) -> ErrorClass:
    """Tell the class of a code by its letter; what begins with another letter is final."""
    match code[:1]:
        case "T":
            return ErrorClass.TEMPORARY
        case "R":
            return ErrorClass.RELATIVE
        case _:
            return ErrorClass.FINAL
