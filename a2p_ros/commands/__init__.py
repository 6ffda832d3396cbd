"""The verbs of the program ``a2p``, one module each: ``add_parser`` names the options, ``run`` does the work.

Heavy imports are inside the functions, so that ``a2p --help`` answers at once.
"""
