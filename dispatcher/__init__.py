"""A webhook dispatcher for identity-verification platforms.

The journey, and the only vocabulary for it:

    record -> event -> match -> delivery -> lane -> attempt -> outcome -> verdict -> settlement

A Kafka *record* is decoded into an *event*; the endpoints that subscribed to it are *matched*; each
match is a *delivery*; a delivery waits in the *lane* of its host; one signed HTTP request is an
*attempt*; what it met is an *outcome*; what we decide about it is a *verdict*; writing both down is
the *settlement*. Postgres is written twice on that way and nowhere else: *accept* (statement S1) and
*settle* (statement S2).
"""

__version__ = "0.1.0"
