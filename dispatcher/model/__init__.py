"""The nouns of the journey: immutable values without I/O, importable by every room.

account      the tenant: a customer of the verification product
environment  `live` or `test`
endpoint     a customer's URL with a secret and a choice of event types
record       one Kafka message
event        one fact about a verification, immutable, identified by its producer's source and id
delivery     one event for one endpoint, until delivered, exhausted, canceled or gone
host         `scheme://name:port`, what rate limits are keyed by
lane         the queue of one host inside one process
attempt      one HTTP request of a delivery
outcome      what one attempt met, from a closed list
verdict      what we decide about an outcome
settlement   an attempt, its outcome and its verdict, on their way to Postgres
replica      one live process

Knows nothing of asyncio, Kafka, Postgres or HTTP. The hot values are named tuples: they are immutable
like frozen dataclasses and four times cheaper to make.
"""
