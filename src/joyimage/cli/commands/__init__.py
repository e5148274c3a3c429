"""The commands of `joyimage`, one file each."""
