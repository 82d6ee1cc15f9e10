"""What every room shares: how requests name themselves."""

import pytest

from dispatcher.setting_values import Bind
from dispatcher.settings import Http
from dispatcher.shared import user_agent


@pytest.mark.parametrize(
    ("http", "agent"),
    [
        (Http(), "Dispatcher-Webhooks/1 (+http://127.0.0.1:8080/v1/openapi.json)"),
        (Http(bind=Bind("::1", 80)), "Dispatcher-Webhooks/1 (+http://[::1]:80/v1/openapi.json)"),
        (
            Http(public_url="https://hooks.example.com/", product_name="Example", bind=Bind("127.0.0.1", 0)),
            "Example-Webhooks/1 (+https://hooks.example.com/v1/openapi.json)",
        ),
        (Http(bind=Bind("127.0.0.1", 0)), "Dispatcher-Webhooks/1"),
        (Http(bind=Bind("0.0.0.0", 8080)), "Dispatcher-Webhooks/1"),
        (Http(bind=Bind("::", 8080)), "Dispatcher-Webhooks/1"),
    ],
)
def test_requests_name_the_apis_document_only_where_its_address_leads_there(http: Http, agent: str) -> None:
    assert user_agent(http) == agent
