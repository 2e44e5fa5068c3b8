"""Counts tests by suite, and fails a run in which a suite that must be there did not run.

``JIRANI_TEST_SUITES`` (names with commas between them) says which suites must have passed tests.
"""

import os
from collections import Counter
from pathlib import PurePosixPath
from typing import Final

import pytest

VARIABLE: Final = "JIRANI_TEST_SUITES"
SUITES: Final = ("unit", "conformance", "contract", "interop", "faults", "fuzz")


class SuiteCounts:
    """Outcomes of all tests, by the folder below ``tests`` that they lie in."""

    def __init__(self, required: tuple[str, ...]) -> None:
        self.required = required
        self.passed: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()

    @property
    def missing(self) -> list[str]:
        return [suite for suite in self.required if not self.passed[suite]]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        suite = suite_of(report.nodeid)
        if report.failed:
            self.failed[suite] += 1
        elif report.skipped:
            self.skipped[suite] += 1
        elif report.when == "call":
            self.passed[suite] += 1

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.missing and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.write_sep("-", "tests by suite")
        seen = {*self.passed, *self.failed, *self.skipped, *self.required}
        for suite in sorted(seen, key=(*SUITES, *sorted(seen)).index):
            terminalreporter.write_line(
                f"{suite:<12} {self.passed[suite]:>6} passed {self.failed[suite]:>4} failed "
                f"{self.skipped[suite]:>4} skipped"
            )
        if self.missing:
            names = ", ".join(self.missing)
            terminalreporter.write_line(f"FAILED: {VARIABLE} names suites without tests: {names}")


def suite_of(nodeid: str) -> str:
    """The suite of a test: the folder that its file lies in, below ``tests``."""
    parts = PurePosixPath(nodeid.partition("::")[0]).parts
    return parts[1] if len(parts) > 2 and parts[0] == "tests" else "other"


def pytest_configure(config: pytest.Config) -> None:
    names = tuple(filter(None, os.environ.get(VARIABLE, "").split(",")))
    config.pluginmanager.register(SuiteCounts(names), "suite-counts")
