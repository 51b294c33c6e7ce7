"""What is seen of Lentigo from outside: metrics, events, drift, traces, the self-test."""
