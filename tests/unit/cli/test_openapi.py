"""`dispatcher openapi`: the published document, on standard output or in a file."""

from pathlib import Path

from dispatcher.policy.schema_files import load_openapi, schema_folder
from tests.support.terminal import run


def test_the_document_comes_out_byte_for_byte(tmp_path: Path) -> None:
    file = tmp_path / "openapi.json"

    printed = run("openapi", environment={})
    written = run("openapi", "--file", str(file), environment={})

    assert printed.out.encode() == file.read_bytes() == load_openapi(schema_folder())
    assert written.out == ""


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "none" / "openapi.json"

    said = run("openapi", "--file", str(file), environment={})

    assert said.code == 1
    assert f"{file} cannot be written" in said.err
