"""LoRA adapters: read every program's files, act on the transformer, write every program's files."""
