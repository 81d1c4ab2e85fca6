"""Whether a new detector may take the place of the one in use.

Two demands, on the same images. Over all classes the newcomer must not be worse
by more than a margin, at the lower end of the paired interval: images that are
too few to tell are a refusal, not a pass. In no class may it be clearly worse:
the interval of the class lies below zero. With K classes looked at, one of them
would by chance alone; so the interval of a class leaves out 5 %/K (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from composition.evaluation import Difference

LEVEL = 0.95
MARGIN = 2.0
"""Points of AP that are let go without being noticed."""
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer and its reasons.

    Attributes:
        allowed: Whether nothing speaks against it.
        reasons: What speaks against it, a sentence each.
        better: Classes in which the newcomer is clearly better.
        worse: Classes in which it is clearly worse.
    """

    allowed: bool
    reasons: tuple[str, ...]
    better: tuple[str, ...]
    worse: tuple[str, ...]


def class_level(classes: int) -> float:
    """Level of the interval of one class among so many."""
    return 1 - (1 - LEVEL) / max(classes, 1)


def draws_needed(classes: int) -> int:
    """Bootstrap draws that such a level needs: one draw at least lies in each tail."""
    return max(1000, 40 * classes)


def decide(
    overall: Difference, by_class: Difference, missing: Sequence[str] = (), margin: float = MARGIN
) -> Decision:
    """Compares a newcomer with the detector in use.

    Args:
        overall: Newcomer minus the one in use, at `LEVEL`.
        by_class: The same at `class_level`; only its classes are read.
        missing: Classes of the one in use that the newcomer does not know.
        margin: Points of mean AP that may be lost.
    """
    worse = tuple(name for name, change in by_class.per_class.items() if change.high < 0)
    better = tuple(name for name, change in by_class.per_class.items() if change.low > 0)
    reasons = []
    if missing:
        reasons.append(f"it does not know {_listed(missing)}")
    change = overall.AP
    if change is None:
        reasons.append("the images hold no object of a class that both know")
    elif change.low < -margin:
        interval = f"{change.value:+.1f} AP, 95 % interval {change.low:+.1f} to {change.high:+.1f}"
        verb = "it is worse" if change.high < 0 else "it may be worse"
        reasons.append(f"over all classes {verb} by more than {margin:g} points ({interval})")
    if worse:
        details = [f"{name} ({by_class.per_class[name].value:+.1f} AP)" for name in worse]
        reasons.append(f"it is clearly worse in {_listed(details)}")
    return Decision(not reasons, tuple(reasons), better, worse)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
