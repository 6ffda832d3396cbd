"""``a2p train``: from nothing to weights with one command."""

from __future__ import annotations

from typing import Any

from a2p_ros.commands import train_detector, train_diffusion, train_fae


def add_parser(verbs: Any) -> None:
    """Options of ``a2p train``."""
    parser = verbs.add_parser("train", help="train the networks", description=__doc__)
    what = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    train_diffusion.add(what)
    train_detector.add(what)
    train_fae.add(what)
