"""Versions of the database schema, and the step from each to the next. They run when a server starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from sqlalchemy import Connection

VERSION_TABLE = "joyimage_schema"


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Bring a database to a version of the schema.

    Args:
        connection: In a transaction beside which no other one writes.
        revision: Name of the version; "head" is the newest.

    Raises:
        InvalidInputError: The database was written by a newer joyimage.
    """
    config = Config()
    config.set_main_option("script_location", "joyimage.serving.jobs:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, revision)
    except CommandError as error:
        raise InvalidInputError(
            f"The database was written by a newer version of joyimage ({error}); upgrade joyimage, or give "
            "another `database`."
        ) from error
