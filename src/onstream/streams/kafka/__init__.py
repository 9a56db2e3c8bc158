"""Kafka: topics as streams, and results written to topics."""

from onstream.streams.kafka.stream import Kafka
from onstream.streams.kafka.writer import KafkaWriter

__all__ = ["Kafka", "KafkaWriter"]
