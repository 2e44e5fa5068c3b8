"""Every variable is read, bounded and explained; secrets are neither guessed nor shown."""

import base64
import json
import os
import stat
import threading
from decimal import Decimal
from pathlib import Path

import pytest

from connector.errors import ConfigError
from connector.settings import (
    SOCKET_PATH_BYTES_MAX,
    Settings,
    describe,
    is_loopback,
    load_settings,
    mask,
    mask_url,
)

SECRET = base64.b64encode(bytes(range(32))).decode()
PRODUCTION = {
    "JIRANI_ENV": "production",
    "ILP_ADDRESS": "g.example.node",
    "OPERATOR_TENANT_ID": "cf5fd7d3-0000-4000-8000-000000000000",
    "STREAM_SECRET": SECRET,
    "DB_ENCRYPTION_SECRET": SECRET,
}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of whoever runs the tests gets in, and nothing is written elsewhere."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("ENV_FILE", raising=False)
    monkeypatch.setenv("JIRANI_VAR", str(tmp_path / "var"))
    monkeypatch.chdir(tmp_path)


def load(monkeypatch: pytest.MonkeyPatch, **values: str) -> Settings:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def test_development_needs_nothing(tmp_path: Path) -> None:
    settings = load_settings()
    assert settings.ilp_address == "test.jirani"
    assert (settings.connector_port, settings.metrics_port, settings.rates_port) == (
        3002,
        9464,
        3012,
    )
    assert settings.connector_workers >= 1
    assert settings.ledger_grace_s == 300
    assert settings.use_tigerbeetle is False
    assert settings.embedded_rates
    assert settings.jirani_var == tmp_path / "var"


def test_secrets_are_made_once_and_kept_private(tmp_path: Path) -> None:
    first = load_settings()
    path = tmp_path / "var" / "secrets.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(base64.b64decode(first.stream_secret or "")) == 32
    assert first.stream_secret != first.db_encryption_secret
    second = load_settings()
    assert second.stream_secret == first.stream_secret
    assert second.db_encryption_secret == first.db_encryption_secret
    assert os.listdir(tmp_path / "var") == ["secrets.json"]


def test_processes_that_start_together_get_the_same_secrets() -> None:
    barrier = threading.Barrier(8)
    found: list[str | None] = []

    def run() -> None:
        barrier.wait()
        found.append(load_settings().stream_secret)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_given_secrets_come_before_kept_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, STREAM_SECRET=SECRET)
    assert settings.stream_secret == SECRET
    assert settings.db_encryption_secret not in (None, SECRET)


def test_looking_makes_no_secrets(tmp_path: Path) -> None:
    assert load_settings(generate=False).stream_secret is None
    assert not (tmp_path / "var").exists()


@pytest.mark.parametrize("content", ["", "{}", '{"STREAM_SECRET": 1}', "[]"])
def test_damaged_secrets_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "secrets.json").write_text(content)
    with pytest.raises(ConfigError, match=r"secrets.json is damaged"):
        load_settings()


