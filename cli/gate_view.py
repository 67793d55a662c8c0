"""What commands with a --gate say of it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cli.console import Console
    from pipeline.gate import Gate
    from pipeline.quality import Quality


def check_gate(gate: "Gate", quality: "Quality", console: "Console") -> None:
    """Check a gate, if there is one, and say that it is met.

    Raises:
        GateError: it is not met.
        SettingsError: it is on a class that there is not.
    """
    if not gate.conditions:
        return
    not_known = gate.check(quality)
    console.say(f"the gate {gate} is met")
    if not_known:
        console.warn(not_known)
