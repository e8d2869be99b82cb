"""Alembic's entry: runs the versions on the connection that `migrate` was given, in its transaction."""

from alembic import context

from serving.ledger.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
