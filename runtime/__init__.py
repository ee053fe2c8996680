"""Running a bundle, and measuring it."""
