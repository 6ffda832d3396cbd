"""The program ``a2p``: parses the verb and hands over to its module in ``commands``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from a2p_ros import __version__
from a2p_ros.commands import bench, demo, doctor, evaluate, export, hand_model, run, synth, train
from a2p_ros.commands.processes import ChildDied
from a2p_ros.errors import A2PError

_VERBS = (run, demo, evaluate, bench, synth, train, export, hand_model, doctor)

#: Exit codes beside 0: a wrong input or machine, and Ctrl-C as shells count it.
FAILED, INTERRUPTED = 2, 130


def make_parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    parser = argparse.ArgumentParser(prog="a2p", description="Two reconstructed hands from one camera.")
    parser.add_argument("--version", action="version", version=f"a2p {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what happens")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for module in _VERBS:
        module.add_parser(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    args = make_parser().parse_args(argv)
    level = logging.INFO if args.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    try:
        return int(args.run(args))
    except A2PError as error:
        sys.stderr.write(f"a2p: error: {' '.join(str(error).split())}\n")
        if isinstance(error, ChildDied):
            sys.stderr.write("".join(f"    {line}\n" for line in error.log.splitlines()))
        return FAILED
    except OSError as error:  # a full disk, a folder that may not be written
        logging.getLogger(__name__).info("where it happened", exc_info=error)
        sys.stderr.write(f"a2p: error: {error}\n")
        return FAILED
    except KeyboardInterrupt:
        sys.stderr.write("a2p: stopped\n")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
