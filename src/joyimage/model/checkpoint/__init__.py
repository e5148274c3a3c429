"""Checkpoints on disk: key layouts, file headers, shards, and loading of the transformer."""
