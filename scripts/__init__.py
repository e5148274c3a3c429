"""What Make targets run; not part of the package."""
