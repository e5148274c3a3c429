"""The embedded checkpoint `joyimage-tiny`: the scenes it edits, its training, its scores and its weights."""
