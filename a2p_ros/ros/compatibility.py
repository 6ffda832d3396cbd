"""What differs between Humble and Jazzy, and QoS mismatches said aloud."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSPolicyKind

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks


def subscription_events(node: Node, topic: str, told: Callable[[str], None]) -> Any:
    """Event callbacks of a subscription that tell when a publisher cannot be heard for its QoS."""

    def mismatch(event: Any) -> None:
        parameter = f"qos_overrides.{node.resolve_topic_name(topic)}.subscription.reliability"
        text = (
            f"a publisher of {topic} offers an incompatible QoS ({_policy(event)}), so nothing of it is received: "
            f"change its QoS or ours (parameter {parameter})"
        )
        node.get_logger().error(text)
        told(text)

    return SubscriptionEventCallbacks(incompatible_qos=mismatch)


def publisher_events(node: Node, topic: str) -> Any:
    """Event callbacks of a publisher that tell when a subscriber cannot hear it for its QoS."""

    def mismatch(event: Any) -> None:
        node.get_logger().error(
            f"a subscriber of {topic} requests an incompatible QoS ({_policy(event)}) and receives nothing; we offer "
            "reliable, volatile"
        )

    return PublisherEventCallbacks(incompatible_qos=mismatch)


def _policy(event: Any) -> str:
    return QoSPolicyKind(int(event.last_policy_kind)).name.lower()
