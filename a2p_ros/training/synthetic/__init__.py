"""The synthetic data engine: scenes of hands, drawn into frames with exact labels, kept in shards."""
