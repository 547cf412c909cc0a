"""Transactional outbox between PostgreSQL, Apache Kafka and Google Sheets."""
