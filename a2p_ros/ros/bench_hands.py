"""The hands node of ``a2p bench ros``: it also notes when its work on each image begins, and writes that at its end.

``A2P_BENCH_FILE`` names the JSON file: stamp of the image [ns] -> time of this machine's clock [s].
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from a2p_ros.commands.processes import write_json
from a2p_ros.ros.hands_node import HandsNode
from a2p_ros.ros.processor import Arrival
from a2p_ros.ros.running import run_node


class TimedHandsNode(HandsNode):
    """`HandsNode`, and the beginnings of its work."""

    def __init__(self) -> None:
        self.started: dict[int, float] = {}
        super().__init__()

    def _work(self, arrival: Arrival) -> None:
        stamp = arrival.message.header.stamp
        self.started[stamp.sec * 1_000_000_000 + stamp.nanosec] = time.time()
        super()._work(arrival)

    def farewell(self) -> None:
        """Write the times and stop."""
        super().farewell()
        write_json(Path(os.environ["A2P_BENCH_FILE"]), {str(stamp): begun for stamp, begun in self.started.items()})


def main(args: Sequence[str] | None = None) -> None:
    """Run until interrupted."""

    def make(_: threading.Event) -> TimedHandsNode:
        node = TimedHandsNode()
        node.autostart()
        return node

    sys.exit(run_node(make, args, "hands_node"))


if __name__ == "__main__":
    main()
