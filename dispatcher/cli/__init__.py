"""The command line, one module per noun; reads settings, prints tables or JSON, returns exit codes."""
