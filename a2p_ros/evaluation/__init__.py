"""How good and how fast the hands are: what `a2p eval` and `a2p bench` measure."""
