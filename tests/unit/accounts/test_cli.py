"""The operator's commands, on a real database and the Postgres ledger."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner

from connector.accounts.cli import commands
from connector.cli import main

ENDPOINT = "http://127.0.0.1:4002"
TOKEN = "the-token-that-bob-uses"


class Cli:
    """Runs commands against one database."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self._environment = {
            "DATABASE_URL": database_url,
            "JIRANI_VAR": str(folder),
            "ENV_FILE": "/dev/null",
            "USE_TIGERBEETLE": "false",
        }

    def run(self, *arguments: str) -> str:
        result = CliRunner().invoke(main, arguments, env=self._environment)
        assert result.exit_code == 0, result.output
        return result.output

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json"))

    def refused(self, *arguments: str) -> str:
        result = CliRunner().invoke(main, arguments, env=self._environment)
        assert result.exit_code == 1, result.output
        assert result.output.startswith("Error: ")
        assert result.output.count("\n") == 1
        return result.output


@pytest.fixture
def cli(database_url: str, tmp_path: Path) -> Cli:
    return Cli(database_url, tmp_path)


def add_bob(cli: Cli) -> Any:
    cli.run("asset", "add", "USD", "2")
    return cli.json(
        *("peer", "add", "--asset", "USD", "--address", "test.bob", "--endpoint", ENDPOINT),
        *("--outgoing-token", "x", "--incoming-token", TOKEN),
    )


def test_the_first_steps_of_an_operator(cli: Cli) -> None:
    assert "asset USD/2" in cli.run("asset", "add", "USD", "2")
    added = cli.run(
        *("peer", "add", "--asset", "USD", "--address", "test.bob"),
        *("--endpoint", ENDPOINT, "--outgoing-token", "x", "--route", "test.far"),
    )
    assert "not shown again: " in added
    assert "1000000 (10000.00 USD) added to peer bob" in cli.run(
        "liquidity", "add", "peer", "bob", "1000000"
    )
    cli.run("liquidity", "remove", "peer", "test.bob", "1")
    cli.run("liquidity", "add", "asset", "USD/2", "5")
    balances = {row["kind"]: row["balance"] for row in cli.json("balance")}
    assert balances == {"asset": 5, "settlement": 1_000_004, "peer": 999_999}
    shown = cli.run("balance", "bob")
    assert "9999.99 USD" in shown
    assert "999999" in shown
    assert cli.run("liquidity", "list").count("USD/2") == 2
    assert ENDPOINT in cli.run("peer", "list")
    assert "test.far" in cli.run("route", "list")
    assert "USD/2" in cli.run("asset", "list")


def test_a_peer_is_changed_option_by_option(cli: Cli) -> None:
    added = add_bob(cli)
    assert "incoming_token" not in added
    cli.run(
        *("peer", "update", "bob", "--packets-per-second", "100", "--max-packet-amount", "7"),
        *("--amount-per-second", "50", "--amount-burst", "60", "--liquidity-threshold", "9"),
    )
    cli.run("peer", "update", "bob", "--packets-burst", "300", "--name", "none")
    peer = cli.json("peer", "show", "test.bob")
    assert peer["packet_limit"] == {"per_second": 100, "burst": 300}
    assert peer["amount_limit"] == {"per_second": 50, "burst": 60}
    assert (peer["max_packet_amount"], peer["name"]) == (7, "none")
    assert peer["outgoing_endpoint"] == ENDPOINT
    assert "100 a second, burst 300" in cli.run("peer", "show", "none")
    cli.run(
        *("peer", "update", peer["id"], "--packets-per-second", "none", "--endpoint", "none"),
        *("--max-packet-amount", "none", "--liquidity-threshold", "none"),
    )
    peer = cli.json("peer", "show", peer["id"])
    assert peer["packet_limit"] is peer["outgoing_endpoint"] is peer["liquidity_threshold"] is None
    assert peer["max_packet_amount"] == 0
    assert "--packets-burst needs --packets-per-second" in cli.refused(
        "peer", "update", peer["id"], "--packets-burst", "1"
    )


