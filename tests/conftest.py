"""Fixtures that every suite may use."""

pytest_plugins = [
    "tests.support.postgres",
    "tests.support.redis",
    "tests.support.suites",
    "tests.support.tigerbeetle",
    "tests.support.network",  # last: it imports the others
]
