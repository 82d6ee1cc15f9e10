"""Kafka record to accepted deliveries; positions follow acceptance. The only room that speaks Kafka."""
