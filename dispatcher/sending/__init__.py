"""One signed HTTP attempt to one outcome; never raises for a customer's fault.

    request.py    the bytes of a request, from a template per endpoint
    pool.py       idle connections, newest first
    dial.py       name to vetted addresses to a connected, perhaps encrypted, connection
    resolver.py   names to vetted addresses, in threads of its own
    wire.py       one connection, one exchange at a time, under deadlines
    tls.py        encryption between two memory buffers
    response.py   bytes to one bounded response
    attempt.py    the door: all of the above in one call

Knows nothing of queues, schedules and the database: when to send and what an outcome means is decided
elsewhere. The only room that may use an HTTP parser.
"""
