"""Asyncio and time tools that know nothing of webhooks.

A thing belongs here only if it could be used in any asyncio program: no domain word, no third-party
import, no settings.
"""
