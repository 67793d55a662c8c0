"""The command `autocoarse`: collects its subcommands and turns errors into messages and exit codes."""

import click

from cli.exit_codes import ExitCode
from storage.errors import AutocoarseError, ForeignSettingsError, MissingFileError, SchemaError, SettingsError

_USAGE_ERRORS = (SettingsError, MissingFileError, SchemaError, ForeignSettingsError)


class Commands(click.Group):
    """A group whose expected errors are a message and an exit code."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a subcommand; expected errors become a message and an exit code, never a traceback."""
        try:
            return super().invoke(ctx)
        except AutocoarseError as error:
            click.echo(f"autocoarse {ctx.invoked_subcommand}: {error}", err=True)
            ctx.exit(ExitCode.USAGE if isinstance(error, _USAGE_ERRORS) else ExitCode.FAILED)
        except KeyboardInterrupt:
            click.echo(f"\nautocoarse {ctx.invoked_subcommand}: stopped; run the same command again to go on", err=True)
            ctx.exit(ExitCode.INTERRUPTED)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="autocoarse")
def main() -> None:
    """Turn images into segmentation labels you can trust and afford, and train a better student with them.

    Exit codes: 0 done, 1 failed, 2 usage, 3 finished but some items failed, 4 a budget is not met.
    """


def _register() -> None:
    from cli.budget import budget
    from cli.demo import demo
    from cli.estimate import estimate
    from cli.evaluate import evaluate
    from cli.label import label
    from cli.train import train

    for command in (label, estimate, budget, train, evaluate, demo):
        main.add_command(command)


_register()
