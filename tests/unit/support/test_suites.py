"""A run that is meant to be complete is not quietly incomplete."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.running import REPOSITORY
from tests.support.suites import suite_of


@pytest.mark.parametrize(
    ("nodeid", "suite"),
    [
        ("tests/unit/packets/test_ilp.py::test_it[a::b]", "unit"),
        ("tests/faults/test_x.py::test_it", "faults"),
        ("tests/test_x.py::test_it", "other"),
        ("elsewhere/a/test_x.py::test_it", "other"),
    ],
)
def test_a_test_belongs_to_its_folder(nodeid: str, suite: str) -> None:
    assert suite_of(nodeid) == suite


@pytest.mark.parametrize(("required", "status"), [("unit", 0), ("unit,faults", 1), ("", 0)])
def test_a_suite_without_tests_fails_the_run(tmp_path: Path, required: str, status: int) -> None:
    for name, code in {"unit": "pass", "faults": "import pytest; pytest.skip('no')"}.items():
        folder = tmp_path / "tests" / name
        folder.mkdir(parents=True)
        (folder / f"test_{name}.py").write_text(f"def test_it():\n    {code}\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.support.suites", "-q", "tests"]
    answer = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY), "JIRANI_TEST_SUITES": required},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == status, answer.stdout
    assert "unit              1 passed    0 failed    0 skipped" in answer.stdout
    assert ("FAILED: JIRANI_TEST_SUITES" in answer.stdout) is bool(status)
