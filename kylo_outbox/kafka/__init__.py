"""The only door to Apache Kafka: client settings and security, topics, lag, and the guarded calls.

Functions here take plain values (`KafkaAddress`, names, records), never settings, and decide nothing about a flow.
Whatever librdkafka raises leaves this floor as an error of ours.
"""
