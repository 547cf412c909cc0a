"""The only place that builds things: settings in, running processes out. Everything below takes plain values."""
