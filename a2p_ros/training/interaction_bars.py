"""What a repair has to reach, and whether it does: numbers of ``interaction_eval.summary`` beside the bars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Bar:
    """One bar; ``must`` says how ``value`` has to be to ``bar``. A value that is not a number reaches nothing."""

    name: str
    value: float
    must: str
    bar: float

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        reached = {
            "at least": self.value >= self.bar,
            "at most": self.value <= self.bar,
            "below": self.value < self.bar,
        }
        return reached[self.must]


def bars(result: Mapping[str, Any]) -> list[Bar]:
    """All bars for ``after`` against ``before`` and ``gradient_only``."""
    before, after, descent = result["before"], result["after"], result["gradient_only"]
    found = [
        Bar("PenVol, before over after", _over(before, after, "penvol_cm3"), "at least", 7.0),
        Bar("mean PenDist, after over before", _over(after, before, "pendist_mean_mm"), "at most", 0.25),
        Bar("MPJPE [mm]; before", after["mpjpe_mm"], "below", before["mpjpe_mm"]),
        Bar("MRRPE [mm]; before", after["mrrpe_mm"], "below", before["mrrpe_mm"]),
        Bar("MRRPE, right wrists aligned [mm]; before", after["mrrpe_aligned_mm"], "below", before["mrrpe_aligned_mm"]),
        Bar("contact kept, of touching vertices", after["contact_kept"], "at least", 0.9),
        Bar("contact kept, of touching hands", after["contact_hands_kept"], "at least", 0.9),
        Bar("reprojection [px]; before", after["reprojection_px"], "at most", before["reprojection_px"]),
        Bar(
            "reprojection, both fitted to the image [px]; before",
            after["reprojection_fitted_px"],
            "at most",
            before["reprojection_fitted_px"],
        ),
        Bar("MPJPE [mm]; descent alone", after["mpjpe_mm"], "below", descent["mpjpe_mm"]),
        Bar("PenVol [cm^3]; descent alone", after["penvol_cm3"], "at most", descent["penvol_cm3"]),
    ]
    if "clean_change_mm" in result:
        found.append(Bar("change of clean pairs [mm]", result["clean_change_mm"], "at most", 1.0))
    if "jitter_ratio" in result:
        found.append(Bar("largest step under jitter, after over before", result["jitter_ratio"], "at most", 1.5))
    return found


def _over(one: Mapping[str, float], other: Mapping[str, float], metric: str) -> float:
    """Ratio of means; infinite over nothing."""
    if other[metric] == 0:
        return float("inf") if one[metric] > 0 else float("nan")
    return one[metric] / other[metric]
