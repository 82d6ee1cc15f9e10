"""Receive webhooks with Python's own HTTP server and the receiver kit (`dispatcher.receiver`, standard library only).

WEBHOOK_SECRETS='whsec_new whsec_old' PORT=9000 python server.py
python server.py --verify schemas/vectors/cases.psv
"""

import base64
import os
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from dispatcher.receiver import InvalidWebhook, Reception, SqliteInbox, Webhook, verify

LARGEST_BODY = 1_048_576


def work(webhook: Webhook) -> None:
    """Take one event, once. Put it into a queue and do the rest later: the sender waits five seconds."""
    print("received", webhook.id, webhook.event()["type"], flush=True)


class Receiver(BaseHTTPRequestHandler):
    """Answers POST on every path."""

    protocol_version = "HTTP/1.1"
    timeout = 10  # for each read: nobody holds a thread for longer
    reception: Reception

    def do_POST(self) -> None:
        """Read the raw body, then let the kit decide."""
        length = self.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()) or int(length) > LARGEST_BODY:
            self.close_connection = True
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        body = self.rfile.read(int(length))
        try:
            answer = self.reception.answer(self.headers, body, work)
        except Exception:
            # It is delivered again later.
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR)
            raise
        self._answer(answer.status, answer.text)

    def _answer(self, status: int, text: str = "") -> None:
        self.send_response(status)
        if status != HTTPStatus.NO_CONTENT:
            self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


def check(file: Path) -> None:
    """Print what the kit makes of each published case."""
    for line in file.read_text(encoding="utf-8").splitlines():
        _, name, now, secrets, event_id, stamp, signature, body = line.split("|")
        headers = {"webhook-id": event_id, "webhook-timestamp": stamp, "webhook-signature": signature}
        try:
            verify(headers, base64.b64decode(body), secrets.split(), now=int(now))
            print(f"accept|{name}")
        except InvalidWebhook:
            print(f"refuse|{name}")


def main() -> None:
    """Serve until interrupted."""
    if sys.argv[1:2] == ["--verify"]:
        check(Path(sys.argv[2]))
        return
    secrets = (os.environ.get("WEBHOOK_SECRETS") or os.environ.get("WEBHOOK_SECRET", "")).split()
    if not secrets:
        sys.exit("set WEBHOOK_SECRETS to the endpoint's secret; to both, with a blank between, while one is rotated")
    Receiver.reception = Reception(secrets, SqliteInbox(os.environ.get("WEBHOOK_INBOX", "inbox.db")))
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "9000"))), Receiver)
    print(f"receiving on http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
