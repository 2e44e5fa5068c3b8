"""Rates between assets; payments follow."""
