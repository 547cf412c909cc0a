"""The only door to PostgreSQL: connections, table definitions, and every statement beside the table it serves.

SQLAlchemy Core for definitions and ordinary queries, psycopg for the hot paths. No decision of a flow is made here:
functions take a connection inside its transaction, and the caller commits.
"""
