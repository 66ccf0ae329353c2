"""What a run counts, for its summary; and the secrets it uses, which no log may show."""

from __future__ import annotations

import secrets
from collections import Counter
from dataclasses import dataclass, field

MARK = "psst"
"""Begins every session id, key and token of a run: where it is found, a secret was told."""


def new_secret() -> str:
    return f"{MARK}{secrets.token_hex(12)}"


@dataclass
class Tally:
    """Counts; `violations` holds a sentence for each promise that was broken."""

    statuses: Counter[int] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    lost: int = 0
    longest: float = 0.0
    recoveries: list[float] = field(default_factory=list)
    measured: dict[str, str] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def fault(self, kind: str, times: int = 1) -> None:
        self.faults[kind] += times

    def lines(self) -> list[str]:
        back = sorted(self.recoveries)
        return [
            f"requests    {sum(self.statuses.values())} answered: "
            + ", ".join(f"{status} x {n}" for status, n in sorted(self.statuses.items())),
            f"lost        {self.lost} connections, where a service process was killed",
            f"faults      {sum(self.faults.values())}: "
            + ", ".join(f"{n} x {kind}" for kind, n in sorted(self.faults.items())),
            f"longest     {self.longest:.2f} s for an answer",
            f"recovery    {len(back)} times, within "
            + (
                f"{back[len(back) // 2]:.2f} s (median), {back[-1]:.2f} s (longest)"
                if back
                else "-"
            ),
            *(f"{name:<11} {text}" for name, text in self.measured.items()),
            f"log         {len(self.log)} lines",
            f"violations  {len(self.violations)}",
        ]


TALLY = Tally()
"""Of the whole run. A test that takes a guard out has a tally of its own."""
