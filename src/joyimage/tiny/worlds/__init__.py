"""Drawn worlds to edit, with exact truth and exact scores."""
