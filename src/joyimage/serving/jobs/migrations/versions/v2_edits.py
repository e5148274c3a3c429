"""A job's task is an edit; rows know what they cost, who waits for them, and how far they are."""

from __future__ import annotations

import json
import secrets
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"

_TABLE = "joyimage_jobs"
_AT_ONCE = 500


def upgrade() -> None:
    """Add the columns and rewrite every task; a task that cannot be read stays, and its job fails alone."""
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":  # SQLite's JSON is text already
        for name in ("task", "result", "error"):
            op.execute(f"ALTER TABLE {_TABLE} ALTER COLUMN {name} TYPE TEXT USING {name}::text")
    op.execute(f"ALTER TABLE {_TABLE} RENAME COLUMN picture_hash TO image_hash")
    for column in (
        sa.Column("cost", sa.BigInteger, nullable=False, server_default=sa.text("1")),
        sa.Column("awaited_by", sa.String(64)),
        sa.Column("step", sa.Integer),
        sa.Column("num_steps", sa.Integer),
        sa.Column("stored_bytes", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("device_s", sa.Float),
        sa.Column("queued_at", sa.Float, nullable=False, server_default=sa.text("0")),
    ):
        op.add_column(_TABLE, column)
    op.execute(f"UPDATE {_TABLE} SET queued_at = created_at")
    # Keys of batches say what tasks have in common, and tasks change.
    op.execute(f"UPDATE {_TABLE} SET batch_key = NULL")
    _rewrite_tasks(connection)
    server = op.create_table(
        "joyimage_server",
        sa.Column("name", sa.String(40), primary_key=True),
        sa.Column("value", sa.String(100), nullable=False),
    )
    op.bulk_insert(server, [{"name": "database_id", "value": secrets.token_hex(16)}])


def _rewrite_tasks(connection: sa.Connection) -> None:
    jobs = sa.table(_TABLE, sa.column("id", sa.String), sa.column("task", sa.Text))
    last = ""
    while True:
        query = sa.select(jobs.c.id, jobs.c.task).where(jobs.c.id > last).order_by(jobs.c.id).limit(_AT_ONCE)
        rows = connection.execute(query).all()
        if not rows:
            return
        last = rows[-1].id
        for row in rows:
            try:
                task = json.dumps(to_version_2(json.loads(row.task)), ensure_ascii=False)
            except (LookupError, TypeError, ValueError, AttributeError):
                continue
            connection.execute(jobs.update().where(jobs.c.id == row.id).values(task=task))


def to_version_2(old: dict[str, Any]) -> dict[str, Any]:
    """Return the task of version 2 that a task from before the versions stands for.

    Raises:
        LookupError: A field is missing.
    """
    kind = old["kind"]
    edit: dict[str, Any] = {"kind": kind}
    if kind == "describe":
        edit |= {"question": old["question"], "max_new_tokens": old["max_new_tokens"]}
    else:
        size = None if old["width"] is None else f"{old['width']}x{old['height']}"
        edit |= {
            "num_inference_steps": old["steps"],
            "guidance_scale": old["guidance"],
            "negative_prompt": old["negative_prompt"],
            "seed": old["seed"],
            "num_images": old["num_outputs"],
            "size": size,
            "loras": None if old["lora"] is None else [old["lora"]],
            **old["framing"],
        }
        if kind in {"edit", "generate"}:
            edit["prompt"] = old["prompt"]
        else:
            spatial = dict(old["spatial"])
            edit["prompt_style"] = spatial.pop("style", "documented")
            edit |= spatial
    edit = {name: value for name, value in edit.items() if value is not None}
    target = old["canvas"]
    return {
        "version": 2,
        "edit": edit,
        "given": edit,
        "output_format": old["output_format"],
        "output_compression": old["output_compression"],
        "num_inputs": old["num_images"],
        "has_mask": old["has_mask"],
        "has_previews": old["previews"],
        "target_size": None if target is None else f"{target[0]}x{target[1]}",
    }
