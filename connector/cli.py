"""The command line: ``jirani``, or ``python -m connector``."""

import runpy
import sys

import click

from connector import __version__
from connector.accounts.cli import commands
from connector.errors import ConnectorError


class Group(click.Group):
    """Ends with one line and status 1 for what an operator can mend."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except ConnectorError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="jirani")
def main() -> None:
    """Jirani, an Interledger node.

    Settings come from the environment and from the file that ENV_FILE names (default .env);
    "jirani config --help" lists them.
    """


for command in commands:
    main.add_command(command)


@main.command()
def run() -> None:
    """Run a whole node: stores, rates and connector workers.

    Postgres and Redis are embedded, with their data under JIRANI_VAR, unless DATABASE_URL and
    REDIS_URL name others. Ctrl-C drains and stops; a second one forces.
    """
    import uvloop

    from connector.logging import configure
    from connector.settings import load_settings
    from connector.supervisor import Supervisor

    settings = load_settings()
    configure(settings, "supervisor")

    async def supervise() -> int:
        return await Supervisor(settings, click.echo).run()

    sys.exit(uvloop.run(supervise()))


@main.command()
def worker() -> None:
    """Run one connector worker alone.

    For those who scale processes by other means than "jirani run": Postgres and Redis must be
    reachable, and the schema applied by one "jirani run" before.
    """
    runpy.run_module("connector.node", run_name="__main__", alter_sys=True)


class ConfigCommand(click.Command):
    """Lists all variables in its help."""

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        from connector.settings import describe

        with formatter.section("Variables"):
            formatter.write_dl(
                [
                    (name, f"{meaning} [{default}]" if default else meaning)
                    for name, default, meaning in describe()
                ],
                col_max=32,
            )


@main.command(cls=ConfigCommand)
@click.option("--markdown", is_flag=True, help="Write the table of all variables instead.")
def config(markdown: bool) -> None:
    """Print the settings in effect, secrets masked."""
    from connector.settings import Settings, describe, load_settings, mask

    if markdown:
        click.echo(settings_table(describe()))
        return
    settings = load_settings(generate=False)
    for name in Settings.model_fields:
        click.echo(f"{name.upper()}={mask(name, getattr(settings, name))}")


def settings_table(rows: list[tuple[str, str, str]]) -> str:
    """Write all variables as the table that the README has."""
    lines = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for name, default, meaning in rows:
        shown = f"`{default}`" if default else ""
        lines.append(f"| `{name}` | {shown} | {meaning.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)
