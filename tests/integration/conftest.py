"""PostgreSQL for the integration tests."""

from tests.postgres import own_postgres, postgres, postgres_dsn

__all__ = ["own_postgres", "postgres", "postgres_dsn"]
