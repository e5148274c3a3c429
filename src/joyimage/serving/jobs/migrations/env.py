"""Alembic's entry point: runs the migrations on the connection that `upgrade` was given."""

from __future__ import annotations

from alembic import context

from joyimage.serving.jobs.migrations import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
context.run_migrations()
