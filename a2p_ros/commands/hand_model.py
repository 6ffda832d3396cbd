"""``a2p hand-model convert``: the user's MANO files, which are pickles, into arrays that the package loads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from a2p_ros.commands import common
from a2p_ros.errors import HandModelError


def add_parser(verbs: Any) -> None:
    """Options of ``a2p hand-model``."""
    parser = verbs.add_parser("hand-model", help="convert MANO files", description=__doc__)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    convert = actions.add_parser(
        "convert",
        help="MANO_RIGHT.pkl and MANO_LEFT.pkl -> .npz",
        description="Read the two MANO pickles without running anything in them, correct the known sign error of the "
        "left hand, and write MANO_RIGHT.npz and MANO_LEFT.npz. They are to be had from https://mano.is.tue.mpg.de "
        "under a licence of their own; they may not be shared.",
    )
    convert.add_argument("folder", type=Path, metavar="DIR", help="folder that holds MANO_RIGHT.pkl and MANO_LEFT.pkl")
    convert.add_argument("--out", type=Path, metavar="DIR", help="folder for the .npz files (default: the same)")
    common.add_json(convert)
    convert.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Convert both files and load the result once."""
    from a2p_ros.hand import load_hand_models
    from a2p_ros.hand.mano_files import convert_mano

    out = args.out or args.folder
    right, left = (args.folder / f"MANO_{side}.pkl" for side in ("RIGHT", "LEFT"))
    if not args.folder.is_dir():
        raise HandModelError(f"{args.folder} is not a folder; expected one with MANO_RIGHT.pkl and MANO_LEFT.pkl")
    convert_mano(right, left, out)
    models = load_hand_models(str(out))
    result = {"hand_model": models.right.name, "vertices": models.right.n_vertices, "out": str(out)}
    common.finish(
        args,
        result,
        [
            f"{result['hand_model']} with {result['vertices']} vertices a hand is in {out}",
            f"use it with --hand-model {out}, or the node's parameter device.hand_model",
        ],
    )
    return 0
