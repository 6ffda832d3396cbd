"""The A2P network: crops of hands -> MANO parameters, 2.5D joints and where the hands are from one another."""
