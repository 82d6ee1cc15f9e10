"""Rules of this house that no linter knows, checked on the files themselves."""
