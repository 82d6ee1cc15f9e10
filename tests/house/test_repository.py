import re

from tests.house.files import ROOT, repository_files, shown

TOP_LEVEL = {
    ".ci",
    ".gitignore",
    "Makefile",
    "README.md",
    "deploy",
    "dispatcher",
    "pyproject.toml",
    "schemas",
    "tests",
}

# Where code was written is no business of its readers. The slashes are apart so that this file does not match itself.
MACHINE_PATHS = re.compile(r"(?<![\w.~-])/(?:work|home|Users)/(?=\w)|(?<![\w.~-])/root/(?=[\w.])")
REGISTRIES = re.compile(
    r"\b(?:"
    + "|".join(
        re.escape(host)
        for host in (
            "pypi" + ".org",
            "pythonhosted" + ".org",
            "npmjs" + ".org",
            "crates" + ".io",
            "golang" + ".org",
            "repo1.maven" + ".org",
            "repo.maven" + ".apache.org",
            "deb.debian" + ".org",
        )
    )
    + r")\b"
)


def test_the_top_level_holds_only_what_belongs_there() -> None:
    found = {file.relative_to(ROOT).parts[0] for file in repository_files()}

    assert found <= TOP_LEVEL


def test_no_file_names_a_place_on_a_machine_or_a_registry() -> None:
    faults = [
        f"{shown(file)}:{number}: {match.group()}"
        for file in repository_files()
        for number, line in enumerate(file.read_text("utf-8", "replace").splitlines(), start=1)
        for match in [*MACHINE_PATHS.finditer(line), *REGISTRIES.finditer(line)]
    ]

    assert not faults


def test_the_patterns_catch_what_they_are_for() -> None:
    assert MACHINE_PATHS.search("see /" + "home/someone/notes")
    assert MACHINE_PATHS.search("'/" + "work/main'")
    assert not MACHINE_PATHS.search("https://host.test/home/page")
    assert REGISTRIES.search("https://" + "pypi" + ".org/simple")


def test_every_file_ends_with_one_newline_and_holds_no_tab_it_does_not_need() -> None:
    faults = []
    for file in repository_files():
        if file.suffix in {".py", ".sql", ".yaml", ".toml", ".md"} and (text := file.read_text(encoding="utf-8")):
            if not text.endswith("\n") or text.endswith("\n\n"):
                faults.append(f"{shown(file)}: its end")
            if "\t" in text:
                faults.append(f"{shown(file)}: a tab")

    assert not faults
