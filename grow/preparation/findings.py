"""What preparation found in texts that are not as they should be: refused at once, or counted and left out."""

from dataclasses import dataclass, field
from typing import Any

from grow.common.errors import DataError

PLACES = 100  # listed in report.json
REFUSED = ("bad_line", "bad_utf8", "damaged_file")
COUNTED = ("empty", "mended", "cut")


@dataclass(kw_only=True, slots=True)
class Findings:
    """Counts by kind, and the first places."""

    skip: bool = False
    """Whether what is bad is counted and left out; otherwise the first is an error."""
    max_bad: int | None = None
    """Largest number that is left out; None for any."""
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*REFUSED, *COUNTED), 0))
    places: list[list[str]] = field(default_factory=list)
    """Kind, place and what was found."""

    def refuse(self, kind: str, place: str, found: str, advice: str) -> None:
        """Raise an error, or count what was found and let the caller leave it out.

        Raises:
            DataError: bad input is refused, or there is more of it than max_bad.
        """
        if not self.skip:
            raise DataError(f"{place}: {found} {advice}")
        self.note(kind, place, found)
        self.check()

    def note(self, kind: str, place: str, found: str = "") -> None:
        """Count what is no error."""
        self.counts[kind] += 1
        if len(self.places) < PLACES:
            self.places.append([kind, place, found])

    def add(self, other: dict[str, Any]) -> None:
        """Add what another task found, as `record` gave it."""
        for kind, count in other["counts"].items():
            self.counts[kind] += count
        self.places = [*self.places, *other["places"]][:PLACES]

    def record(self) -> dict[str, Any]:
        """Return counts and places, for JSON."""
        return {"counts": self.counts, "places": self.places}

    def check(self) -> None:
        """Refuse more bad input than max_bad.

        Raises:
            DataError: there is more.
        """
        bad = sum(self.counts[kind] for kind in REFUSED)
        if self.max_bad is not None and bad > self.max_bad:
            counts = ", ".join(f"{kind} {self.counts[kind]:,}" for kind in REFUSED if self.counts[kind])
            raise DataError(
                f"expected at most max_bad={self.max_bad:,} bad lines and files, found {bad:,} ({counts}), the last at "
                f"{self.places[-1][1]}. Mend the input, or set a larger max_bad; finished tasks are kept."
            )
