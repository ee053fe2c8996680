"""Whole experiments: transfers, joint runs, searches over seeds, and how sure their differences are."""
