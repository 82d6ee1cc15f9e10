"""Receive webhooks with FastAPI and the receiver kit.

WEBHOOK_SECRETS='whsec_new whsec_old' uvicorn fastapi_app:app --port 9000
"""

import os

from fastapi import FastAPI

from dispatcher.receiver import SqliteInbox, Webhook
from dispatcher.receiver.adapters import starlette_view


async def work(webhook: Webhook) -> None:
    """Take one event, once. Put it into a queue and do the rest later: the sender waits five seconds."""
    print("received", webhook.id, webhook.event()["type"], flush=True)


secrets = (os.environ.get("WEBHOOK_SECRETS") or os.environ["WEBHOOK_SECRET"]).split()
inbox = SqliteInbox(os.environ.get("WEBHOOK_INBOX", "inbox.db"))

app = FastAPI()
# Not with a model as parameter: that would parse the body before its signature is checked.
app.add_route("/webhooks", starlette_view(work, secrets, inbox), methods=["POST"])
