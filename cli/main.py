"""The command `autocoarse`: collects its subcommands and turns errors into messages and exit codes."""

import contextlib
import errno
import json
import signal
import threading
from collections.abc import Iterator
from typing import NoReturn

import click

from cli.exit_codes import ExitCode
from cli.options import JSON_WANTED
from storage.errors import (
    AutocoarseError,
    BudgetError,
    DiskFullError,
    ForeignSettingsError,
    GateError,
    LeakError,
    MissingFileError,
    SchemaError,
    SettingsError,
)
from storage.out_of_memory import is_out_of_memory

_USAGE_ERRORS = (SettingsError, MissingFileError, SchemaError, ForeignSettingsError, LeakError)

_STARTS_AGAIN = (
    *("estimate", "budget", "status", "verify", "evaluate", "audit", "inspect", "report", "export", "doctor"),
    *("networks", "export-network", "teacher"),
)
"""Commands that keep nothing of what they have done when they are stopped."""

_NOT_MET = (BudgetError, DiskFullError, GateError)


class Commands(click.Group):
    """A group whose expected errors are a message and an exit code."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a subcommand; what the machine or the user can cause becomes a message and an exit code."""
        try:
            with _stopped_in_order():
                return super().invoke(ctx)
        except click.UsageError as error:
            _tell_program(ctx, error.format_message(), ExitCode.USAGE)
            raise
        except AutocoarseError as error:
            _end(ctx, str(error), _exit_code(error))
        except BrokenPipeError:
            raise  # whoever read the output has gone; click ends quietly
        except OSError as error:
            where = "" if error.filename is None else f"{error.filename}: "
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            _end(ctx, f"{where}{error.strerror or error}", ExitCode.BUDGET_OR_GATE if is_full else ExitCode.FAILED)
        except (RuntimeError, MemoryError) as error:
            told = str(error) or "out of memory"
            if is_out_of_memory(error):
                advice = "use smaller batches, images, crops or scales, or another --device"
            elif told.startswith("CUDA error"):
                told = told.partition("\n")[0]  # the rest is for who writes kernels
                advice = "the GPU has failed, or cannot be used: see `autocoarse doctor`, or take another --device"
            else:
                raise
            _end(ctx, f"{told}\n{advice}", ExitCode.FAILED)
        except KeyboardInterrupt:
            click.echo(err=True)  # ends the line in which the terminal shows ^C
            again = "" if ctx.invoked_subcommand in _STARTS_AGAIN else "; run the same command again to go on"
            _end(ctx, f"stopped{again}", ExitCode.INTERRUPTED)


def _exit_code(error: AutocoarseError) -> ExitCode:
    if isinstance(error, _NOT_MET):
        return ExitCode.BUDGET_OR_GATE
    return ExitCode.USAGE if isinstance(error, _USAGE_ERRORS) else ExitCode.FAILED


def _end(ctx: click.Context, message: str, code: ExitCode) -> NoReturn:
    click.echo(f"autocoarse {ctx.invoked_subcommand}: {message}", err=True)
    _tell_program(ctx, message, code)
    ctx.exit(code)


def _tell_program(ctx: click.Context, message: str, code: ExitCode) -> None:
    """Where JSON was asked for, say there too what went wrong."""
    if ctx.meta.get(JSON_WANTED):
        click.echo(json.dumps({"error": message, "exit_code": code}))


@contextlib.contextmanager
def _stopped_in_order() -> Iterator[None]:
    """Make SIGTERM, by which batch systems and containers end a process, stop the work as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return

    def interrupt(number: int, frame: object) -> NoReturn:  # noqa: ARG001 - a signal handler's form
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="autocoarse")
def main() -> None:
    """Turn images into segmentation labels you can trust and afford, and train a better student with them.

    Exit codes: 0 done, 1 failed, 2 usage, 3 finished but some items failed, 4 a budget or a gate is not
    met or the disk is full, 130 interrupted.
    """


def _register() -> None:
    from cli.audit import audit
    from cli.budget import budget
    from cli.calibrate import calibrate
    from cli.compare import compare
    from cli.demo import demo
    from cli.doctor import doctor
    from cli.estimate import estimate
    from cli.evaluate import evaluate
    from cli.export import export
    from cli.export_network import export_network
    from cli.fit_attention import fit_attention
    from cli.gather import gather
    from cli.import_review import import_review
    from cli.inspect_label import inspect_label
    from cli.label import label
    from cli.merge import merge
    from cli.networks import networks
    from cli.report import report
    from cli.rethreshold import rethreshold
    from cli.rounds import rounds
    from cli.run import run
    from cli.status import status
    from cli.teacher import teacher
    from cli.train import train
    from cli.verify import verify

    for command in (
        label,
        gather,
        rethreshold,
        estimate,
        budget,
        status,
        verify,
        inspect_label,
        calibrate,
        fit_attention,
        report,
        merge,
        train,
        evaluate,
        audit,
        export,
        import_review,
        compare,
        rounds,
        run,
        demo,
        doctor,
        networks,
        export_network,
        teacher,
    ):
        main.add_command(command)


_register()
