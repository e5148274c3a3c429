"""Phrases that ask for a spatial edit in free words, by language."""
