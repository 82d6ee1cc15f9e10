"""The management API (JSON): routes, authentication, problem documents."""
