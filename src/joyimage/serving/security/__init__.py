"""API keys, signed URLs, request limits, and checks of uploads and fetched images."""
