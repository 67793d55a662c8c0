"""The option --gate, and what commands that have it say of it."""

from typing import TYPE_CHECKING, NoReturn

import click

from cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from cli.console import Console
    from pipeline.gate import Gate
    from pipeline.quality import Quality

gate_option = click.option(
    "--gate",
    multiple=True,
    metavar="COND",
    help="Such as precision>=0.9 (of every class with enough evidence), precision[pole]>=0.8, precision_low>=0.85 (the "
    "lower end of its interval) or coverage>=0.5: exit 4 where it is not met. May be given repeatedly.",
)


def judge_by_gate(gate: "Gate", quality: "Quality", console: "Console") -> str | None:
    """Say that a gate is met, if there is one.

    Returns:
        Why it is not; None where it is, or where there is none.

    Raises:
        SettingsError: it is on a class that there is not.
    """
    from storage.errors import GateError

    if not gate.conditions:
        return None
    try:
        not_known = gate.check(quality)
    except GateError as error:
        return str(error)
    console.say(f"the gate {gate} is met")
    if not_known:
        console.warn(not_known)
    return None


def stop_at_gate(failure: str, next_step: str) -> NoReturn:
    """End a command whose gate is not met; its result has been told by now.

    Args:
        failure: why, as `judge_by_gate` gives it.
        next_step: what can be done.
    """
    click.echo(f"{failure}\n{next_step}", err=True)
    raise SystemExit(ExitCode.BUDGET_OR_GATE)
