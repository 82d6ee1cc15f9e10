"""What a receiver of webhooks needs: checking that a request is ours and unchanged.

Standard library only, so that it can be installed, or copied, without the dispatcher.
"""

from dispatcher.receiver.verify import InvalidWebhook, verify

__all__ = ["InvalidWebhook", "verify"]
