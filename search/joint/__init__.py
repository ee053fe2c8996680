"""ENCAS-joint: supernetworks' weights and cascades of their networks are searched together."""