def test_a_folder_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"JIRANI_VAR is .*file/var': Not a directory"):
        load(monkeypatch, JIRANI_VAR=str(tmp_path / "file" / "var"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CONNECTOR_PORT", "0", "CONNECTOR_PORT is '0': write a whole number, 1 to 65535"),
        ("CONNECTOR_PORT", "x", "CONNECTOR_PORT is 'x': write a whole number, 1 to 65535"),
        ("LEDGER_GRACE_S", "0", "LEDGER_GRACE_S is '0': write a whole number, 1 to 86400 s"),
        ("ROUTE_TO_SENDER", "1", "ROUTE_TO_SENDER is '1': write true or false"),
        ("USE_TIGERBEETLE", "True", "USE_TIGERBEETLE is 'True': write true or false"),
        ("ILP_ADDRESS", "g", "ILP_ADDRESS is 'g': write an ILP address"),
        ("ILP_ADDRESS", "g.a..b", "ILP_ADDRESS is 'g.a..b': write an ILP address"),
        ("OPERATOR_TENANT_ID", "me", "OPERATOR_TENANT_ID is 'me': write a UUID"),
        ("JIRANI_ENV", "prod", "JIRANI_ENV is 'prod': must be 'development' or 'production'"),
        ("LOG_LEVEL", "loud", "LOG_LEVEL is 'loud': must be 'trace', 'debug'"),
        ("TIGERBEETLE_REPLICA_ADDRESSES", "a:b", "TIGERBEETLE_REPLICA_ADDRESSES is 'a:b': write"),
        ("TIGERBEETLE_CLUSTER_ID", "-1", "TIGERBEETLE_CLUSTER_ID is '-1': must be"),
        ("EXCHANGE_RATES", "[]", r"EXCHANGE_RATES is '\[\]': write JSON such as"),
        ("EXCHANGE_RATES", '{"USD": {"EUR": 0}}', "EXCHANGE_RATES is '.*every rate above 0"),
        ("EXCHANGE_RATES", '{"USD": {"EUR": "NaN"}}', "EXCHANGE_RATES is '.*every rate above 0"),
        ("EXCHANGE_RATES_URL", "ftp://x", "EXCHANGE_RATES_URL is 'ftp://x': write a URL"),
        ("DATABASE_URL", "mysql://u:hidden@h/d", "^DATABASE_URL: write a URL beginning with"),
        ("REDIS_URL", "http://:hidden@h", "^REDIS_URL: write a URL beginning with redis://"),
        ("STREAM_SECRET", "hidden", "^STREAM_SECRET: write 32 random bytes as base64"),
        ("DB_ENCRYPTION_SECRET", "QUFB" * 10 + "QUFBQUE=", "^DB_ENCRYPTION_SECRET: write 32"),
        (
            "DB_ENCRYPTION_SECRET",
            base64.b64encode(b"ab" * 16).decode(),
            "^DB_ENCRYPTION_SECRET: is too weak",
        ),
        ("METRICS_PORT", "3002", "CONNECTOR_PORT is 3002: METRICS_PORT has the same port"),
        ("ENV_FILE", "absent", "ENV_FILE is 'absent': there is no such file"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(monkeypatch, **{name: value})
    assert "\n" not in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_every_wrong_setting_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError) as caught:
        load(monkeypatch, CONNECTOR_PORT="x", METRICS_PORT="y")
    assert [line.split()[0] for line in str(caught.value).splitlines()] == [
        "CONNECTOR_PORT",
        "METRICS_PORT",
    ]


def test_empty_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, DATABASE_URL="", CONNECTOR_PORT="", ROUTE_TO_SENDER="")
    assert settings.database_url is None
    assert settings.connector_port == 3002
    assert settings.route_to_sender is False


def test_lists_are_comma_separated_and_trimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, TIGERBEETLE_REPLICA_ADDRESSES=" 3001, host:3002 ,")
    assert settings.tigerbeetle_replica_addresses == ("3001", "host:3002")
    assert settings.use_tigerbeetle is True


def test_tigerbeetle_is_used_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, USE_TIGERBEETLE="true").tigerbeetle_replica_addresses == ("3004",)


def test_tigerbeetle_is_left_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, USE_TIGERBEETLE="false", TIGERBEETLE_REPLICA_ADDRESSES="3001")
    assert settings.use_tigerbeetle is False


def test_rates_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(
        monkeypatch, EXCHANGE_RATES='{"USD": {"EUR": 0.1, "KES": "129.15", "JPY": 150}}'
    )
    assert settings.exchange_rates == {
        "USD": {"EUR": Decimal("0.1"), "KES": Decimal("129.15"), "JPY": Decimal(150)}
    }
    assert not settings.embedded_rates


def test_the_file_is_read_below_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("CONNECTOR_PORT=4001\nMETRICS_PORT=4002\nSOMETHING=else\n")
    settings = load(monkeypatch, METRICS_PORT="4003")
    assert (settings.connector_port, settings.metrics_port) == (4001, 4003)
    (tmp_path / "other").write_text("CONNECTOR_PORT=4004\n")
    assert load(monkeypatch, ENV_FILE="other").connector_port == 4004


