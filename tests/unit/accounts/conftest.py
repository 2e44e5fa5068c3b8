"""An operator's service over a real Postgres and the model ledger."""

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import asyncpg
import pytest

from connector.accounts.cipher import Cipher
from connector.accounts.service import AccountService
from connector.accounts.store import AccountStore
from connector.ledger.model import ModelLedger


@pytest.fixture
async def pool(module_database_url: str) -> AsyncIterator[asyncpg.Pool]:
    """One database for a module, emptied for each test: creating one costs more than most tests."""
    pool = await asyncpg.create_pool(module_database_url, min_size=1, max_size=4)
    await pool.execute("TRUNCATE tenants CASCADE; ALTER SEQUENCE asset_ledger_seq RESTART")
    yield pool
    pool.terminate()


@pytest.fixture
def cipher() -> Cipher:
    return Cipher(bytes(range(32)))


@pytest.fixture
def ledger() -> ModelLedger:
    return ModelLedger()


@pytest.fixture
async def tenant(pool: asyncpg.Pool) -> UUID:
    tenant_id = uuid4()
    await AccountStore(pool).ensure_operator(tenant_id)
    return tenant_id


@pytest.fixture
async def other_tenant(pool: asyncpg.Pool, tenant: UUID) -> UUID:
    tenant_id = uuid4()
    await pool.execute("INSERT INTO tenants (id, name) VALUES ($1, 'other')", tenant_id)
    return tenant_id


@pytest.fixture
def service(pool: asyncpg.Pool, ledger: ModelLedger, cipher: Cipher) -> AccountService:
    return AccountService(AccountStore(pool), ledger, cipher)
