"""Bytes of a run's budget that are granted to workers: before a shard is sent, and given back with what it took.

Without a budget nothing is refused, and nothing is measured.
"""

from collections.abc import Callable

from storage.account import LEDGER_ROW, ByteAccount

_FIRST_BYTES = 1_000_000
"""Granted for an item before it is known what one takes."""


class ByteGrants:
    """The budget, as far as workers spend it.

    Args:
        account: of the run's bytes.
        measure: measures the run's bytes, where deaths have left unknown what was written.
    """

    def __init__(self, account: ByteAccount, measure: Callable[[], int]) -> None:
        self._account, self._measure = account, measure
        self._entries = self._bytes = 0
        self._unsure = False
        self.is_tight = False
        """Whether a shard did not do with its grant: from then on one at a time has all that is left."""

    @property
    def is_limited(self) -> bool:
        """Whether there is a budget."""
        return self._account.limit is not None

    @property
    def room(self) -> int | None:
        """Bytes that are left; None: nobody limits them."""
        return self._account.room

    def next_for(self, items: int, *, others: bool) -> int | None:
        """Bytes for the next shard.

        Args:
            items: that it is about to have.
            others: whether others have grants.

        Returns:
            The bytes, 0 where nobody limits them; None: there are none while others have theirs.
        """
        room = self.room
        if room is None:
            return 0
        if self.is_tight or not room:
            if others:
                return None
            if self._unsure:  # what the dead have written is only known by looking
                self._account.recount(self._measure())
                self._unsure = False
            return self.room
        each = _FIRST_BYTES if not self._entries else 3 * self._bytes / self._entries
        return min(room // 2, round(each * items))

    def give(self, grant: int) -> None:
        """Grant bytes; raises BudgetError where there are none."""
        self._account.grant(grant)

    def take_back(self, grant: int) -> None:
        """End a grant."""
        self._account.take_back(grant)

    def spent(self, labels: int, used: int) -> None:
        """Count what a shard has written: its labels, and all its bytes, their ledger entries included."""
        self._account.take_back(0, used - labels * LEDGER_ROW, rows=labels)
        self._entries, self._bytes = self._entries + labels, self._bytes + used

    def lose_count(self) -> None:
        """What was written is not known: somebody died, or nobody has heard what became of a shard."""
        self._unsure = True
