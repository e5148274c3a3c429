"""The `joyimage` command."""
