"""The job queue: records, dispatcher, execution and completion. Nothing here knows HTTP."""
