"""Data, metrics and training; imports the rest of the package and is never imported by it."""
