"""Agreement, number for number, with diffusers 0.42.1."""
