"""What the image shows of a pair: rays and confidences of its joints."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from interacting_hands import CAMERA, backs

from a2p_ros.errors import InputError
from a2p_ros.interaction.evidence import ImageEvidence
from a2p_ros.types import Pair


def joints_of(hands: Pair) -> Pair:
    return Pair(*(torch.as_tensor(hand.joints[None]).float() for _, hand in hands.items()))


def changed(hands: Pair, **values: object) -> Pair:
    """The pair with the left hand's pose changed."""
    pose = dataclasses.replace(hands.left.pose, **values)  # type: ignore[arg-type]
    return Pair(dataclasses.replace(hands.left, pose=pose), hands.right)


def test_joints_that_are_seen_where_they_are_leave_nothing() -> None:
    hands = backs(0.03)
    seen = ImageEvidence.of_hands(hands, CAMERA)
    assert seen.rays.shape == (1, 2, 21, 2) and bool((seen.confidence == 1).all())
    assert float(seen.residuals(joints_of(hands)).abs().max()) < 1e-5


def test_a_joint_seen_elsewhere_is_drawn_across_its_ray() -> None:
    hands = backs(0.03)
    pixels = hands.left.pose.keypoints_px + np.array([10.0, 0.0])
    way = ImageEvidence.of_hands(changed(hands, keypoints_px=pixels), CAMERA).residuals(joints_of(hands))
    metres = 10.0 / CAMERA.fx * hands.left.joints[:, 2]
    assert np.allclose(way[0, 0].norm(dim=-1), metres, rtol=0.05) and bool((way[0, 0, :, 0] > 0).all())
    assert float(way[0, 1].abs().max()) < 1e-5
    along = torch.nn.functional.normalize(torch.nn.functional.pad(torch.tensor(CAMERA.rays(pixels)), (0, 1), value=1.0))
    assert float((way[0, 0].double() * along).sum(-1).abs().max()) < 1e-6


def test_keypoints_that_are_not_the_joints_are_moved_by_what_lies_between() -> None:
    hands = backs(0.03)
    landmarks = hands.left.pose.joints + np.array([0.0, 0.004, -0.003])
    pixels = CAMERA.project(hands.left.wrist + landmarks)
    shown = changed(hands, landmarks=landmarks, keypoints_px=pixels)
    assert float(ImageEvidence.of_hands(shown, CAMERA).residuals(joints_of(hands)).abs().max()) < 1e-5
    wrong = changed(hands, keypoints_px=pixels)
    assert float(ImageEvidence.of_hands(wrong, CAMERA).residuals(joints_of(hands)).abs().max()) > 0.003


def test_what_is_not_a_number_was_not_seen() -> None:
    hands = backs(0.03)
    pixels, sure = hands.left.pose.keypoints_px.copy(), hands.left.pose.keypoint_confidence.copy()
    pixels[3], sure[5] = np.nan, np.nan
    seen = ImageEvidence.of_hands(changed(hands, keypoints_px=pixels, keypoint_confidence=sure), CAMERA)
    assert bool(seen.rays.isfinite().all()) and seen.confidence[0, 0, [3, 5]].tolist() == [0.0, 0.0]
    assert float(seen.confidence.sum()) == 40
    assert float(seen.residuals(joints_of(hands))[0, 0, [3, 5]].abs().max()) == 0.0


def test_batches_are_joined_and_cut() -> None:
    one = ImageEvidence.of_hands(backs(0.03), CAMERA)
    both = ImageEvidence.joined([one, ImageEvidence.none(2)])
    assert len(both) == 3 and float(both[1:].confidence.max()) == 0.0
    assert torch.equal(both[torch.tensor([True, False, False])].rays, one.rays)
    with pytest.raises(InputError, match=r"expected rays \(B, 2, 21, 2\).*got \(1, 42, 2\)"):
        ImageEvidence(one.rays.flatten(1, 2), one.confidence)
