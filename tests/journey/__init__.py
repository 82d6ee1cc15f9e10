"""The whole process from outside: produce, receive, stop, kill, start again."""
