"""The first regressor: MANO pose and shape from 21 keypoints, by least squares."""
