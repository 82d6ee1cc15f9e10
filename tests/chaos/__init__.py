"""Fault injection: a world of several processes under load, ways to hurt it, and a checker of what came of it."""
