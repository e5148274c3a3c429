"""The network: tensors in, tensors out; it knows no files, prompts, pictures or schedules."""
