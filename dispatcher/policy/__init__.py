"""Pure decisions: time and randomness are arguments, nothing is awaited, nothing is read from outside."""
