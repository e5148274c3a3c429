"""What the language half of the model reads, judges and writes."""
