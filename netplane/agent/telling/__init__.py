"""What the agent tells of itself: health, status, metrics, messages, and where they are asked."""
