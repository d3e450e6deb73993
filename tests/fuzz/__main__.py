"""Fuzz everything that reads what others wrote: `python -m tests.fuzz --cases 2000 [--target NAME] [--seed S]`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from tests.fuzz.watch import Work, fuzz, run_child


def main() -> int:
    """Run the cases and print a row a target; the exit code is 1 where a case broke the promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "--cases", type=int, default=1000, help="changed ones, of a target with share 1. Default: 1000."
    )
    parser.add_argument("--first", type=int, default=0, help="number of the first case. Default: 0.")
    parser.add_argument("--target", action="append", help="name of a target; all where not given")
    parser.add_argument("--seed", type=int, default=0, help="of the changes. Default: 0.")
    parser.add_argument("--seconds", type=float, help="after which a target ends; unbounded where not given")
    parser.add_argument("--short", action="store_true", help="leave out the largest files that may just be read")
    parser.add_argument("--keep", type=Path, help="folder for the files that broke the promise")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        from tests.fuzz.targets import TARGETS

        told = json.loads(given.child)
        run_child(TARGETS, Work(**told["work"]), place=Path(told["place"]), start=tuple(told["start"]), keep=given.keep)
        return 0
    from tests.fuzz.names import NAMES

    if given.keep:
        given.keep.mkdir(parents=True, exist_ok=True)
        given.keep = given.keep.resolve()
    began = time.time()
    work = Work(
        given.target or NAMES,
        cases=given.cases,
        seed=given.seed,
        first=given.first,
        seconds=given.seconds,
        short=given.short,
    )
    outcomes = fuzz(work, keep=given.keep)
    print(
        f"{'target':<18} {'cases':>7} {'taken':>7} {'refused':>7} {'seconds':>8} {'slowest s':>9} {'peak MB':>8} {'failed':>6}"
    )
    for name, each in outcomes.items():
        numbers = f"{each.cases:>7} {each.taken:>7} {each.refused:>7} {each.seconds:>8.1f} {each.slowest:>9.2f}"
        print(f"{name:<18} {numbers} {each.peak / 1e6:>8.0f} {len(each.failures):>6}")
    for name, each in outcomes.items():
        seen: dict[str, int] = {}
        for number, what in each.failures:
            seen.setdefault(what.partition(": ")[0], number)
            if list(seen.values())[-1] == number:
                print(f"{name} {number}: {what}")
    total = sum(each.cases for each in outcomes.values())
    print(
        f"{total} cases in {time.time() - began:.0f} s, {sum(len(each.failures) for each in outcomes.values())} failed"
    )
    return 1 if any(each.failures for each in outcomes.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
