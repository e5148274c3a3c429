"""The HTTP interface: routes, request parsing, schemas and the mapping of errors to status codes."""
