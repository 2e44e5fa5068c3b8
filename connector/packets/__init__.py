"""ILP wire formats, pure: bytes to values and back. No IO, no clock, no entropy."""