def test_production_has_no_default_for_what_matters(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(monkeypatch, JIRANI_ENV="production")
    missing = [line.split()[0] for line in str(caught.value).splitlines()]
    assert missing == ["ILP_ADDRESS", "OPERATOR_TENANT_ID", "STREAM_SECRET", "DB_ENCRYPTION_SECRET"]
    assert not (tmp_path / "var").exists()


def test_production_with_all_of_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, **PRODUCTION)
    assert settings.production
    assert not settings.embedded_rates
    assert load(monkeypatch, EXCHANGE_RATES_FILE="rates.json").embedded_rates


def test_what_is_loaded_can_be_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = load(
        monkeypatch,
        EXCHANGE_RATES='{"USD": {"EUR": 0.1}}',
        TIGERBEETLE_REPLICA_ADDRESSES="3001,3002",
        ROUTE_TO_SENDER="true",
    )
    # A file that comes later must not get in between.
    (tmp_path / ".env").write_text("DATABASE_URL=postgresql://elsewhere/x\n")
    for name, value in settings.to_environment().items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings


def test_sockets_have_short_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder in (tmp_path / "var", tmp_path / ("x" * 200) / "var"):
        settings = load(monkeypatch, JIRANI_VAR=str(folder))
        for name in ("postgres/.s.PGSQL.5432", "worker-63.sock", "redis.sock"):
            assert len(str(settings.run_dir / name)) <= SOCKET_PATH_BYTES_MAX
        assert settings.run_dir == load_settings().run_dir


def test_urls_of_embedded_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, JIRANI_VAR="/a b/var")
    assert settings.postgres_url() == "postgresql://jirani@/jirani?host=/a%20b/var/run/postgres"
    assert settings.redis_address() == "unix:///a%20b/var/run/redis.sock"


def test_secrets_are_masked() -> None:
    assert mask("stream_secret", SECRET) == "********"
    assert mask("stream_secret", None) == ""
    assert mask("connector_port", 3002) == "3002"
    assert mask("database_url", "postgresql://u:p@h/d") == "postgresql://u:********@h/d"
    assert mask_url("postgresql://u:p@ss@h/d") == "postgresql://u:********@h/d"
    assert mask_url("redis://:p@h") == "redis://:********@h"
    assert mask_url("postgresql://h/d?user=u&password=p") == (
        "postgresql://h/d?user=u&password=********"
    )
    assert mask_url("postgresql://u@h/d") == "postgresql://u@h/d"


def test_every_variable_is_described() -> None:
    rows = {name: (default, meaning) for name, default, meaning in describe()}
    assert set(rows) == {name.upper() for name in Settings.model_fields} | {"ENV_FILE"}
    assert all(len(meaning) > 10 for _, meaning in rows.values())
    assert rows["LEDGER_GRACE_S"][0] == "300"
    assert rows["LEDGER_GRACE_S"][1].endswith("(1 to 86400 s)")
    assert json.dumps(rows)


@pytest.mark.parametrize(
    ("host", "answer"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)],
)
def test_loopback(host: str, answer: bool) -> None:
    assert is_loopback(host) is answer


@pytest.mark.parametrize(("slack", "margin"), [("501", "1000"), ("1", "500"), ("9500", "9999")])
def test_a_fulfil_that_could_not_be_passed_back_in_time_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, slack: str, margin: str
) -> None:
    monkeypatch.setenv("LATE_FULFIL_SLACK_MS", slack)
    monkeypatch.setenv("ILP_EXPIRY_MARGIN_MS", margin)
    with pytest.raises(ConfigError, match=f"LATE_FULFIL_SLACK_MS is {slack}: .*{margin}"):
        load_settings()


@pytest.mark.parametrize(("slack", "margin"), [("500", "1000"), ("0", "100"), ("9500", "10000")])
def test_slack_within_the_margin(monkeypatch: pytest.MonkeyPatch, slack: str, margin: str) -> None:
    monkeypatch.setenv("LATE_FULFIL_SLACK_MS", slack)
    monkeypatch.setenv("ILP_EXPIRY_MARGIN_MS", margin)
    assert load_settings().late_fulfil_slack_ms == int(slack)
