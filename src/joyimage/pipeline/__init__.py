"""The editing algorithm; the files are named after its steps."""
