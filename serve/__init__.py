"""A bundle behind HTTP."""
