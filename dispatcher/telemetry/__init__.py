"""Log set-up, the metric catalogue, probe state and the port that serves them."""
