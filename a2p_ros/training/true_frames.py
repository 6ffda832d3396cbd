"""Frames of the engine as the evaluation takes them."""

from __future__ import annotations

from a2p_ros.evaluation.true_hands import TrueFrame, TrueHand
from a2p_ros.hand.model import HandModel
from a2p_ros.training.synthetic.samples import Frame
from a2p_ros.types import Pair, Side


def true_frame(frame: Frame, models: Pair[HandModel]) -> TrueFrame:
    """The picture, its hands as drawn, and the kind of scene; ``models`` are those that the engine draws."""

    def made(side: Side) -> TrueHand | None:
        label = frame.hands[side]
        if label is None:
            return None
        return TrueHand(
            side=side,
            joints=label.joints.astype(float),
            vertices=label.vertices(models[side]).astype(float),
            keypoints_px=label.keypoints_px.astype(float),
            box=label.box,
            visible_share=label.visible_share,
        )

    hands = Pair(made(Side.LEFT), made(Side.RIGHT))
    return TrueFrame(frame.image, frame.camera, hands, str(frame.scene.get("kind", "")))
