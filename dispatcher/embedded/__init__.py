"""Child servers for one-machine use: PostgreSQL, a Kafka-compatible broker, the demo."""
