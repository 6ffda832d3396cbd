"""Training of the A2P network: packed crops, augmentation, losses, teachers, stages."""
