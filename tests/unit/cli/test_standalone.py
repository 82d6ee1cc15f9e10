from pathlib import Path

import pytest

from dispatcher.cli.standalone import _command, _kept_keys
from dispatcher.model.errors import DispatcherError


@pytest.mark.parametrize(
    ("called_as", "path", "expected"),
    [
        (".venv/bin/dispatcher", "/usr/bin", ".venv/bin/dispatcher"),
        ("HERE/.venv/bin/dispatcher", "/usr/bin", ".venv/bin/dispatcher"),
        ("HERE/.venv/bin/dispatcher", "HERE/.venv/bin", "dispatcher"),
        ("HERE/dispatcher/__main__.py", "/usr/bin", "dispatcher"),
    ],
)
def test_people_are_told_how_to_call_the_program_from_where_they_are(
    called_as: str, path: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / ".venv" / "bin" / "dispatcher"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [called_as.replace("HERE", str(tmp_path))])
    monkeypatch.setenv("PATH", path.replace("HERE", str(tmp_path)))

    assert _command() == expected


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '"x"', "{}", '{"account_id": 5, "api_keys": {}}', '{"account_id": "x"}']
)
def test_a_spoilt_file_of_keys_is_told_in_words(text: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text)

    with pytest.raises(DispatcherError, match=r"keys\.json does not hold .*move it away"):
        _kept_keys(file)


def test_the_first_start_has_no_keys_yet(tmp_path: Path) -> None:
    assert _kept_keys(tmp_path / "keys.json") is None
