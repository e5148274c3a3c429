"""The server: an OpenAI-compatible application around one queue of jobs."""
