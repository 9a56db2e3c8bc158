"""Kafka: topics as streams, and results written to topics."""

from onstream.streams.kafka.stream import Kafka

__all__ = ["Kafka"]
