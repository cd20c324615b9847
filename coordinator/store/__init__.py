"""The journal: an append-only store on SQLite or PostgreSQL."""
