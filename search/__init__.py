"""The search for cascades: from a pool to a front."""
