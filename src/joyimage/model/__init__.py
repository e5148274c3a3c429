"""The network: tensors in, tensors out, without files, prompts, images or schedules."""
