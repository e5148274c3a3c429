"""Show that the model at its published size runs in little memory: `python -m scripts.proof`."""
