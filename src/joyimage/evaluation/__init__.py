"""Measure an editor on a suite of edit cases whose outcome is known."""
