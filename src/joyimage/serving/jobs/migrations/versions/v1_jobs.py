"""The table of jobs, as it was before the schema had versions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None

_TABLE = "joyimage_jobs"


def _columns() -> list[sa.Column]:
    return [
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False, unique=True),
        sa.Column("turn", sa.BigInteger, nullable=False),
        sa.Column("client", sa.String(200), nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("task", sa.JSON, nullable=False),
        sa.Column("batch_key", sa.String(64)),
        sa.Column("picture_hash", sa.String(64)),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("request_hash", sa.String(64), nullable=False),
        sa.Column("is_awaited", sa.Boolean, nullable=False),
        sa.Column("cancel_asked", sa.Boolean, nullable=False),
        sa.Column("owner", sa.String(64)),
        sa.Column("restarted", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("finished_at", sa.Float),
        sa.Column("expires_at", sa.Float),
        sa.Column("result", sa.JSON),
        sa.Column("error", sa.JSON),
    ]


def upgrade() -> None:
    """Create the table, or take over one that an older server made, with the columns that it lacks."""
    inspector = sa.inspect(op.get_bind())
    if not inspector.has_table(_TABLE):
        op.create_table(_TABLE, *_columns(), sa.UniqueConstraint("client", "idempotency_key"))
    present = (
        {column["name"] for column in inspector.get_columns(_TABLE)} if inspector.has_table(_TABLE) else set()
    )
    for column in _columns():
        if present and column.name not in present:
            default = {sa.Boolean: sa.false(), sa.Integer: sa.text("0")}.get(type(column.type), sa.text("''"))
            column.server_default = None if column.nullable else sa.DefaultClause(default)
            op.add_column(_TABLE, column)
    for name, columns in (
        ("joyimage_jobs_turn", ["state", "turn", "number"]),
        ("joyimage_jobs_client", ["client", "state"]),
        ("joyimage_jobs_expiry", ["expires_at"]),
    ):
        op.create_index(name, _TABLE, columns, if_not_exists=True)
