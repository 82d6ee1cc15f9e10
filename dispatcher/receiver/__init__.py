"""What a receiver of webhooks needs: is this request ours and unchanged, and did it come before?

`verify` checks one request; an `Inbox` remembers ids; `supersedes` orders revisions; `Reception` puts them together,
and `adapters` hang it into aiohttp, Starlette (FastAPI), Flask and Django.

Standard library only, and nothing else of the dispatcher, so that it can be installed without dependencies, or copied.
"""

from dispatcher.receiver.inbox import Claim, Inbox, MemoryInbox, SqliteInbox, Standing
from dispatcher.receiver.reception import Answer, Reception
from dispatcher.receiver.revisions import supersedes
from dispatcher.receiver.verify import InvalidWebhook, Reason, Webhook, verify

__all__ = [
    "Answer",
    "Claim",
    "Inbox",
    "InvalidWebhook",
    "MemoryInbox",
    "Reason",
    "Reception",
    "SqliteInbox",
    "Standing",
    "Webhook",
    "supersedes",
    "verify",
]