def test_tokens_are_rotated_and_read_from_files(cli: Cli, tmp_path: Path) -> None:
    add_bob(cli)
    path = tmp_path / "token"
    path.write_text("one-more-token-of-bob\n")
    cli.run("token", "add", "bob", "--token", f"@{path}")
    made = cli.json("token", "add", "bob")
    assert len(made["token"]) >= 43
    tokens = cli.json("token", "list", "bob")
    assert len(tokens) == 3
    assert TOKEN not in cli.run("token", "list", "bob")
    for token in tokens:
        cli.run("token", "remove", token["id"])
    assert cli.json("token", "list", "bob") == []
    assert "there is no incoming token" in cli.refused("token", "remove", tokens[0]["id"])
    missing = CliRunner().invoke(main, ["token", "add", "bob", "--token", "@/nowhere"])
    assert missing.exit_code == 2


def test_routes(cli: Cli) -> None:
    add_bob(cli)
    cli.run("route", "add", "bob", "test.a", "")
    assert [row["prefix"] for row in cli.json("route", "list", "bob")] == [
        "",
        "test.a",
        "test.bob",
    ]
    cli.run("route", "remove", "bob", "")
    assert "no extra route" in cli.refused("route", "remove", "bob", "")
    assert "not a prefix" in cli.refused("route", "add", "bob", "peer.x")


def test_a_repeated_transfer_moves_nothing(cli: Cli) -> None:
    add_bob(cli)
    transfer_id = str(uuid4())
    for _ in range(2):
        cli.run("liquidity", "add", "peer", "bob", "10", "--id", transfer_id)
    assert "another transfer" in cli.refused(
        "liquidity", "add", "peer", "bob", "11", "--id", transfer_id
    )
    [bob] = cli.json("balance", "bob")
    assert bob["balance"] == 10
    assert "only 10 (0.10 USD) is available" in cli.refused(
        "liquidity", "remove", "peer", "bob", "11"
    )


def test_removing(cli: Cli) -> None:
    peer = add_bob(cli)
    cli.run("liquidity", "add", "peer", "bob", "10")
    assert "withdraw it first" in cli.refused("peer", "remove", "bob")
    cli.run("peer", "remove", "bob", "--force")
    assert "there is no peer 'bob'" in cli.refused("peer", "show", "bob")
    assert cli.json("peer", "list") == []
    cli.run("liquidity", "remove", "peer", peer["id"], "10")
    cli.run("asset", "remove", "USD")
    assert cli.json("asset", "list") == cli.json("balance") == []


def test_what_a_name_can_mean(cli: Cli) -> None:
    peer = add_bob(cli)
    cli.run("asset", "add", "USD", "9")
    refusal = cli.refused("peer", "add", "--asset", "USD", "--address", "test.x")
    assert "USD/2, USD/9" in refusal
    cli.run("peer", "add", "--asset", "USD/9", "--address", "test.bob")
    assert "can mean 2 peers" in cli.refused("peer", "show", "bob")
    assert cli.json("peer", "show", peer["id"])["asset"]["scale"] == 2
    assert "there is no account 'eve'" in cli.refused("balance", "eve")


def test_thresholds(cli: Cli) -> None:
    cli.run("asset", "add", "USD", "2", "--liquidity-threshold", "100")
    assert "1.00 USD" in cli.run("asset", "list")
    cli.run("asset", "update", "USD", "--withdrawal-threshold", "5")
    cli.run("asset", "update", "USD", "--liquidity-threshold", "none")
    asset = cli.json("asset", "show", "USD")
    assert (asset["liquidity_threshold"], asset["withdrawal_threshold"]) == (None, 5)
    assert "withdrawal threshold" in cli.run("asset", "show", "USD")


@pytest.mark.parametrize(
    "arguments",
    [
        ("asset", "add", "USD", "256"),
        ("asset", "add", "USD", "2", "--id", "11111111-1111-1111-8111-111111111111"),
        ("liquidity", "add", "peer", "bob", "1.5"),
        ("liquidity", "add", "peer", "bob", "18446744073709551616"),
        ("liquidity", "add", "wallet", "bob", "1"),
    ],
)
def test_mistakes_in_the_command_line(cli: Cli, arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.output


def test_a_database_out_of_reach_is_one_line(tmp_path: Path) -> None:
    cli = Cli("postgresql://127.0.0.1:1/none", tmp_path)
    assert "DATABASE_URL" in cli.refused("asset", "list")


def test_every_level_has_help() -> None:
    for command in commands:
        subcommands = getattr(command, "commands", {None: command})
        for name in [None, *subcommands]:
            arguments = [str(command.name), *([name] if name else []), "--help"]
            result = CliRunner().invoke(main, arguments)
            assert result.exit_code == 0
            assert result.output.startswith("Usage: ")
