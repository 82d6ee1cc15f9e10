"""One bounded queue and pacer per host: who goes next, and when.

A delivery enters by one door (`Board.submit`), whether fresh from intake or due again from the ledger, and leaves
as one settlement. Belongs here: queues, pacing, fairness, caps on requests and bytes, the way of one delivery
through an attempt to its verdict. Does not: sockets (sending), SQL (ledger), the schedule itself (policy).
"""
