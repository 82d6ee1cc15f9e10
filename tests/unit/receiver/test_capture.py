import pytest

from dispatcher.receiver.capture import NoRequest, read_headers, read_request

HEADERS = [("Host", "example.com"), ("webhook-id", "evt_1")]


@pytest.mark.parametrize("first", [b"POST /webhooks?a=b HTTP/1.1\r\n", b"", b"POST /webhooks\r\n"])
@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
def test_a_request_is_read_as_it_came_and_its_body_not_touched(first: bytes, line_end: bytes) -> None:
    raw = (first + b"Host: example.com\r\nwebhook-id:evt_1 \r\n\r\n").replace(b"\r\n", line_end)

    read = read_request(raw + b'{"a":1}\r\n\r\nb: c\n')

    assert read.headers == HEADERS
    assert read.body == b'{"a":1}\r\n\r\nb: c\n'


def test_a_header_that_came_twice_is_there_twice() -> None:
    read = read_request(b"X-A: 1\nx-a: 2\n\n")

    assert read.all_of("x-a") == ["1", "2"]


def test_chunks_are_put_together() -> None:
    head = b"Transfer-Encoding: chunked\r\n\r\n"

    assert read_request(head + b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n").body == b"abc0123456789"
    assert read_request(head + b'{"joined":"already"}').body == b'{"joined":"already"}'
    assert read_request(head + b"5\r\nabc").body == b"5\r\nabc"


def test_headers_may_be_json_as_frameworks_log_them() -> None:
    read = read_headers(b' {"Host": "example.com", "webhook-id": ["evt_1", "evt_2"], "webhook-timestamp": 12}')

    assert read == [*HEADERS, ("webhook-id", "evt_2"), ("webhook-timestamp", "12")]


@pytest.mark.parametrize(
    ("raw", "told"),
    [(b"", "blank line"), (b'{"a":1}', "blank line"), (b"GET / HTTP/1.1\nnonsense\n\n", "line 2")],
)
def test_what_is_no_request_is_told(raw: bytes, told: str) -> None:
    with pytest.raises(NoRequest, match=told):
        read_request(raw)


@pytest.mark.parametrize("raw", [b"{", b": x", b"\xff"])
def test_what_are_no_headers_is_told(raw: bytes) -> None:
    with pytest.raises(NoRequest):
        read_headers(raw)
