"""How often an estimate's interval holds the truth: samples drawn again and again from the labels of a finished run.

    python benchmarks/estimate_interval.py RUN [--sample 20] [--draws 100]

The ledger tells every label's bytes, so the true total is known. Nothing was tuned on a run that is given here: the
estimator was chosen on generated sets (tests/pipeline/test_stratified.py).
"""

import argparse
import statistics
from pathlib import Path

from pipeline.stratified import draw, estimate_total
from storage.ledger import Ledger
from storage.workspace import Workspace


def main() -> None:
    """Read the command line, and print how the draws came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--sample", type=int, default=20)
    parser.add_argument("--draws", type=int, default=100)
    arguments = parser.parse_args()
    with Ledger(Workspace(arguments.run).ledger, read_only=True) as ledger:
        entries = [entry for entry in ledger if entry.status == "done"]
    entries.sort(key=lambda entry: ((entry.height, entry.width), entry.key))
    sizes = [entry.bytes for entry in entries]
    truth = sum(sizes)
    held, errors, widths = 0, [], []
    for seed in range(arguments.draws):
        strata = draw(len(sizes), arguments.sample, seed)
        found = estimate_total([one.size for one in strata], [[sizes[i] for i in one.drawn] for one in strata])
        held += found.low <= truth <= found.high
        errors.append(abs(found.total / truth - 1))
        widths.append((found.high - found.low) / 2 / truth)
    print(f"{len(sizes)} labels, {truth} bytes, mean {truth / len(sizes):.0f}, deviation {statistics.stdev(sizes):.0f}")
    print(
        f"{arguments.draws} samples of {arguments.sample}: {held} intervals hold the total; the centre is off by "
        f"{statistics.median(errors):.1%} (median), {max(errors):.1%} at most; half an interval is "
        f"{statistics.median(widths):.1%} (median)"
    )


if __name__ == "__main__":
    main()
