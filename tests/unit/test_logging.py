"""No secret reaches a log line, in either form."""

import json
import logging as standard
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from connector import logging
from connector.settings import Settings, load_settings

PRODUCTION = {
    "JIRANI_ENV": "production",
    "ILP_ADDRESS": "g.node",
    "OPERATOR_TENANT_ID": "cf5fd7d3-0000-4000-8000-000000000000",
    "STREAM_SECRET": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    "DB_ENCRYPTION_SECRET": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
}


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    root = standard.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    for name, value in {**PRODUCTION, "JIRANI_VAR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def test_production_writes_json(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    logging.configure(settings, "worker-3")
    structlog.get_logger().info("peer_added", peer="b", amount=5)
    line = json.loads(capsys.readouterr().err)
    assert line["event"] == "peer_added"
    assert (line["process"], line["level"], line["peer"], line["amount"]) == (
        "worker-3",
        "info",
        "b",
        5,
    )


def test_less_important_lines_are_left_out(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    logging.configure(settings.model_copy(update={"log_level": "warn"}), "x")
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["loud"]


@pytest.mark.parametrize("environment", ["development", "production"])
def test_secrets_are_masked_wherever_they_hide(
    settings: Settings, capsys: pytest.CaptureFixture[str], environment: str
) -> None:
    logging.configure(settings.model_copy(update={"jirani_env": environment}), "x")
    log = structlog.get_logger()
    try:
        raise ValueError("cannot reach postgresql://me:hidden@host/db")
    except ValueError:
        log.exception("failed")
    log.warning(
        "request",
        headers={"Authorization": "Bearer hidden", "Accept": "*/*"},
        outgoing_token="hidden",
        lines=["authorization: bearer hidden, x", b"Bearer hidden"],
        url="redis://:hidden@host",
        error=OSError("GNAP hidden"),
    )
    standard.getLogger("library").warning("at %s", "postgresql://me:hidden@host/db")
    written = capsys.readouterr().err
    assert written.count("********") >= 8
    assert "hidden" not in written
    assert "library" in written


def test_what_is_no_secret_stays() -> None:
    event = {"event": "see http://host:80/a@b", "peer": "b", "amount": 3, "token": None}
    assert logging.mask_secrets(None, "info", dict(event)) == event
