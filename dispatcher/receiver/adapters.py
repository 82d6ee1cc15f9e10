"""Hang a reception into a web framework: each adapter takes the raw body before anything parses it.

A framework is imported when its adapter is called, so that this file needs none of them. All four take the work to do
with each new event, the secrets (both while one is rotated), an inbox and, where views share that, a `name` for each
endpoint's; and return what the framework's router wants.
Bodies beyond 1 MiB are refused. What they answer is told in `reception`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import IO, TYPE_CHECKING, Any

from dispatcher.receiver.inbox import Inbox
from dispatcher.receiver.reception import LARGEST_BODY, Answer, Reception
from dispatcher.receiver.verify import Webhook

if TYPE_CHECKING:
    from aiohttp import web
    from flask import Response as FlaskResponse
    from starlette.requests import Request as StarletteRequest
    from starlette.responses import Response as StarletteResponse

Work = Callable[[Webhook], object]
AsyncWork = Callable[[Webhook], Awaitable[object]]


def aiohttp_view(
    work: AsyncWork, secrets: str | Sequence[str], inbox: Inbox, *, name: str = ""
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return a view for aiohttp.

    `app.router.add_post("/webhooks", aiohttp_view(…))`. The application's `client_max_size` (1 MiB) bounds the body.
    """
    from aiohttp import web  # noqa: PLC0415 - only who calls this has it

    reception = Reception(secrets, inbox, name=name)

    async def receive(request: web.Request) -> web.Response:
        body = await request.read()
        answer = await reception.answer_async(request.headers, body, work)
        return web.Response(status=answer.status, text=answer.text or None)

    return receive


def starlette_view(
    work: AsyncWork, secrets: str | Sequence[str], inbox: Inbox, *, name: str = ""
) -> Callable[[StarletteRequest], Awaitable[StarletteResponse]]:
    """Return a view for Starlette and FastAPI.

    `app.add_route("/webhooks", starlette_view(…), methods=["POST"])`
    """
    from starlette.requests import Request  # noqa: PLC0415 - only who calls this has it
    from starlette.responses import Response  # noqa: PLC0415

    reception = Reception(secrets, inbox, name=name)

    async def receive(request: Request) -> Response:
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > LARGEST_BODY:
                return Response(status_code=413)
        answer = await reception.answer_async(request.headers, bytes(body), work)
        return Response(answer.text or None, status_code=answer.status)

    return receive


def flask_view(
    work: Work, secrets: str | Sequence[str], inbox: Inbox, *, name: str = ""
) -> Callable[[], FlaskResponse]:
    """Return a view for Flask.

    `app.add_url_rule("/webhooks", view_func=flask_view(…), methods=["POST"])`
    """
    from flask import Response, request  # noqa: PLC0415 - only who calls this has it

    reception = Reception(secrets, inbox, name=name)

    def receive_webhook() -> Response:
        # Flask takes a bound for one request since 3.1 only, and none counts for a body that came in chunks.
        body = _read_bounded(request.stream)
        if body is None:
            return Response(status=413)
        # Nothing left: somebody before us may have read it, and Flask kept it.
        answer = reception.answer(request.headers, body or request.get_data(), work)
        return Response(answer.text or None, status=answer.status)

    # Flask tells views apart by the names of their functions.
    receive_webhook.__name__ += f"_{name}" if name else ""
    return receive_webhook


def _read_bounded(stream: IO[bytes]) -> bytes | None:
    """Return what a stream holds, None when that is too much; some give less than they are asked."""
    body = bytearray()
    while piece := stream.read(LARGEST_BODY + 1 - len(body)):
        body += piece
        if len(body) > LARGEST_BODY:
            return None
    return bytes(body)


def django_view(work: Work, secrets: str | Sequence[str], inbox: Inbox, *, name: str = "") -> Callable[[Any], Any]:
    """Return a view for Django, exempt from CSRF.

    `path("webhooks", django_view(…))`. `DATA_UPLOAD_MAX_MEMORY_SIZE` (2.5 MiB) bounds the body before we do. No
    middleware may read `request.POST` first.
    """
    from django.http import HttpResponse  # noqa: PLC0415 - only who calls this has it
    from django.views.decorators.csrf import csrf_exempt  # noqa: PLC0415
    from django.views.decorators.http import require_POST  # noqa: PLC0415

    reception = Reception(secrets, inbox, name=name)

    def receive(request: Any) -> Any:
        if len(request.body) > LARGEST_BODY:
            return HttpResponse(status=413)
        answer: Answer = reception.answer(request.headers, request.body, work)
        return HttpResponse(answer.text, status=answer.status)

    view: Callable[[Any], Any] = csrf_exempt(require_POST(receive))
    return view
