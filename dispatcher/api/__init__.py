"""The HTTP API: one table of routes, strict bodies, problem documents for every error.

A request passes, in this order: route (404, 405), key (401), scope (403), query (400), body (400, 408, 413, 415,
422), handler. The environment and the account come from the key, never from the request.

What belongs here: everything that speaks HTTP to customers and operators. What does not: SQL (ledger), the rules
for URLs, headers and subscriptions (policy). May know the ledger, the vault and the policies; never intake,
lanes, sending or recording.
"""
