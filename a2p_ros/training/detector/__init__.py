"""The hand detector's network, data, training, export and measurement."""
