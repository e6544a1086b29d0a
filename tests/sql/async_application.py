"""A module of an application on asyncio: its engine is made, and used, when it is imported, here and in the template."""

from __future__ import annotations

import asyncio
import os

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from procjobs import sql

engine = create_async_engine(os.environ["TEST_DATABASE"])
maker = async_sessionmaker(engine)


async def use():
    """Leave two connections in the engine's pool."""
    async with engine.connect() as connection, engine.connect() as other:
        await connection.execute(sa.text("SELECT 1"))
        await other.execute(sa.text("SELECT 1"))


if os.environ["TEST_APPLICATION"].endswith("used"):
    asyncio.run(use())
sql.configure(engine if os.environ["TEST_APPLICATION"].startswith("engine") else maker)
