"""How two hands meet: for each kind of interaction the hands' shapes, their relative placement and the touching sites.

Directions are given in the right hand's axes (fingers, palm, thumb): towards the fingertips, out of the palm, to the
thumb side. ``fingers`` and ``palm`` say where the left hand's own point. Sites are those of ``contact_sites``; several
joined by ``+`` stand for their mean. Each kind is also made with the two hands' roles exchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

_Direction = tuple[float, float, float]
_TIPS = tuple((f"{f}_pad", f"{f}_pad", 1.0) for f in ("middle", "index", "ring", "little", "thumb"))
_KNUCKLES = "index_back_1+middle_back_1+ring_back_1"


def _core(*fingers: str) -> str:
    """The middle of the first two phalanges of some fingers: where fingers cross that have room between them."""
    return "+".join(f"{f}_{face}_{i}" for f in fingers for face in ("front", "back") for i in (1, 2))


@dataclass(frozen=True)
class Kind:
    """One kind of interaction.

    ``contacts`` are (left site, right site, weight); the first one places the hands. ``spin`` [deg] is the range of
    turns of the left hand about its palm's normal, ``lean`` [deg] about its thumb's axis (fingers towards the palm).
    ``tilt`` [deg] is the standard deviation of a turn about any axis. ``gap`` [m] is left between the
    first sites at the start, and as much more, up to ``reach``, as frees the hands of each other.
    ``opening`` is the share of the left fingers' flexion at the start: a hand that grips starts open.
    """

    left: tuple[str, ...]
    right: tuple[str, ...]
    fingers: _Direction
    palm: _Direction
    contacts: tuple[tuple[str, str, float], ...]
    spin: tuple[float, float] = (0.0, 0.0)
    lean: tuple[float, float] = (0.0, 0.0)
    tilt: float = 5.0
    gap: float = 0.006
    reach: float = 0.08
    opening: float = 1.0


KINDS: dict[str, Kind] = {
    "palm_to_palm": Kind(
        ("flat",),
        ("flat",),
        (1, 0, 0),
        (0, -1, 0),
        (("palm", "palm", 1.0), *((a, b, 0.2) for a, b, _ in _TIPS)),
        (-8, 8),
        tilt=3,
    ),
    "clap": Kind(
        ("flat", "cup", "relaxed"), ("flat", "cup"), (1, 0, 0), (0, -1, 0), (("palm", "palm", 1.0),), (25, 80)
    ),
    "steeple": Kind(
        ("spread", "relaxed", "cup"), ("spread", "relaxed", "cup"), (1, 0, 0), (0, -1, 0), _TIPS, lean=(40, 75)
    ),
    "fingertips": Kind(
        ("point",), ("point",), (-1, 0, 0), (0, 1, 0), (("index_tip", "index_tip", 1.0),), (-35, 35), tilt=12
    ),
    "clasp": Kind(
        ("cup", "wrap"),
        ("cup",),
        (0, 0, -1),
        (0, -1, 0),
        (("palm", "palm", 1.0), ("middle_pad", "little_back_1", 0.4), ("thumb_pad", "index_back_1", 0.2)),
        (-25, 15),
    ),
    "interlaced": Kind(
        ("folded",),
        ("folded",),
        (1, 0, 0),
        (0, -1, 0),
        (
            (_core("middle"), _core("middle", "ring"), 1.0),
            (_core("index"), _core("index", "middle"), 1.0),
            (_core("ring"), _core("ring", "little"), 1.0),
            ("middle_pad", "back", 0.03),
            ("back", "middle_pad", 0.03),
        ),
        (-5, 5),
        (55, 80),
        3,
        0.0,
        0.0,
    ),
    "hold_finger": Kind(
        ("grip",),
        ("point",),
        (0, 0, -1),
        (0, 1, 0),
        (
            ("index_front_1+middle_front_1+ring_front_1", "index_back_1+index_back_2", 1.0),
            ("middle_pad", "index_front_2", 1.0),
            ("index_pad", "index_front_1+index_front_2", 0.5),
            ("thumb_pad", "index_front_1", 0.2),
        ),
        (-15, 15),
        gap=0.002,
        opening=0.6,
    ),
    "fist_in_palm": Kind(
        ("cup", "flat"),
        ("fist",),
        (0, -1, 0),
        (-1, 0, 0),
        (("palm+middle_front_1", _KNUCKLES, 1.0),),
        (-70, 70),
        tilt=8,
    ),
    "pointing_at_palm": Kind(
        ("flat", "relaxed", "spread"),
        ("point",),
        (0, 0, 1),
        (-1, 0, 0),
        (("palm", "index_tip", 1.0),),
        (-90, 90),
        tilt=15,
    ),
    "hand_on_back": Kind(
        ("relaxed", "flat", "cup"),
        ("relaxed", "flat", "fist"),
        (1, 0, 0),
        (0, 1, 0),
        (("palm", "back", 1.0), ("middle_pad", "ring_back_1", 0.1)),
        (20, 80),
    ),
    "fists": Kind(
        ("fist", "thumb_up"),
        ("fist", "thumb_up"),
        (-1, 0, 0),
        (0, 1, 0),
        ((_KNUCKLES, _KNUCKLES, 1.0),),
        (-10, 10),
        tilt=6,
    ),
    "pulse": Kind(
        ("two_fingers", "relaxed"),
        ("relaxed", "flat", "cup"),
        (0, 0, 1),
        (0, -1, 0),
        (("index_pad+middle_pad", "wrist_front", 1.0),),
        (-25, 25),
        (0, 30),
    ),
    "pinch_finger": Kind(
        ("pinch", "tripod"),
        ("point", "relaxed"),
        (-1, 0, 0),
        (0, 1, 0),
        (
            ("thumb_pad+index_pad", "index_pad+index_tip", 1.0),
            ("thumb_pad", "index_pad", 0.6),
            ("index_pad", "index_back_2", 0.3),
        ),
        (-40, 40),
        tilt=10,
        opening=0.5,
    ),
}

#: Kinds that training never sees.
HELD_OUT: tuple[str, ...] = ("hold_finger", "fist_in_palm", "hand_on_back")

#: Not a kind that people have a word for: any place of one hand on any place of the other. Without it the model learns
#: where the hands of ten kinds are to each other, and moves those of any other kind there.
ANYWHERE = "anywhere"
#: The same, but the hands keep the shapes that they were drawn with: cheap, and of far more shapes of hands.
MEETING = "meeting"


def anywhere(sites: tuple[str, ...], grasps: tuple[str, ...], generator: torch.Generator) -> Kind:
    """Any grasps, and two sites drawn at random; never palm on back or knuckles, which held-out kinds are about."""

    def drawn() -> str:
        return sites[int(torch.randint(len(sites), (), generator=generator))]

    while True:
        left, right = drawn(), drawn()
        kinds = {left, right}
        if not ("palm" in kinds and any("back" in name for name in kinds)):
            return Kind(grasps, grasps, (1, 0, 0), (0, -1, 0), ((left, right, 1.0),), tilt=20)
