"""The frame of the command line: help at every level, settings shown, errors in one line."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from connector import __version__
from connector.cli import main, settings_table
from connector.settings import Settings, describe

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("JIRANI_VAR", str(tmp_path / "var"))
    monkeypatch.chdir(tmp_path)


def all_commands(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The words of every command, groups included."""
    found = [path]
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            found += all_commands(child, (*path, name))
    return found


@pytest.mark.parametrize("words", all_commands(main), ids=" ".join)
def test_every_command_has_help(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*words, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")
    # A usage line alone explains nothing.
    assert len(result.output.splitlines()) > 4


def test_version() -> None:
    assert CliRunner().invoke(main, ["--version"]).output == f"jirani, version {__version__}\n"


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "connector", "--help"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=README.parent)
    assert answer.stdout.startswith("Usage: jirani ")


def test_config_shows_what_is_in_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONNECTOR_PORT", "4444")
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:hidden@host/db")
    result = CliRunner().invoke(main, ["config"])
    assert result.exit_code == 0
    values = dict(line.split("=", 1) for line in result.output.splitlines())
    assert values["CONNECTOR_PORT"] == "4444"
    assert values["DATABASE_URL"] == "postgresql://me:********@host/db"
    assert values["LEDGER_GRACE_S"] == "300"
    assert values["STREAM_SECRET"] == ""


def test_config_shows_no_secret() -> None:
    from connector.settings import load_settings

    settings = load_settings()
    output = CliRunner().invoke(main, ["config"]).output
    assert "STREAM_SECRET=********" in output
    assert settings.stream_secret not in output.split("=")


def test_config_lists_every_variable() -> None:
    output = CliRunner().invoke(main, ["config", "--help"]).output
    assert all(f"\n  {name}" in output for name, _, _ in describe())


@pytest.mark.parametrize("words", [["config"], ["run"], ["asset", "list"]])
def test_a_wrong_setting_is_one_line_and_status_1(
    monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setenv("CONNECTOR_PORT", "x")
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert result.output == "Error: CONNECTOR_PORT is 'x': write a whole number, 1 to 65535\n"


def test_a_command_without_a_node_says_what_to_do() -> None:
    result = CliRunner().invoke(main, ["asset", "list"])
    assert result.exit_code == 1
    assert result.output == (
        "Error: DATABASE_URL is not set, and the embedded Postgres does not answer: "
        "start the node first with make run\n"
    )


def test_the_readme_lists_every_variable_as_it_is() -> None:
    table = CliRunner().invoke(main, ["config", "--markdown"]).output
    assert table == settings_table(describe()) + "\n"
    assert table in README.read_text(), "paste what `jirani config --markdown` writes"
