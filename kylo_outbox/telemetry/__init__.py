"""What the processes tell about themselves: every metric once, log set-up, redaction. No I/O beyond a log handler."""
